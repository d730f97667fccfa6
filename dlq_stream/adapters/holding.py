"""What an adapter does with a report that is not acknowledged: it holds on to it, and so to the offset behind it.

Giving up would be worse, whatever is wrong: a framework that is told so commits the offset all the same, or hands out
the record again, which ends here again.  Whoever stops the process ends the wait; nothing was committed then, and the
record comes again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import TypeVar

FIRST_WAIT_SECONDS = 0.5
"""Between the first tries; it doubles from try to try."""
WAIT_SECONDS_MAX = 30.0
"""Between later tries, and between two lines of log."""

ResultT = TypeVar("ResultT")

log = logging.getLogger(__name__)


def is_failure(error: BaseException) -> bool:
    """Whether a handler failed with ``error``: not where its task is being cancelled, and not where all is to end.

    A cancellation that nobody asked this task for comes from within the handler, and is a failure like others.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    return isinstance(error, Exception)


class Stopped(Exception):
    """The process is to end, and the report is not acknowledged; nothing may be committed."""


async def until_acknowledged(
    attempt: Callable[[], Awaitable[ResultT]], stopping: Callable[[], Awaitable[object]] | None = None
) -> ResultT:
    """The result of the first ``attempt`` that does not fail.

    What has failed is said in the log each time, with its fix.  Only a cancellation ends the wait before, or that
    ``stopping`` returns: then `Stopped` is raised, after the attempt that is being made.
    """
    for wait_seconds in waits():
        try:
            return await attempt()
        except Exception as error:
            complain(error, wait_seconds)
        await _wait(wait_seconds, stopping)
    raise AssertionError("there is always another wait")


async def _wait(seconds: float, stopping: Callable[[], Awaitable[object]] | None) -> None:
    if stopping is None:
        await asyncio.sleep(seconds)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping()
            raise Stopped


def waits() -> Iterator[float]:
    """0.5, 1, 2 ... 30, 30, 30 seconds without end."""
    wait_seconds = FIRST_WAIT_SECONDS
    while True:
        yield wait_seconds
        wait_seconds = min(2 * wait_seconds, WAIT_SECONDS_MAX)


def complain(error: BaseException, wait_seconds: float) -> None:
    """Say that a report is not acknowledged and what is done about it."""
    log.error(
        "a report is not acknowledged, so nothing is committed; next try in %g s: %s: %s",
        wait_seconds,
        type(error).__name__,
        error,
    )
