"""A partition's changelogs: the real `KafkaChangelog` and `KafkaFollower`, over what aiokafka is to them.

What is read, trusted, applied and stamped is the product's own code; simulated are the consumer that it reads with and
the disk that it writes to (`disk`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition

from dlq_stream.runtime.changelog import KafkaChangelog, StateOrigin
from dlq_stream.runtime.follower import KafkaFollower
from dlq_stream.runtime.ports import Unavailable
from tests.simulation.broker import Broker, Entry, Log
from tests.simulation.life import Life, NoAnswer
from tests.simulation.names import APP, PARTITIONS, TOMBSTONES_KEPT_MS
from tests.simulation.ports import WorkerClock

if TYPE_CHECKING:
    from tests.simulation.disk import DiskStore

ORIGIN = StateOrigin(APP, "cluster", PARTITIONS, TOMBSTONES_KEPT_MS)

FETCHED_RECORDS_MAX = 60
"""So many records of one changelog come at a time, at most."""


class Reader:
    """As much of `aiokafka.AIOKafkaConsumer` as reading changelogs takes: assigned partitions, committed records."""

    def __init__(self, life: Life, broker: Broker, what: str, places: Iterable[TopicPartition]) -> None:
        self._life = life
        self._broker = broker
        self._what = what
        self._positions = dict.fromkeys(places, 0)
        self._paused: set[TopicPartition] = set()
        self._highwaters: dict[TopicPartition, int] = {}
        self._fetched = False

    async def beginning_offsets(self, places: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    async def end_offsets(self, places: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The last stable offsets."""
        return await self._life.request(
            "read changelog", lambda: {place: self._broker.log(*place).stable for place in places}
        )

    def seek(self, place: TopicPartition, offset: int) -> None:
        self._positions[place] = offset

    async def position(self, place: TopicPartition) -> int:
        return self._positions[place]

    def pause(self, *places: TopicPartition) -> None:
        self._paused.update(places)

    def highwater(self, place: TopicPartition) -> int | None:
        """Where the last fetch found the end, whatever became of the last transaction; None where there was none."""
        return self._highwaters.get(place)

    async def getone(self, place: TopicPartition) -> Entry:
        [first], self._positions[place] = self._broker.log(*place).read(self._positions[place], 1)
        return first

    async def getmany(
        self, *places: TopicPartition, timeout_ms: int, max_records: int = FETCHED_RECORDS_MAX
    ) -> Mapping[TopicPartition, list[Entry]]:
        """What there is now, or nothing after a while."""
        life = self._life
        if self._fetched:
            life.point(f"{self._what}: between chunks")
            await asyncio.sleep(0.001)
        await life.awake()
        if life.world.loop.time() < life.world.away_until:
            await asyncio.sleep(timeout_ms / 1000)
            await life.awake()
            return {}
        found = self._fetch(places or self._positions.keys() - self._paused, max_records)
        self._fetched = bool(found)
        if not found:
            await asyncio.sleep(life.random.uniform(0.0, timeout_ms / 1000))
        return found

    def _fetch(self, places: Collection[TopicPartition], records_max: int) -> Mapping[TopicPartition, list[Entry]]:
        found: dict[TopicPartition, list[Entry]] = {}
        for place in sorted(places):
            log = self._broker.log(*place)
            self._highwaters[place] = len(log.entries)
            if self._positions[place] < len(log.entries):
                few = min(records_max, self._life.random.randint(1, FETCHED_RECORDS_MAX))
                records, self._positions[place] = self._read(log, self._positions[place], few)
                if records:
                    found[place] = records
        return found

    def _read(self, log: Log, position: int, records_max: int) -> tuple[list[Entry], int]:
        return log.read(position, records_max)


class UncommittedReader(Reader):
    """Reads what may still be aborted, too."""

    async def end_offsets(self, places: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The high-water marks."""
        return await self._life.request(
            "read changelog", lambda: {place: len(self._broker.log(*place).entries) for place in places}
        )

    def _read(self, log: Log, position: int, records_max: int) -> tuple[list[Entry], int]:
        return log.read_uncommitted(position, records_max)


class _OverReader(KafkaChangelog):
    """Reads with a `Reader`; silent brokers are `Unavailable`, as in the real one."""

    what = "restore"
    reader = Reader

    def __init__(self, life: Life, broker: Broker, partition: int, store: DiskStore, clock: WorkerClock) -> None:
        super().__init__(partition, store, ORIGIN, clock, {})  # type: ignore[arg-type]
        self._life = life
        self._broker = broker

    @asynccontextmanager
    async def _consumer(self, **options: Any) -> AsyncIterator[Any]:
        reader = UncommittedReader if options.get("isolation_level") == "read_uncommitted" else self.reader
        try:
            yield reader(self._life, self._broker, self.what, self._topics)
        except (NoAnswer, TimeoutError) as error:
            await self._life.awake()
            self._life.world.outcome.figures[f"{self.what}: brokers silent"] += 1
            raise Unavailable(f"changelogs of partition {self._partition}: {error!r}") from error


class SimChangelog(_OverReader):
    """`dlq_stream.runtime.ports.Changelog`: the product's own, over a `Reader`.

    ``restored`` is told when the state is there for the first time, and how many rows that took.
    """

    def __init__(
        self,
        life: Life,
        broker: Broker,
        partition: int,
        store: DiskStore,
        clock: WorkerClock,
        restored: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(life, broker, partition, store, clock)
        self._restored = restored

    async def catch_up(self) -> int:
        rows = await super().catch_up()
        if self._restored is not None:
            self._restored(rows)
            self._restored = None
        return rows


class SimFollower(_OverReader, KafkaFollower):
    """`dlq_stream.runtime.standby.Followed`: the product's own, over a `Reader`."""

    what = "follow"
