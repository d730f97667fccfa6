"""Faust's consumer, delivering whole polls and committing nothing.

Stock Faust hands records on one by one, remembers in "gaps" what it thinks it skipped, and commits what agents acked.
Each of these loses or repeats records (upstream #596, #606), and each costs more than the work itself.  Here agents
streams get one item per poll and topic (`Poll`), and offsets are part of the partitions' transactions.

What makes delivery safe is the chain of positions: with every run of records goes the consumer's position before and
after it.  A partition accepts a run only where the former one ended; if something in between was dropped (by a
rebalance, a cleared queue, a stale fetch), the consumer is seeked back.  So dropping is always allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from aiokafka import TopicPartition
from faust.events import Event
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message
from mode import Service

from dlq_stream.kafka import no_topic_creation
from dlq_stream.kafka_security import refusal_of
from dlq_stream.runtime import fetched
from dlq_stream.runtime.committed import committed_offsets_of
from dlq_stream.runtime.owner import Poll
from dlq_stream.runtime.ports import Run

FETCH_WAIT_MS = 100
"""How long a broker holds back the answer to a fetch without records.

Whatever else is asked of that broker waits behind it: with Faust's 1,500 ms every start took three seconds more.
"""

CONFIRM_SECONDS_MAX = 2.0
"""How long to wait for the group's answer; without one, what is known counts."""

POLL_SECONDS = 1.0
"""How long one fetch waits for records."""

POLL_REST_SECONDS = 0.07
"""After a poll that brought little, until the next.

A poll costs a millisecond or two of processor time, however little it brings: at 2,000 failures a second this halves
the time of everything.  Input rests in its feed anyway (see `dlq_stream.runtime.feed`), and the first after a pause is
taken in at once.
"""

SMALL_POLL_BYTES = 64 << 10
"""A poll that brings more is not little; neither is one that brings as many records as it may."""

ROOM_SECONDS = 0.02
"""How long to wait for room, before others' records are looked for again."""


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread in which aiokafka's consumer lives; everything here but ``__post_init__`` runs on its loop."""

    def __post_init__(self) -> None:
        """Removes: records that stop a partition for ever or unfold without a bound (see `dlq_stream.tolerant`)."""
        super().__post_init__()
        fetched.install()
        self._assignment: Any = None
        self._positions: dict[TopicPartition, int] = {}

    def _create_worker_consumer(self, transport: Any) -> Any:
        """Removes: uncommitted reads outside of Faust's own exactly-once mode (upstream #177), and its 1.5 s waits."""
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        consumer._fetch_max_bytes = transport.app.owner.limits.fetch_bytes_max
        return no_topic_creation(consumer)

    async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        """Removes: fetching changelogs through the group's consumer, where nobody takes what they bring."""
        changelogs = self.app.tables.changelog_topics
        for tp in self._ensure_consumer().assignment():
            if tp.topic in changelogs:
                self._ensure_consumer().pause(tp)
        await super().on_partitions_assigned(assigned, generation_id)

    async def _fetch_records(self, consumer: Any, active_partitions: Any, **options: Any) -> dict[Any, Any]:
        """Removes: stock Faust guesses from offsets what it skipped (upstream #606); positions say it exactly."""
        records = await super()._fetch_records(consumer, active_partitions, **options)
        runs = {}
        positions = self._positions_of_now()
        for tp, found in records.items():
            stop = self._assignment.state_value(tp).position
            start = positions.get(tp)
            positions[tp] = stop
            if start is not None:  # else fetched before the first seek of this assignment: nobody asked for it
                runs[tp] = forward(tp, Run(start, stop, found, found.size))
        return runs

    def _positions_of_now(self) -> dict[TopicPartition, int]:
        """Positions under the present assignment; those of a former one say nothing about it."""
        assignment = self._ensure_consumer()._subscription.subscription.assignment
        if assignment is not self._assignment:
            self._assignment, self._positions = assignment, {}
        return self._positions

    async def confirm_membership(self) -> None:
        """Find out whether the group still counts us in, which a process that was frozen does not know.

        Not through the thread's queue of calls, in which others would wait while the brokers do not answer.
        """
        heartbeat = asyncio.run_coroutine_threadsafe(self._heartbeat(), self.thread_loop)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_SECONDS_MAX):
                await asyncio.wrap_future(heartbeat)

    async def _heartbeat(self) -> None:
        await self._ensure_consumer()._coordinator._do_heartbeat()  # resets the generation where we are not

    @property
    def generation(self) -> int:
        """The group's generation that we belong to; -1 where it does not count us in any more."""
        generation: int = self._ensure_consumer()._coordinator.generation
        return generation

    def unknown(self, topics: Iterable[str]) -> list[str]:
        """Which of these topics are not in the cluster, as far as we know."""
        cluster = self._ensure_consumer()._client.cluster
        return sorted(topic for topic in topics if not cluster.partitions_for_topic(topic))

    def membership_problem(self) -> BaseException | None:
        """What ended the task that keeps us in the group, if it has ended by itself; or what it waits with.

        Removes: a right that is missing is kept for who polls next, and nobody polls without an assignment.
        """
        coordinator = getattr(self._consumer, "_coordinator", None)
        if coordinator is None or coordinator._closing.done():
            return None
        pending: BaseException | None = getattr(coordinator, "_pending_exception", None)
        if pending is not None and refusal_of(pending) is not None:
            return pending
        task = getattr(coordinator, "_coordination_task", None)  # a consumer without a group has none
        if task is None or not task.done() or task.cancelled():
            return None
        problem: BaseException | None = task.exception()
        return problem or RuntimeError("aiokafka's coordination task has ended")

    async def seek_to(self, tp: TP, position: int) -> None:
        """Read on from ``position``."""
        await self.call_thread(self._seek_to, tp, position)

    async def _seek_to(self, tp: TP, position: int) -> None:
        kafka_tp = TopicPartition(tp.topic, tp.partition)
        if kafka_tp in self._ensure_consumer().assignment():
            self._ensure_consumer().seek(kafka_tp, position)
            self._positions_of_now()[kafka_tp] = position

    async def seek_to_committed_of(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Seek to the group's committed positions, to the beginning where there is none; returns the positions."""
        found: dict[TP, int] = await self.call_thread(self._seek_to_committed_of, list(tps))
        return found

    async def _seek_to_committed_of(self, tps: list[TP]) -> dict[TP, int]:
        consumer = self._ensure_consumer()
        kafka_tps = [TopicPartition(tp.topic, tp.partition) for tp in tps]
        offsets = await committed_offsets_of(consumer._coordinator, kafka_tps)
        begin, end = await asyncio.gather(consumer.beginning_offsets(kafka_tps), consumer.end_offsets(kafka_tps))
        found = {}
        for tp, kafka_tp in zip(tps, kafka_tps, strict=True):
            position = offsets[kafka_tp]
            if position is not None and position > end[kafka_tp]:
                self.log.error("%s ends at %d before the committed %d: reading all of it", tp, end[kafka_tp], position)
                position = 0
            found[tp] = max(begin[kafka_tp], position or 0)
            consumer.seek(kafka_tp, found[tp])
            self._positions_of_now()[kafka_tp] = found[tp]
        return found


class Consumer(driver.Consumer):
    """The consumer as agents see it."""

    _thread: ConsumerThread

    def _new_consumer_thread(self) -> ConsumerThread:
        """Removes: Faust's own thread, which guesses at gaps and reads what is not committed (upstream #606)."""
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Removes: commits that run ahead of state or never come (upstream #596, #606); transactions hold offsets."""
        return False

    async def wait_empty(self) -> None:
        """Removes: polling until every message is acked; the partitions finish their turns and are released."""
        await self.app.owner.close()

    async def perform_seek(self) -> None:
        """Removes: seeking behind the back of the partitions (upstream #596); `positions_sought` does it for them."""

    async def positions_sought(self) -> Mapping[tuple[str, int], int]:
        """Seek the input of every assigned partition to its committed position, and say where that is."""
        sources = [tp for tp in self.assignment() if not self._is_changelog_tp(tp)]
        if not sources:
            return {}
        found = await self._thread.seek_to_committed_of(sources)
        return {(tp.topic, tp.partition): position for tp, position in found.items()}

    async def confirm_membership(self) -> None:
        """Find out whether `generation` is still true."""
        await self._thread.confirm_membership()

    @property
    def generation(self) -> int:
        """The group's generation that we belong to, as far as we know; -1 where we were expelled."""
        return self._thread.generation

    def unknown(self, topics: Iterable[str]) -> list[str]:
        """Which of these topics the consumer knows nothing of."""
        return self._thread.unknown(topics)

    async def read_from(self, topic: str, partition: int, position: int) -> None:
        """Read on from ``position``."""
        await self._thread.seek_to(TP(topic, partition), position)

    @Service.task
    async def _watch_membership(self) -> None:
        """Removes: a worker that silently does nothing because aiokafka's membership task has ended with an error."""
        async for _ in self.itertimer(1.0, name="membership"):
            problem = self._thread.membership_problem()
            if problem is not None and not self.transport.app.should_stop:
                self.transport.app.fatal("membership of the group", problem)

    async def _drain_messages(self, fetcher: Any) -> None:
        """Removes: four asyncio tasks per record, and gap bookkeeping that loses records (upstream #596)."""
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                if not self.flow_active:
                    await self.wait(self.can_resume_flow)
                    continue
                active = self._get_active_partitions()
                if not active:
                    await self.sleep(0.05)
                    continue
                runs = await self._poll(active)
                for topic, by_partition in _by_topic(runs).items():
                    await self._hand_over(topic, by_partition)
                if brought_little(runs, self.app.conf.broker_max_poll_records):
                    await asyncio.sleep(POLL_REST_SECONDS)
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise

    async def _poll(self, active: Collection[TP]) -> Mapping[TP, Run]:
        """What has come for those partitions that have room for it; a full one holds up no other."""
        owner = self.app.owner
        room = {tp for tp in active if not owner.full(tp.topic, tp.partition)}
        runs: Mapping[TP, Run] = {}
        if len(room) == len(active):
            runs = await self._getmany(room, timeout=POLL_SECONDS)
        elif room:
            runs = await self._getmany(room, timeout=0)
        if not runs and len(room) < len(active):
            await owner.room(ROOM_SECONDS)
        return runs

    async def _hand_over(self, topic: str, runs: dict[int, Run]) -> None:
        """Put one poll into the streams that read ``topic``; waits while they are full, gives up at a rebalance."""
        partition, run = next(iter(runs.items()))
        for channel in list(self.app.topics._topic_name_index.get(topic, ())):
            message = Message(
                topic, partition, run.stop - 1, timestamp=0.0, timestamp_type=0, headers=None, key=None, value=None,
                checksum=None, tp=TP(topic, partition), generation_id=self.app.consumer_generation_id,
            )  # fmt: skip
            message.incref()
            event = Event(self.app, None, Poll(topic, runs), None, message)
            if channel.queue.full():
                await put_unless(channel.queue, event, self.suspend_flow)
            else:
                channel.queue.put_nowait(event)


def forward(tp: Any, run: Run) -> Run:
    """The run, unless it lies before the position that it was asked for.

    Removes: where a log ends before the consumer's position, because it was truncated or its topic created anew,
    aiokafka begins at the beginning.  What is there now has offsets that count as processed, so it would be passed over
    in silence; the next start finds out where to begin.
    """
    first = run.records[0].offset
    if first < run.start:
        raise RuntimeError(f"{tp} was read up to {run.start} and goes on at {first}: truncated, or created anew?")
    return run


async def put_unless(queue: Any, event: Any, give_up: Any) -> None:
    """Wait for room in the queue and put the event there, or drop it once ``give_up`` is set.

    Removes: clearing a full queue, which every rebalance does, cancels whoever waits for room in it; stock code takes
    that for its own cancellation, and the worker ends.
    """
    putting = asyncio.ensure_future(queue.put(event))
    giving_up = asyncio.ensure_future(give_up.wait())
    try:
        await asyncio.wait((putting, giving_up), return_when=asyncio.FIRST_COMPLETED)
    finally:
        putting.cancel()
        giving_up.cancel()
        await asyncio.gather(putting, giving_up, return_exceptions=True)


def brought_little(runs: Mapping[TP, Run], records_max: int | None) -> bool:
    """Whether something came, and so little that more may be waited for; what was cut off waits already."""
    if not runs or sum(run.size for run in runs.values()) >= SMALL_POLL_BYTES:
        return False
    return records_max is None or sum(len(run.records) for run in runs.values()) < records_max


def _by_topic(runs: Mapping[TP, Run]) -> dict[str, dict[int, Run]]:
    topics: dict[str, dict[int, Run]] = {}
    for tp, run in runs.items():
        topics.setdefault(tp.topic, {})[tp.partition] = run
    return topics
