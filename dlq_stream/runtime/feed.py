"""Input of a partition on its way into turns: one feed for each of its source topics.

While one batch is being committed, which is mostly waiting for brokers, the next runs are taken in: they wait here,
and those that touch become one batch.  So the event loop always has a batch to stage, and the busier a partition is,
the fewer transactions it takes.  Where little comes in, batches keep a distance, and leave the brokers to the timers,
whose ticks take along what waits meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from dlq_stream.core.model import Record, size_of
from dlq_stream.core.transaction import Transaction
from dlq_stream.runtime.outcomes import Fatal, Missed, Share
from dlq_stream.runtime.partition import Partition
from dlq_stream.runtime.ports import Run

log = logging.getLogger(__name__)

Apply = Callable[[Transaction, Sequence[Record]], None]
"""What an agent does to a batch."""

Seek = Callable[[str, int, int], Awaitable[None]]
"""``seek(topic, partition, position)`` makes the consumer read on from elsewhere."""

BATCH_RECORDS_MAX = 4_000
"""Records of a batch, which otherwise is as large as `BatchLimits.bytes_max` allows.

A transaction costs the client 1.5 ms of processor time and the brokers 5 ms, whatever is in it (measured with three
changelog records and offsets, one broker), and four round trips.
"""

SMALL_PART = 8
"""A batch is small up to this part of the most bytes."""

STEP_RECORDS_MIN = 20
STEP_RECORDS_MAX = 2_000
"""Bounds of a step's size, which otherwise follows from how long a record takes (see `StepSize`)."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much input is held, and for how long at a time the event loop.

    ``bytes_max`` bounds the input of a batch, which is one transaction.  It is staged in steps of ``hold_ms_target``.
    ``held_bytes_max`` bounds what all feeds together hold (and one fetch more for each feed that held nothing).
    From the beginning of a small batch to that of the next are ``rest_seconds``: so long may a report wait for others
    to share a transaction with.  After a pause the first is taken in at once.
    """

    bytes_max: int = 4 << 20
    hold_ms_target: float = 10.0
    held_bytes_max: int = 32 << 20
    fetch_bytes_max: int = 16 << 20
    """What one fetch may bring of all partitions of a broker."""
    rest_seconds: float = 0.1


class Held:
    """How many bytes of input the feeds of a worker hold together."""

    def __init__(self) -> None:
        self.bytes = 0
        self._less = asyncio.Event()

    def take(self, size: int) -> None:
        """So much more."""
        self.bytes += size

    def release(self, size: int) -> None:
        """So much less; whoever waits for room looks again."""
        self.bytes -= size
        self.changed()

    def changed(self) -> None:
        """There may be room."""
        self._less.set()

    async def wait(self, seconds: float) -> None:
        """Until there may be room, or the time is over."""
        self._less.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._less.wait()


class StepSize:
    """How many records a step may have so that staging it holds the event loop for about the target.

    Measured in processor time: by the clock, a busy machine would make steps smaller, and these it busier still.
    """

    def __init__(self, hold_ms_target: float) -> None:
        self._target_seconds = hold_ms_target / 1000
        self._seconds_per_record = self._target_seconds / 500

    @property
    def records_max(self) -> int:
        """Records for the next step."""
        return int(min(STEP_RECORDS_MAX, max(STEP_RECORDS_MIN, self._target_seconds / self._seconds_per_record)))

    def measured(self, records: int, seconds: float) -> None:
        """Learn from a step, smoothly."""
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
        size: StepSize,
        held: Held,
        fatal: Fatal,
    ) -> None:
        self._partition = partition
        self._topic = topic
        self._apply = size.timed(apply)
        self._seek = seek
        self._limits = limits
        self._size = size
        self._fatal = fatal
        self._held = held
        self._waiting: list[Run] = []
        self._waiting_bytes = 0
        self._staged_bytes = 0
        self._work: asyncio.Task[None] | None = None
        self._rested = asyncio.Event()
        self._rests_until = -math.inf
        self._resting = False
        partition.inputs.append(self)

    @property
    def full(self) -> bool:
        """Whether nothing more should be fetched for it: its next batch is complete, or there is too much in all."""
        if self._waiting_bytes >= self._limits.bytes_max:
            return True
        return self._held.bytes >= self._limits.held_bytes_max and self._waiting_bytes + self._staged_bytes > 0

    def put(self, run: Run) -> None:
        """Take in a run."""
        self._waiting.append(run)
        self._waiting_bytes += run.size
        self._held.take(run.size)
        if self._enough:
            self._rested.set()
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._process(), name=f"{self._topic}-{self._partition.number}")

    @property
    def _enough(self) -> bool:
        """Whether what waits is no small batch."""
        return self._waiting_bytes > self._limits.bytes_max // SMALL_PART

    async def _rest(self) -> None:
        """Until it is time for another small batch, or enough waits for a larger one; ticks may take some meanwhile."""
        loop = asyncio.get_running_loop()
        self._resting = True
        while not self._enough and loop.time() < self._rests_until:
            self._rested.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._rests_until):
                    await self._rested.wait()
        self._resting = False
        if self._waiting:  # else the distance is from what ticks took
            self._rests_until = loop.time() + self._limits.rest_seconds

    def share(self, expected: Mapping[str, int]) -> Share | None:
        """What waits while this rests, which a tick takes along; see `Input.share`."""
        if not (self._resting and self._waiting) or self._enough:
            return None
        run, *others = joined(self._waiting)
        if others or run.start != expected.get(self._topic) or len(run.records) > self._size.records_max:
            return None  # not as simple as that: a turn of its own
        self._waiting, self._waiting_bytes = [], 0
        self._rests_until = asyncio.get_running_loop().time() + self._limits.rest_seconds
        return Share(self._topic, run, self._apply, over=partial(self._held.release, run.size))

    async def _process(self) -> None:
        try:
            while self._waiting:
                await self._rest()
                runs = self._take()
                for run in joined(runs):
                    if not await self._consume(run):
                        break
                self._held.release(self._staged_bytes)
                self._staged_bytes = 0
        except Exception as error:
            self._fatal(f"input {self._topic} of partition {self._partition.number}", error)

    def _take(self) -> list[Run]:
        """As many runs as make one batch, so that its records need not be counted; one at least."""
        count = 0
        while count < len(self._waiting):
            size = self._waiting[count].size
            if count and self._staged_bytes + size > self._limits.bytes_max:
                break
            self._staged_bytes += size
            count += 1
        runs, self._waiting = self._waiting[:count], self._waiting[count:]
        self._waiting_bytes -= self._staged_bytes
        self._held.changed()
        return runs

    async def _consume(self, run: Run) -> bool:
        """Process a run batch by batch; False where something is missing before it, which is asked for."""
        for batch in batches(run, self._limits.bytes_max, BATCH_RECORDS_MAX):
            result = await self._partition.consume(self._topic, batch, self._apply, step=self._size.records_max)
            if isinstance(result, Missed):
                self._held.release(self._waiting_bytes)
                self._waiting, self._waiting_bytes = [], 0  # is beyond what is missing, and comes again
                log.info("%s-%d: reading again from %d", self._topic, self._partition.number, result.position)
                await self._seek(self._topic, self._partition.number, result.position)
                return False
        return True


def joined(runs: Iterable[Run]) -> Iterator[Run]:
    """Runs that touch as one."""
    touching: list[Run] = []
    for run in runs:
        if touching and touching[-1].stop != run.start:
            yield _one(touching)
            touching = []
        touching.append(run)
    if touching:
        yield _one(touching)


def _one(runs: Sequence[Run]) -> Run:
    if len(runs) == 1:
        return runs[0]
    records = [record for run in runs for record in run.records]  # once: there may be thousands of runs of one record
    return Run(runs[0].start, runs[-1].stop, records, sum(run.size for run in runs))


def batches(run: Run, bytes_max: int, records_max: int) -> Iterator[Run]:
    """Cut a run to the limits (one record fits whatever its size); the pieces touch, the last reaches the run's end.

    They are about equal: a small last one would cost as much as a large one.
    """
    records = run.records
    pieces = max(1, -(-len(records) // records_max))
    records_max = max(1, -(-len(records) // pieces))
    if run.size <= bytes_max and pieces == 1:
        yield run
        return
    start, first, size = run.start, 0, 0
    for position, record in enumerate(records):
        bytes_here = size_of(record)
        if position > first and (size + bytes_here > bytes_max or position - first >= records_max):
            yield Run(start, record.offset, records[first:position], size)
            start, first, size = record.offset, position, 0
        size += bytes_here
    yield Run(start, run.stop, records[first:] if first else records, size)
