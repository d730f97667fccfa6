"""How much memory glibc's malloc keeps: few arenas, and nothing of what the last burst took once it is over.

By itself it makes an arena for almost every thread, up to eight a core.  A worker has threads for the consumer, for
compression and for RocksDB: each would keep what its largest batch took, 20 to 70 MiB in all on two cores and more on
more.  Two are enough, for most of these threads hold the interpreter's lock while they allocate.

What batches took is free when they are done, but not the system's: RocksDB's blocks and memtables lie between.  So it
is given back when there is nothing more to do: in the middle of the work the next batch would need it again, and every
4 KiB cost a page fault.  (With a lower ``M_MMAP_THRESHOLD`` each batch's buffers would be given back at once: measured
2.5 faults a message, an eighth of intake's processor time.)
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping

ARENAS_MAX = 2
"""Arenas of a worker; beyond it threads share."""

LOOK_SECONDS = 1.0
IDLE_PART = 0.2
"""Part of the event loop's processor time between two looks, less than which is no work."""

WORK_SECONDS_MIN = 2.0
"""Processor seconds of the event loop from once to the next time.

Giving 100 MiB back and taking them again costs 0.1 s at most: 0.01 s, and a page fault for every 4 KiB, which take 3 µs
on a virtual machine and less elsewhere.
"""

_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""


def bound_arenas(environment: Mapping[str, str] = os.environ) -> bool:
    """Keep this process to `ARENAS_MAX` arenas; before threads are started, for an arena is never given up.

    Returns whether that was done: not where the C library is another than glibc, nor where the environment says how
    many there may be.
    """
    tuned = "MALLOC_ARENA_MAX" in environment or "glibc.malloc.arena_max" in environment.get("GLIBC_TUNABLES", "")
    libc = _glibc()
    return not tuned and libc is not None and bool(libc.mallopt(_M_ARENA_MAX, ARENAS_MAX))


async def give_back_after_work(nothing_waits: Callable[[], bool]) -> None:
    """Give free memory back whenever work is over, until cancelled; ends at once where there is no glibc."""
    libc = _glibc()
    if libc is not None:
        await after_work(lambda: asyncio.to_thread(libc.malloc_trim, 0), nothing_waits)


async def after_work(
    act: Callable[[], Awaitable[object]],
    nothing_waits: Callable[[], bool],
    used: Callable[[], float] = time.thread_time,
) -> None:
    """Await ``act`` whenever work is over, as ``used`` processor seconds and empty buffers tell; until cancelled.

    A worker that waits for its brokers, or for a processor, uses little, too.  The first time is after the start.
    """
    worked_from = -WORK_SECONDS_MIN
    before = used()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = used()
        idle = now - before < IDLE_PART * LOOK_SECONDS and nothing_waits()
        before = now
        if idle and now - worked_from >= WORK_SECONDS_MIN:
            await act()
            worked_from = used()


def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc: musl has one heap, and neither ``mallopt`` nor ``malloc_trim``."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
