"""Crash-only: what is unexpected ends the process, and the next start puts everything right (Candea and Fox, 2003).

A process that was told to stop and does not hear what became of its last commit is no crash: it wants to end, and the
next start finds out.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Final, NoReturn, TypeAlias

from dlq_stream.core.errors import DLQError
from dlq_stream.runtime.ports import OutcomeUnknown

log = logging.getLogger(__name__)

Refuse: TypeAlias = Callable[[DLQError], NoReturn]
"""Ends a process that must not run, given why; see `refuse`."""

EXIT_TOLD = 0
"""Exit code of a worker that was told to stop."""

EXIT_FAILED = 1
"""Exit code of Faust's own command where anything does not fit; `EXIT_CONFIGURATION` is ours."""

EXIT_CONFIGURATION = 2
"""Exit code where a setting, a topic or a format does not fit; starting again does not help."""

EXIT_CRASH_ONLY = 70
"""Exit code after something unexpected (``EX_SOFTWARE`` of sysexits.h); a supervisor should restart the worker."""


_told_to_stop: Final = threading.Event()


def told_to_stop() -> None:
    """Remember that this process was asked to end."""
    _told_to_stop.set()


def crash(where: str, error: BaseException) -> NoReturn:
    """Log what happened and end the process with code 70, without clean-up that could act on a state in doubt."""
    if _told_to_stop.is_set() and isinstance(error, OutcomeUnknown):
        log.warning("%s: %s; told to stop, this process ends now, and the next start finds out", where, error)
        _end(EXIT_TOLD)
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


def refuse(error: DLQError, code: int = EXIT_CONFIGURATION) -> NoReturn:
    """Say why this worker must not run, and end the process with ``code``."""
    log.critical("%s", error)
    _end(code)


def _end(code: int) -> NoReturn:
    for handler in logging.getLogger().handlers:
        handler.flush()
    sys.stderr.flush()
    os._exit(code)
