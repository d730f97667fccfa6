"""Crash-only: what is unexpected ends the process, and the next start puts everything right (Candea and Fox, 2003)."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

log = logging.getLogger(__name__)

EXIT_TOLD = 0
"""Exit code of a worker that was told to stop."""

EXIT_CONFIGURATION = 2
"""Exit code where a setting, a topic or a format does not fit; starting again does not help."""

EXIT_CRASH_ONLY = 70
"""Exit code after something unexpected (``EX_SOFTWARE`` of sysexits.h); a supervisor should restart the worker."""


def crash(where: str, error: BaseException) -> NoReturn:
    """Log what happened and end the process with code 70, without clean-up that could act on a state in doubt."""
    log.critical("%s: %r; this process ends with code %d", where, error, EXIT_CRASH_ONLY, exc_info=error)
    _end(EXIT_CRASH_ONLY)


def give_up(seconds: float) -> NoReturn:
    """End the process, which was told to stop ``seconds`` ago, with code 0."""
    log.warning(
        "told to stop %g s ago and not done, do the brokers answer? This process ends now; "
        "what it had not committed is void, and the next start goes on from there",
        seconds,
    )
    _end(EXIT_TOLD)


def refuse(error: BaseException) -> NoReturn:
    """Say why this worker must not run, and end the process with code 2."""
    log.critical("%s", error)
    _end(EXIT_CONFIGURATION)


def _end(code: int) -> NoReturn:
    for handler in logging.getLogger().handlers:
        handler.flush()
    sys.stderr.flush()
    os._exit(code)
