"""What becomes of the records of a consumer: handled in order of their keys, results handed over, offsets finished.

It knows no Kafka client.  Whoever reads the partitions says which are ours (`assign`, `let_go`, `lose`), feeds records
(`feed`), and asks what may be committed (`committable`).  A record is finished when its handler returned and, where
that has to be said, when the brokers have acknowledged it: the failure, or the outcome of a retry.

While a result cannot be acknowledged, its partition is held: nothing more of it is started, and what it may commit does
not pass the record.  The others go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from aiokafka import TopicPartition

from dlq_stream.client.delivery import Delivery, delivery_of, own_headers
from dlq_stream.client.hands import Handler, hands_for
from dlq_stream.client.place import Job, Place
from dlq_stream.client.traffic import Count, TrafficMeter
from dlq_stream.core import header_values as read
from dlq_stream.core import headers as names
from dlq_stream.core.errors import DLQError, MalformedEvent
from dlq_stream.core.model import Headers, Record

SPAN = 8
"""A partition goes on beyond its oldest unfinished record by so many times what it may have unfinished."""

REPORT_SECONDS_MAX = 5.0
"""At the end, so long results may take to be acknowledged once no handler runs any more."""

RETRY_SECONDS = 0.5
RETRY_SECONDS_MAX = 30.0
"""The first and the longest pause before a result that was not acknowledged is handed over again."""

log = logging.getLogger(__name__)


class Reporter(Protocol):
    """Whoever hands results over; see `dlq_stream.client.FailureReporter`."""

    async def report(self, record: Record, error: BaseException, *, queue: str | None = None) -> str:
        """Hand a failure over."""
        ...

    async def succeeded(self, record: Record) -> None:
        """Hand the outcome of a retry over."""
        ...


class Work:
    """See the module.  ``failure`` is set to what nobody can go on after."""

    def __init__(
        self,
        handler: Handler,
        reporter: Reporter,
        meter: TrafficMeter,
        *,
        group: str,
        queue: str | None,
        concurrency: int,
        records_max: int,
        bytes_max: int,
    ) -> None:
        self._reporter = reporter
        self._meter = meter
        self._group = group
        self._queue = queue
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._places: dict[TopicPartition, Place] = {}
        self._settling: dict[asyncio.Task[None], Job] = {}
        self._room = asyncio.Event()
        self._calm = asyncio.Event()
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hands = hands_for(handler, concurrency, self._ended, self._fail)

    # --- which partitions are ours ----------------------------------------------------------------------------------

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """These are ours from now on."""
        for partition in partitions:
            self._place(partition).begin()

    async def let_go(self, partitions: Collection[TopicPartition], seconds: float) -> None:
        """Start nothing more of these, and wait up to ``seconds`` for what runs, until its results are acknowledged."""
        places = [self._place(partition) for partition in partitions]
        self._withdraw(places)
        await self._until(lambda: not any(place.running for place in places), seconds)

    def lose(self, partitions: Iterable[TopicPartition]) -> None:
        """These are ours no longer; what still runs of them does not count, unless they come back."""
        for partition in partitions:
            place = self._place(partition)
            if place.running:
                log.warning("%s was taken away while %d records were at work", place.name, len(place.running))
            place.end()

    def ours(self) -> list[TopicPartition]:
        """The partitions that are ours."""
        return [partition for partition, place in self._places.items() if place.ours]

    def _place(self, partition: TopicPartition) -> Place:
        place = self._places.get(partition)
        if place is None:
            count = self._meter.of(self._queue or partition.topic)
            place = self._places[partition] = Place(f"{partition.topic}-{partition.partition}", count)
        return place

    def _withdraw(self, places: Collection[Place]) -> None:
        """Take back what is not begun of these."""
        for place in places:
            place.lanes.forget_waiting()
        for job in self._hands.take_back():
            if job.place in places:
                job.place.forget(job)
                job.place.lanes.leave(job.record.key)
            else:
                self._hands.put(job)
        for place in places:
            for job in place.parked:
                place.lanes.leave(job.record.key)
            place.parked.clear()

    # --- what comes in ----------------------------------------------------------------------------------------------

    def feed(self, partition: TopicPartition, records: Sequence[Any], position: int) -> None:
        """Take in what was read of a partition; ``position`` is where its reading goes on."""
        place = self._place(partition)
        if not place.ours:  # its assignment has not been told yet
            place.begin()
        elif records and place.progress.position is not None and records[0].offset < place.progress.position:
            log.warning("%s goes on at %d, before %d", place.name, records[0].offset, place.progress.position)
            place.begin()
        progress, lanes, count = place.progress, place.lanes, place.count
        known_before = bool(place.left or place.done)
        for record in records:
            delivery = delivery_of(record, self._group) if record.headers else None
            if delivery is not None and delivery.for_another_group:
                continue
            if known_before and self._knows(place, record):
                continue
            progress.begin(record.offset)
            key = record.key
            size = len(record.value or b"") + len(key or b"") + (_size_of(record.headers) if record.headers else 0)
            place.bytes_unfinished += size
            counted = count if delivery is None else self._count_of(record, delivery, count)
            job = Job(place, record, delivery, counted, progress, size)
            if lanes.enter(key, job):
                self._start(job)
        progress.position = position
        if known_before:
            place.outdate(position)
        if self._is_full(place):
            place.full = True

    def _knows(self, place: Place, record: Record) -> bool:
        """Whether the record was finished in an earlier assignment, or is still at work: it is not started again."""
        progress = place.progress
        if place.is_done(record):
            progress.begin(record.offset)
            progress.finish(record.offset, record.timestamp)
            return True
        job = place.adopt(record)
        if job is None:
            return False
        progress.begin(record.offset)
        place.bytes_unfinished += job.size
        if job.result is not None:
            result, job.result = job.result, None
            self._conclude(job, *result)
        return True

    def reached(self, partition: TopicPartition, position: int) -> None:
        """Reading of a partition goes on at ``position``: what lies before it was fed, or is nothing to be handled."""
        progress = self._place(partition).progress
        if progress.position is None or position > progress.position:  # else `feed` will see that the log goes back
            progress.position = position

    def committable(self, partition: TopicPartition) -> int | None:
        """The offset to commit of a partition; None where it is not ours, or nothing is known."""
        place = self._place(partition)
        return place.progress.committable() if place.ours else None

    def has_room(self, partition: TopicPartition) -> bool:
        """Whether more of this partition may be fed."""
        place = self._place(partition)
        return not (place.full or place.held)

    async def room(self, seconds: float) -> None:
        """Wait until there may be room again, at most so long."""
        self._room.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._room.wait()

    def _is_full(self, place: Place) -> bool:
        progress, most = place.progress, self._records_max
        return progress.unfinished >= most or progress.span >= SPAN * most or place.bytes_unfinished >= self._bytes_max

    def _count_of(self, record: Record, delivery: Delivery, default: Count) -> Count:
        """Where a retry is counted: for the queue that its message belongs to."""
        try:
            return self._meter.of(read.queue(names.QUEUE, own_headers(record).get(names.QUEUE) or b""))
        except MalformedEvent:
            return default

    # --- what is done -----------------------------------------------------------------------------------------------

    def _start(self, job: Job) -> None:
        place = job.place
        if place.held:
            place.parked.append(job)
        else:
            place.running[job.record.offset] = job
            self._hands.put(job)

    def _ended(self, job: Job, error: BaseException | None, reported: bool) -> None:
        """The handler is done with it; ``reported``: it has handed the failure over itself."""
        count = job.count
        count.processed += 1
        if error is not None:
            count.failed += 1
        following = job.place.lanes.leave(job.record.key)
        if following is not None:
            self._start(following)
        if job.progress.over:
            job.result = (error, reported)  # perhaps the partition comes back
        else:
            self._conclude(job, error, reported)

    def _conclude(self, job: Job, error: BaseException | None, reported: bool) -> None:
        """Hand over what has to be said of it; else it is finished."""
        if reported or (error is None and job.delivery is None):
            self._finish(job)
            return
        task = asyncio.create_task(self._settle(job, error), name="settle a result")
        self._settling[task] = job
        self._calm.set()
        task.add_done_callback(self._settled)

    def _finish(self, job: Job) -> None:
        place, progress = job.place, job.progress
        place.forget(job)
        progress.finish(job.record.offset, job.record.timestamp)
        if progress.over:
            place.done[job.record.offset] = job.record.timestamp
        elif progress is place.progress:
            place.bytes_unfinished -= job.size
            if place.full and self._is_roomy(place):
                place.full = False
                self._room.set()
        if not place.running:
            self._calm.set()

    def _is_roomy(self, place: Place) -> bool:
        progress, most = place.progress, self._records_max
        return (
            progress.unfinished <= most // 2
            and progress.span < SPAN * most
            and place.bytes_unfinished <= self._bytes_max // 2
        )

    async def _settle(self, job: Job, error: BaseException | None) -> None:
        """Hand the result over, however often it takes, but not of a partition that was taken away meanwhile."""
        place, record, pause, holds = job.place, job.record, RETRY_SECONDS, False
        try:
            while not job.progress.over:
                try:
                    if error is None:
                        await self._reporter.succeeded(record)
                    else:
                        await self._reporter.report(record, error, queue=self._queue)
                    self._finish(job)
                    return
                except DLQError as problem:
                    if not holds:
                        holds = True
                        place.held += 1
                        self._park(place)
                    log.error(
                        "%s stands still at offset %d, whose result cannot be handed over; trying again in %g s: %s",
                        place.name,
                        record.offset,
                        pause,
                        problem,
                    )
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_SECONDS_MAX)
            job.result = (error, False)  # perhaps the partition comes back
        finally:
            if holds:
                self._release(place)

    def _park(self, place: Place) -> None:
        """Take back what is not begun of a partition, to be started when its results are acknowledged again."""
        back = self._hands.take_back()
        parked = [job for job in back if job.place is place]
        for job in parked:
            place.forget(job)
        place.parked[:0] = parked
        for job in back:
            if job.place is not place:
                self._hands.put(job)

    def _release(self, place: Place) -> None:
        place.held -= 1
        if place.held == 0:
            log.info("%s goes on", place.name)
            parked, place.parked = place.parked, []
            for job in parked:
                self._start(job)
            self._room.set()

    def _settled(self, task: asyncio.Task[None]) -> None:
        job = self._settling.pop(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            self._fail(problem, job)

    def _fail(self, problem: BaseException, job: Job | None = None) -> None:
        if job is not None:  # it will not end, so nobody waits for it
            job.place.forget(job)
            self._calm.set()
        if not self.failure.done():
            self.failure.set_exception(problem)

    def check(self) -> None:
        """Raise what nobody can go on after, if there is such a thing."""
        if self.failure.done():
            self.failure.result()

    # --- the end ----------------------------------------------------------------------------------------------------

    async def finish(self, seconds: float) -> None:
        """Start nothing more, and wait for what runs: so long for handlers, then a moment for results.

        After ``seconds`` an ``async`` handler is cancelled, and what it was given stays unfinished.
        """
        self._withdraw(self._places.values())
        await self._until(lambda: not self._handling(), seconds)
        await self._hands.stop()
        if self._settling:
            await asyncio.wait(self._settling, timeout=REPORT_SECONDS_MAX)
        for task in list(self._settling):
            task.cancel()
        if self._settling:
            await asyncio.wait(self._settling)

    def _handling(self) -> bool:
        """Whether a handler runs for a partition that is ours."""
        settling = set(self._settling.values())
        return any(job not in settling for place in self._places.values() for job in place.running.values())

    async def _until(self, holds: Callable[[], bool], seconds: float) -> None:
        """Wait until that holds, at most so long; it is looked at whenever something comes to an end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not holds():
                    self._calm.clear()
                    await self._calm.wait()


def _size_of(headers: Headers) -> int:
    return sum([len(name) + len(content or b"") for name, content in headers])
