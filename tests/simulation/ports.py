"""The ports of a partition over the fake broker, but for the producer: changelog, clock, what is known of topics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from dlq_stream.core.destinations import DEAD_LETTER_SUFFIX
from dlq_stream.core.transaction import Destination
from dlq_stream.runtime.ports import Unavailable
from dlq_stream.runtime.replay import changes_of
from dlq_stream.tables import TABLES
from dlq_stream.tables.marker import MARKER_KEY
from dlq_stream.tables.spec import TableSpec
from tests.simulation.broker import Broker
from tests.simulation.disk import DiskStore
from tests.simulation.life import Life, NoAnswer

EPOCH_MS = 1_700_000_000_000
"""The wall-clock time at which a run begins."""


class WorkerClock:
    """The wall clock of one machine: off by a constant, until somebody sets it."""

    def __init__(self, time: Callable[[], float], skew_ms: int) -> None:
        self.skew_ms = skew_ms
        self._time = time

    def now_ms(self) -> int:
        return EPOCH_MS + int(self._time() * 1000) + self.skew_ms


class SeenClock:
    """`dlq_stream.runtime.ports.Clock` of one partition, which remembers the latest that it has shown."""

    def __init__(self, clock: WorkerClock) -> None:
        self.highest_ms = 0
        self._clock = clock

    def now_ms(self) -> int:
        now_ms = self._clock.now_ms()
        self.highest_ms = max(self.highest_ms, now_ms)
        return now_ms


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
        """The real one deletes a state that is ahead of its changelogs; here nothing may ever lead to one."""
        self._trusted = True
        stored = {table: self._store.offset(table) for table in ends}
        if any(offset is not None and offset >= ends[table] for table, offset in stored.items()):
            self._life.world.violated(
                f"{self._life.name} has a state that is ahead of its changelogs: {stored}, {ends}"
            )

    async def _replay(self, spec: TableSpec, end: int) -> int:
        log, name = self._logs[spec], spec.name
        stored = self._store.offset(name)
        position = 0 if stored is None else stored + 1
        rows = 0
        while position < end:
            records, position = log.read(position, self._life.random.randint(1, 60))
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
