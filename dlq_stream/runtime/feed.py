"""Input of a partition on its way into turns: one feed for each of its source topics.

While one batch is being committed, which is mostly waiting for brokers, the next runs are taken in: they wait here,
and those that touch become one batch.  So the event loop always has a batch to stage, and the busier a partition is,
the fewer transactions it takes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from dlq_stream.core.model import Record
from dlq_stream.core.transaction import Transaction
from dlq_stream.runtime.outcomes import Fatal, Missed
from dlq_stream.runtime.partition import Partition
from dlq_stream.runtime.ports import Run

log = logging.getLogger(__name__)

Apply = Callable[[Transaction, Sequence[Record]], None]
"""What an agent does to a batch."""

Seek = Callable[[str, int, int], Awaitable[None]]
"""``seek(topic, partition, position)`` makes the consumer read on from elsewhere."""

RUNS_WAITING_MAX = 2
"""Runs that may wait in a feed while others are processed; whoever brings more waits, too.

A transaction costs the client 1.5 ms of processor time and the brokers 5 ms, whatever is in it (measured with three
changelog records and offsets, one broker), so batches should be as large as `BatchLimits` allow.
"""

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

    def timed(self, apply: Apply) -> Apply:
        """The same, measured."""

        def timed(tx: Transaction, records: Sequence[Record]) -> None:
            began = time.thread_time()
            apply(tx, records)
            if records:
                self.measured(len(records), time.thread_time() - began)

        return timed


class Feed:
    """The runs of one source topic for one owned partition, in order.  It ends with the partition."""

    def __init__(
        self,
        partition: Partition,
        topic: str,
        apply: Apply,
        *,
        seek: Seek,
        limits: BatchLimits,
        size: BatchSize,
        fatal: Fatal,
    ) -> None:
        self._partition = partition
        self._topic = topic
        self._apply = size.timed(apply)
        self._seek = seek
        self._limits = limits
        self._size = size
        self._fatal = fatal
        self._waiting: list[Run] = []
        self._taken = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    async def put(self, run: Run) -> None:
        """Take in a run; returns once there is room for the next."""
        self._waiting.append(run)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._process(), name=f"{self._topic}-{self._partition.number}")
        while len(self._waiting) > RUNS_WAITING_MAX:
            self._taken.clear()
            await self._taken.wait()

    async def _process(self) -> None:
        try:
            while self._waiting:
                runs, self._waiting = self._waiting, []
                self._taken.set()
                for run in joined(runs):
                    if not await self._consume(run):
                        break
        except Exception as error:
            self._fatal(f"input {self._topic} of partition {self._partition.number}", error)

    async def _consume(self, run: Run) -> bool:
        """Process a run batch by batch; False where something is missing before it, which is asked for."""
        for batch in batches(run, self._limits.bytes_max, self._size.records_max):
            result = await self._partition.consume(self._topic, batch, self._apply)
            if isinstance(result, Missed):
                self._waiting.clear()  # is beyond what is missing, and comes again
                self._taken.set()
                log.info("%s-%d: reading again from %d", self._topic, self._partition.number, result.position)
                await self._seek(self._topic, self._partition.number, result.position)
                return False
        return True


def joined(runs: Iterable[Run]) -> Iterator[Run]:
    """Runs that touch as one."""
    whole: Run | None = None
    for run in runs:
        if whole is not None and whole.stop == run.start:
            whole = Run(whole.start, run.stop, [*whole.records, *run.records])
        else:
            if whole is not None:
                yield whole
            whole = run
    if whole is not None:
        yield whole


def batches(run: Run, bytes_max: int, records_max: int) -> Iterator[Run]:
    """Cut a run to the limits (one record fits whatever its size); the pieces touch, the last reaches the run's end.

    They are about equal: a small last one would cost as much as a large one.
    """
    records = run.records
    pieces = max(1, -(-len(records) // records_max))
    records_max = max(1, -(-len(records) // pieces))
    start, first, size = run.start, 0, 0
    for position, record in enumerate(records):
        bytes_here = size_of(record)
        size += bytes_here
        if position > first and (size > bytes_max or position - first >= records_max):
            yield Run(start, record.offset, records[first:position])
            start, first, size = record.offset, position, bytes_here
    yield Run(start, run.stop, records[first:] if first else records)


def size_of(record: Record) -> int:
    """About how many bytes a record takes."""
    size = len(record.value or b"") + 100
    for _, value in record.headers:
        if value:
            size += len(value)
    return size
