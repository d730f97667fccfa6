"""The partitions this worker has, from assignment to revocation, and their timers.

Opening is serial: a rebalance may begin while the former one is still restoring, and what that one opened has to be
released first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dlq_stream.core.model import Record
from dlq_stream.core.transaction import Transaction
from dlq_stream.runtime.partition import Fatal, Missed, Partition
from dlq_stream.runtime.ports import Destinations, Run
from dlq_stream.runtime.timers import PartitionTimer, TimerSpec

log = logging.getLogger(__name__)

Apply = Callable[[Transaction, Sequence[Record]], None]

BATCH_RECORDS_MIN = 20
BATCH_RECORDS_MAX = 2_000
"""Bounds of a batch's size, which otherwise follows from how long a record takes (see `BatchSize`)."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """A batch is one transaction: ``bytes_max`` bounds its input, ``hold_ms_target`` how long it holds the loop."""

    bytes_max: int = 4 << 20
    hold_ms_target: float = 20.0


class BatchSize:
    """How many records a batch may have so that staging it holds the event loop for about the target.

    Measured in processor time: by the clock, a busy machine would make batches smaller, and these it busier still.
    """

    def __init__(self, hold_ms_target: float) -> None:
        self._target_seconds = hold_ms_target / 1000
        self._seconds_per_record = self._target_seconds / 500

    @property
    def records_max(self) -> int:
        """Records for the next batch."""
        return int(min(BATCH_RECORDS_MAX, max(BATCH_RECORDS_MIN, self._target_seconds / self._seconds_per_record)))

    def measured(self, records: int, seconds: float) -> None:
        """Learn from a batch, smoothly."""
        self._seconds_per_record += 0.2 * (max(seconds / records, 1e-6) - self._seconds_per_record)


@dataclass(frozen=True, slots=True)
class Poll:
    """One item of an agent's stream: what one fetch brought of one topic, by partition."""

    topic: str
    runs: Mapping[int, Run]


class Owner:
    """Opens, feeds and closes partitions.

    ``new_partition(number, generation)`` makes one, ``seek(topic, partition, position)`` makes the consumer read on
    from elsewhere.
    """

    def __init__(
        self,
        *,
        new_partition: Callable[[int, int], Partition],
        seek: Callable[[str, int, int], Awaitable[None]],
        destinations: Destinations,
        limits: BatchLimits,
        fatal: Fatal,
    ) -> None:
        self.partitions: dict[int, Partition] = {}
        self.timers: list[TimerSpec] = []
        self._new_partition = new_partition
        self._seek = seek
        self._destinations = destinations
        self._limits = limits
        self._fatal = fatal
        self._size = BatchSize(limits.hold_ms_target)
        self._opened: dict[int, Partition] = {}
        self._timer_tasks: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()

    # --- assignment ---------------------------------------------------------------------------------------------

    async def open(self, numbers: Collection[int], generation: int) -> None:
        """Release what was owned, then fence and restore these partitions; nothing is processed before `ready`."""
        async with self._changing:
            await self._close()
            began = time.monotonic()
            try:
                for number in sorted(numbers):
                    self._opened[number] = self._new_partition(number, generation)
                rows = await asyncio.gather(*(partition.open() for partition in self._opened.values()))
            except BaseException:  # another rebalance cancels us, or something is wrong: let go of what is half open
                await asyncio.shield(self._close())
                raise
            log.info(
                "opened partitions %s in %.2f s, %d rows restored", sorted(numbers), time.monotonic() - began, sum(rows)
            )

    def ready(self, positions: Mapping[tuple[str, int], int]) -> None:
        """The consumer was seeked to these committed positions by (topic, partition): start."""
        self.partitions, self._opened = self._opened, {}
        for (topic, number), position in positions.items():
            if number in self.partitions:
                self.partitions[number].expected[topic] = position
        for partition in self.partitions.values():
            for spec in self.timers:
                timer = PartitionTimer(spec, partition, self._destinations, self._fatal)
                partition.watchers.append(timer)
                task = asyncio.create_task(timer.run(), name=f"{spec.name}-{partition.number}")
                self._timer_tasks.add(task)
                task.add_done_callback(self._timer_tasks.discard)

    async def close(self) -> None:
        """Finish running turns and release every partition; at rebalances and at the end."""
        async with self._changing:
            await self._close()

    async def _close(self) -> None:
        partitions = [*self.partitions.values(), *self._opened.values()]
        self.partitions, self._opened = {}, {}
        await asyncio.gather(*(partition.close() for partition in partitions))
        for task in list(self._timer_tasks):
            task.cancel()
        await asyncio.gather(*self._timer_tasks, return_exceptions=True)

    # --- input --------------------------------------------------------------------------------------------------

    async def consume(self, poll: Poll, apply: Apply) -> None:
        """Process one poll, its partitions side by side, each in batches within the limits."""
        await asyncio.gather(*(self._consume(poll.topic, number, run, apply) for number, run in poll.runs.items()))

    async def _consume(self, topic: str, number: int, run: Run, apply: Apply) -> None:
        partition = self.partitions.get(number)
        if partition is None:
            return
        for batch in self._batches(run):
            result = await partition.consume(topic, batch, self._timed(apply))
            if isinstance(result, Missed):
                log.info("%s-%d: reading again from %d", topic, number, result.position)
                await self._seek(topic, number, result.position)
                return

    def _timed(self, apply: Apply) -> Apply:
        def timed(tx: Transaction, records: Sequence[Record]) -> None:
            began = time.thread_time()
            apply(tx, records)
            if records:
                self._size.measured(len(records), time.thread_time() - began)

        return timed

    def _batches(self, run: Run) -> Iterator[Run]:
        """Cut a run; the pieces touch, and the last one reaches the run's end."""
        records = run.records
        start, first, size, count_max = run.start, 0, 0, self._size.records_max
        for position, record in enumerate(records):
            size += _size_of(record)
            if position > first and (size > self._limits.bytes_max or position - first >= count_max):
                yield Run(start, record.offset, records[first:position])
                start, first, size, count_max = record.offset, position, _size_of(record), self._size.records_max
        yield Run(start, run.stop, records[first:] if first else records)


def _size_of(record: Record) -> int:
    return len(record.value or b"") + sum(len(value or b"") for _, value in record.headers) + 100
