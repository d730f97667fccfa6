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
WORKED_PART = 0.4
IDLE_PART = 0.2
"""Parts of an interval between two looks: more processor time is work, after which less is the end of it."""

GIVE_BACK_SECONDS_MIN = 10.0
"""From once to the next time, so that bursts which come and go cost little: giving back 100 MiB and taking them again
is 0.1 s of processor time at most."""

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


async def give_back_after_work() -> None:
    """Give free memory back whenever a time of work is over, until cancelled; ends at once where there is no glibc."""
    libc = _glibc()
    if libc is not None:
        await after_work(lambda: asyncio.to_thread(libc.malloc_trim, 0))


async def after_work(act: Callable[[], Awaitable[object]], used: Callable[[], float] = time.process_time) -> None:
    """Await ``act`` whenever a time of work is over, as ``used`` processor seconds tell; until cancelled."""
    loop = asyncio.get_running_loop()
    worked, not_before, before = False, loop.time(), used()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = used()
        part, before = (now - before) / LOOK_SECONDS, now
        if part > WORKED_PART:
            worked = True
        elif worked and part < IDLE_PART and loop.time() >= not_before:
            await act()
            worked, not_before, before = False, loop.time() + GIVE_BACK_SECONDS_MIN, used()


def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc: musl has one heap, and neither ``mallopt`` nor ``malloc_trim``."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
