"""What is checked before a worker joins its group: versions, the data directory, brokers, topics.

Faust would only log a missing topic and go on.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from pathlib import Path
from typing import IO

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.runtime import versions
from dlq_stream.settings import Settings
from dlq_stream.topics import Verified, verify

log = logging.getLogger(__name__)

_held: dict[Path, IO[str]] = {}


async def prepare(settings: Settings) -> Verified:
    """Raises `ConfigurationError` or `BrokersUnavailable`; nothing was joined or written by then."""
    for difference in versions.check(allow_untested=settings.untested_versions):
        log.warning("running on a version that this package was not tested with: %s", difference)
    hold_directory(settings.data_dir)
    verified = await verify(settings)
    for warning in verified.warnings:
        log.warning("%s", warning)
    return verified


def hold_directory(directory: Path) -> None:
    """Create the data directory and lock it until the process ends; one worker per directory."""
    path = directory / "lock"
    if path in _held:
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"data_dir {str(directory)!r} cannot be used: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise ConfigurationError(
            f"data_dir {str(directory)!r} is in use by {holder}: give each worker a directory of its own"
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    _held[path] = file
