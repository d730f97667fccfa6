"""When Python looks for cycles of garbage: on a schedule of its own, not whenever records come in.

By itself it looks whenever many objects have come to be, which is while a large fetch is taken in, and through all of
them each time: pauses of 20 to 120 ms and a twentieth of the processor time of intake.  Records are tuples of tuples,
none is part of a cycle, and all go when their reference count says so.  What does leave cycles behind (exceptions with
their frames, tasks) is little, and can wait a few seconds.
"""

from __future__ import annotations

import asyncio
import gc

COLLECT_SECONDS = 10.0
"""From one look to the next: it takes as long as a tenth of a microsecond for each object of the input that is held."""

COLLECTED_AFTER_OBJECTS = 1_000_000
"""So many more objects than at the last look are not waited for: `buffer_bytes_max` of input in records of 1 kB is
less."""


def spare_the_collector() -> None:
    """Leave what exists by now out of garbage collection for good, and the rest to `collect_now_and_then`."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_AFTER_OBJECTS, 10, 10)


async def collect_now_and_then() -> None:
    """Look through everything that came to be since `spare_the_collector`, again and again, until cancelled."""
    while True:
        await asyncio.sleep(COLLECT_SECONDS)
        gc.collect()
