"""What a partition holds does not grow with the messages that it has in its care: they are on disk."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from dlq_stream.core.classification import Classifier
from dlq_stream.engine import apply_failures, emit_due
from dlq_stream.runtime.outcomes import Identification
from dlq_stream.runtime.partition import Partition
from dlq_stream.runtime.ports import Batch, Run, Written
from dlq_stream.runtime.rocks import RocksStore
from tests.benchmarks.records import VALUE_BYTES, small_events
from tests.engine.world import TOPIC, World
from tests.memory import FakeRecord
from tests.runtime.fakes import INPUT, Changelog, Clock, Destinations, Producer, fatal, in_virtual_time

BATCH = 200
ROUNDS = 10


class Sink(Producer):
    """Forgets what was committed."""

    async def write(self, batches: Sequence[Batch], offsets: Mapping[str, int]) -> Written:
        written = await super().write(batches, offsets)
        self.written.clear()
        return written

    async def commit(self) -> None:
        await super().commit()
        self.committed.clear()


@in_virtual_time
async def test_memory_does_not_grow_with_messages(tmp_path: Path) -> None:
    """Taken in, and emitted a while later; and what a turn needed is gone with it, not with the garbage collector."""
    classifier = Classifier()
    engine = replace(World().engine, classifier_for=lambda policy: classifier, observe=lambda event: None)
    clock = Clock()
    store = RocksStore(tmp_path / "p0")
    partition = Partition(
        Identification(0, 1, 1, "app"),
        producer=Sink(),
        store=store,
        changelog=Changelog(),
        destinations=Destinations(),
        clock=clock,
        row_bytes_max=100_000,
        still_ours=lambda: True,
        fatal=fatal,
    )
    events = small_events(10_000, seed=3, source=TOPIC)
    take_in = partial(apply_failures, engine=engine)
    emit = partial(emit_due, engine=engine, records_max=BATCH, bytes_max=BATCH * 2 * VALUE_BYTES)

    async def rounds(first: int, count: int) -> None:
        for number in range(first, first + count):
            records = [
                FakeRecord(INPUT, key=key, value=value, headers=tuple(headers))
                for key, value, headers in itertools.islice(events, BATCH)
            ]
            await partition.consume(INPUT, Run(number, number + 1, records), take_in, step=BATCH // 2)
            clock.base_ms += 20_000
            await partition.run(emit)

    await rounds(0, 6)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        await rounds(6, 1)
        before, _ = tracemalloc.get_traced_memory()
        await rounds(7, ROUNDS)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    await partition.close()
    assert after - before < BATCH * VALUE_BYTES / 2
