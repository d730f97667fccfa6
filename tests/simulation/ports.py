"""The ports of a partition over the fake broker: producer, changelog, clock, and what brokers say of topics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence

from dlq_stream.core.destinations import DEAD_LETTER_SUFFIX
from dlq_stream.core.transaction import Destination
from dlq_stream.runtime.ports import Batch, Fenced, OutcomeUnknown, OutRecord, Refusal, Unavailable, Written
from dlq_stream.runtime.replay import changes_of
from dlq_stream.tables import TABLES
from dlq_stream.tables.marker import MARKER_KEY
from dlq_stream.tables.spec import TableSpec
from tests.simulation.broker import BatchRefused, Broker, Concurrent, NoSuchTopic, ProducerFenced, TopicSilent, Txn
from tests.simulation.disk import DiskStore
from tests.simulation.life import ANSWER_SECONDS_MAX, Life, NoAnswer

EPOCH_MS = 1_700_000_000_000
"""The wall-clock time at which a run begins."""

FENCE_PAUSE_SECONDS = 0.01


class WorkerClock:
    """`dlq_stream.runtime.ports.Clock` of one machine: off by a constant, until somebody steps it."""

    def __init__(self, time: Callable[[], float], skew_ms: int) -> None:
        self.skew_ms = skew_ms
        self.highest_ms = 0
        self._time = time

    def now_ms(self) -> int:
        now_ms = EPOCH_MS + int(self._time() * 1000) + self.skew_ms
        self.highest_ms = max(self.highest_ms, now_ms)
        return now_ms


class SimProducer:
    """`dlq_stream.runtime.ports.Producer` on the fake broker."""

    def __init__(
        self,
        life: Life,
        broker: Broker,
        transactional_id: str,
        partition: int,
        missing: Callable[[Collection[str]], Awaitable[bool]],
    ) -> None:
        self._life = life
        self._broker = broker
        self._id = transactional_id
        self._partition = partition
        self._missing = missing
        self._epoch = -1
        self._txn: Txn | None = None

    async def start(self) -> None:
        self._count("producers started again" if self._epoch >= 0 else "producers started")
        self._txn = None
        deadline = self._life.world.loop.time() + 2 * ANSWER_SECONDS_MAX
        while self._life.world.loop.time() < deadline:
            try:
                self._epoch = await self._life.request("fence", lambda: self._broker.init_producer(self._id))
                return
            except Concurrent:
                await asyncio.sleep(FENCE_PAUSE_SECONDS)
            except NoAnswer as error:
                raise Unavailable(str(error)) from error
        raise Unavailable("fencing takes too long")

    async def write(self, batches: Sequence[Batch], offsets: Mapping[str, int]) -> Written:
        deadline = self._life.world.loop.time() + ANSWER_SECONDS_MAX
        while True:
            try:
                return await self._life.request("write", lambda: self._write(batches, offsets))
            except ProducerFenced as error:
                raise Fenced(str(error)) from error
            except NoAnswer as error:
                raise Unavailable(str(error)) from error
            except TopicSilent as error:
                self._count("destinations silent")
                await asyncio.sleep(ANSWER_SECONDS_MAX)
                await self._life.awake()
                raise Unavailable(f"silent: {error}", {str(error)}) from error
            except NoSuchTopic as error:
                await self._missing({batch.topic for batch in batches if not batch.compress})
                raise Unavailable(f"gone: {error}") from error
            except Concurrent as error:
                await asyncio.sleep(FENCE_PAUSE_SECONDS)
                if self._life.world.loop.time() > deadline:
                    raise Unavailable(str(error)) from error

    def _write(self, batches: Sequence[Batch], offsets: Mapping[str, int]) -> Written:
        """What arrives at the brokers, in any order; the answers come in the order of the batches."""
        broker, life = self._broker, self._life
        txn = self._txn = broker.begin(self._id, self._epoch, life.name)
        order = [*range(len(batches)), *([-1] if offsets else [])]
        life.random.shuffle(order)
        results: dict[int, int | Refusal] = {}
        for number in order:
            if number < 0:
                broker.add_offsets(txn, {(topic, self._partition): offset for topic, offset in offsets.items()})
            else:
                results[number] = self._append(txn, batches[number])
            life.point("write: in part")
        answers = [results[number] for number in range(len(batches))]
        refusals = [answer for answer in answers if isinstance(answer, Refusal)]
        for refusal in refusals:
            self._count(_kind(refusal))
        return Written([answer for answer in answers if isinstance(answer, int)], refusals)

    def _count(self, what: str) -> None:
        self._life.world.outcome.figures[what] += 1

    def _append(self, txn: Txn, batch: Batch) -> int | Refusal:
        last, refused, reason = -1, [], ""
        for first, records in _record_batches(batch, self._life.random.randint(1, 6)):
            try:
                last = self._broker.append(txn, batch.topic, batch.partition, records)
            except BatchRefused as refusal:
                if not refusal.positions:
                    return Refusal(batch.topic, batch.partition, refusal.reason)
                refused += [first + position for position in refusal.positions]
                reason = refusal.reason
        return Refusal(batch.topic, batch.partition, reason, tuple(refused)) if refused else last

    async def commit(self) -> None:
        txn = self._txn
        assert txn is not None
        self._txn = None
        try:
            await self._life.request("commit", lambda: self._broker.commit(txn))
        except ProducerFenced as error:
            raise Fenced(str(error)) from error
        except NoAnswer as error:
            raise OutcomeUnknown(str(error)) from error

    async def stop(self) -> None:
        self._life.point("stop producer")


def _kind(refusal: Refusal) -> str:
    """What there is to learn from a refusal."""
    kinds = {0: "destinations refused", 1: "records refused"}
    return kinds.get(len(refusal.records), "refusals to be narrowed down")


def _record_batches(batch: Batch, records_max: int) -> Iterator[tuple[int, Sequence[OutRecord]]]:
    """The records cut into record batches, with the position of the first of each."""
    size = 1 if batch.one_by_one else records_max
    for first in range(0, len(batch.records), size):
        yield first, batch.records[first : first + size]


class SimChangelog:
    """`dlq_stream.runtime.ports.Changelog` on the fake broker and a `Disk`."""

    def __init__(self, life: Life, broker: Broker, app_id: str, partition: int, store: DiskStore) -> None:
        self._life = life
        self._broker = broker
        self._logs = {spec: broker.log(spec.changelog(app_id), partition) for spec in TABLES}
        self._store = store
        self._trusted = False

    async def catch_up(self) -> int:
        try:
            ends = await self._life.request(
                "read changelog", lambda: {spec: log.stable for spec, log in self._logs.items()}
            )
        except NoAnswer as error:
            raise Unavailable(str(error)) from error
        if not self._trusted:
            self._trust({spec.name: end for spec, end in ends.items()})
        return sum([await self._replay(spec, ends[spec]) for spec in self._logs])

    def _trust(self, ends: Mapping[str, int]) -> None:
        """As the real one: a state that is ahead of its changelogs was not built from them."""
        self._trusted = True
        stored = {table: self._store.offset(table) for table in ends}
        if any(offset is not None and offset >= ends[table] for table, offset in stored.items()):
            self._life.world.outcome.figures["states ahead wiped"] += 1
            self._life.world.note(self._life.name, f"wipes a state that is ahead: {stored}, {ends}")
            self._store.disk.wipe()

    async def _replay(self, spec: TableSpec, end: int) -> int:
        log, name = self._logs[spec], spec.name
        stored = self._store.offset(name)
        position = 0 if stored is None else stored + 1
        rows = 0
        while position < end:
            records, position = log.read(position, self._life.random.randint(1, 15))
            fresh = {record.key: record.value for record in records if record.key is not None}
            self._store.write(changes_of(self._store, name, fresh), {name: position - 1}, 0)
            rows += len(fresh.keys() - {MARKER_KEY})
            if position < end:
                self._life.point("restore: between chunks")
                await asyncio.sleep(0.001)
                await self._life.awake()
        return rows


class SimTopicSource:
    """`dlq_stream.runtime.destinations.TopicSource`: as the real one, with the fake broker's answers."""

    def __init__(self, life: Life, broker: Broker) -> None:
        self._life = life
        self._broker = broker

    async def describe(self, topics: Collection[str]) -> Mapping[str, Destination]:
        wanted = sorted(topics)
        return await self._life.request("describe", lambda: {topic: self._describe(topic) for topic in wanted})

    def _describe(self, name: str) -> Destination:
        broker = self._broker
        source = broker.topics.get(name.removesuffix(DEAD_LETTER_SUFFIX))
        if name not in broker.topics and name.endswith(DEAD_LETTER_SUFFIX) and source and broker.creates_topics:
            broker.create(name, len(source.logs)).bytes_max = source.bytes_max + 65_536
        topic = broker.topics.get(name)
        if topic is None:
            return Destination(name, refusal="missing")
        return Destination(name, len(topic.logs), topic.compacted, topic.bytes_max)
