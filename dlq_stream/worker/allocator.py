"""From how many arenas glibc's malloc gives out memory.

By itself it makes one for almost every thread, up to eight a core, and none gives back what is free in its middle.  A
worker has threads for the consumer, for compression and for RocksDB: each would keep what its largest batch took, 20 to
70 MiB in all on two cores and more on more.  Two are enough, for most of these threads hold the interpreter's lock
while they allocate.

Returning memory sooner (``M_MMAP_THRESHOLD``, ``M_TRIM_THRESHOLD``, ``malloc_trim``) was tried and left out: buffers
that are new with each batch cost a page fault for every 4 KiB, a tenth of intake's processor time, and what a batch
needs the next one needs again.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping

ARENAS_MAX = 2
"""Arenas of a worker; beyond it threads share."""

_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""


def bound_arenas(environment: Mapping[str, str] = os.environ) -> bool:
    """Keep this process to `ARENAS_MAX` arenas; before threads are started, for an arena is never given up.

    Returns whether that was done: not where the C library is another than glibc, nor where the environment says how
    many there may be.
    """
    tuned = "MALLOC_ARENA_MAX" in environment or "glibc.malloc.arena_max" in environment.get("GLIBC_TUNABLES", "")
    if tuned or sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl has one heap for all threads, and no mallopt
        return False
    return bool(libc.mallopt(_M_ARENA_MAX, ARENAS_MAX))
