"""The contract's real implementation: a partition's Kafka transactions and RocksDB, on a real broker."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from dlq_stream.core.transaction import Transaction
from dlq_stream.kafka import client_options
from dlq_stream.runtime.changelog import KafkaChangelog, StateOrigin
from dlq_stream.runtime.destinations import DestinationCache
from dlq_stream.runtime.outcomes import Identification, NotOurs
from dlq_stream.runtime.partition import Partition
from dlq_stream.runtime.producer import KafkaProducer
from dlq_stream.runtime.rocks import RocksStore
from dlq_stream.runtime.topic_source import KafkaTopicSource
from dlq_stream.tables import INDEXES, TABLES
from dlq_stream.topics.markers import complete_markers
from tests.kafka_clients import create_topics, read_topic
from tests.kafka_fixture import unique_name
from tests.memory import Sent

T = TypeVar("T")

PARTITIONS = 4
ROW_BYTES_MAX = 50_000
DAY_MS = 86_400_000
TAGS = {spec.name: spec.tag for spec in TABLES} | {spec.name: spec.tag for spec in INDEXES}


class SetClock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> int:
        return self.ms


def raise_it(where: str, error: BaseException) -> NoReturn:
    """Where a worker would end, the error is the caller's."""
    raise error


async def create_changelogs(bootstrap: str, app_id: str, partitions: int = PARTITIONS) -> None:
    """The changelogs of an app, with their markers."""
    topics = [spec.changelog(app_id) for spec in TABLES]
    await create_topics(bootstrap, *topics, partitions=partitions, config={"cleanup.policy": "compact"})
    await complete_markers(bootstrap, app_id, dict.fromkeys(topics, partitions))


class KafkaSubject:
    """A partition as a worker has it."""

    def __init__(
        self,
        bootstrap: str,
        app_id: str,
        directory: Path,
        *,
        partition: int = 0,
        partitions: int = PARTITIONS,
        cluster_id: str = "cluster",
        delete_retention_ms: int = DAY_MS,
        clock: SetClock | None = None,
    ) -> None:
        self.partition = partition
        self.partitions = partitions
        self.row_bytes_max = ROW_BYTES_MAX
        self.app_id = app_id
        self.clock = clock or SetClock()
        self.bootstrap = bootstrap
        options = {**client_options(bootstrap), "client_id": f"{app_id}-worker"}
        self._source = KafkaTopicSource(
            options,
            dead_letter_retention_ms=DAY_MS,
            replication_factor=1,
            partitions=partitions,
            record_bytes_max=1 << 20,
        )
        self.cache = DestinationCache(self._source)
        self._looking_up = asyncio.create_task(self.cache.run())
        self.store = RocksStore(directory / f"p{partition}")
        self.actor = Partition(
            Identification(partition, partitions, 1, app_id),
            producer=KafkaProducer(
                f"{app_id}-p{partition}",
                group=app_id,
                partition=partition,
                options=options,
                transaction_timeout_seconds=10.0,
                request_bytes_max=1 << 20,
                missing=self.cache.missing,
            ),
            store=self.store,
            changelog=KafkaChangelog(
                partition,
                self.store,
                StateOrigin(app_id, cluster_id, partitions, delete_retention_ms),
                self.clock,
                options,
            ),
            destinations=self.cache,
            clock=self.clock,
            row_bytes_max=ROW_BYTES_MAX,
            still_ours=lambda: True,
            fatal=raise_it,
        )

    async def open(self) -> int:
        """Fence and restore; returns how many rows were restored."""
        return await self.actor.open()

    async def close(self) -> None:
        """Release everything."""
        await self.actor.close()
        self._looking_up.cancel()
        await asyncio.gather(self._looking_up, return_exceptions=True)
        await self._source.close()

    @property
    def clock_ms(self) -> int:
        return self.clock.ms

    @clock_ms.setter
    def clock_ms(self, ms: int) -> None:
        self.clock.ms = ms

    async def run(self, stage: Callable[[Transaction], T]) -> T:
        result = await self.actor.run(stage)
        assert not isinstance(result, NotOurs)
        return result

    async def read(self, table: str, key: bytes) -> bytes | None:
        return self.actor.committed(TAGS[table] + key)

    async def scan(
        self, name: str, start: bytes, stop: bytes, limit: int, *, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        return await self.run(lambda tx: tx.scan(name, start, stop, limit, reverse=reverse))

    async def sent(self, topic: str) -> list[Sent]:
        return [
            Sent(topic, record.key, record.value, tuple(record.headers), record.partition)
            for record in await read_topic(self.bootstrap, topic)
        ]

    async def create_topic(self, name: str, partitions: int = 4, record_bytes_max: int = 100_000) -> str:
        topic = unique_name(name)
        config = {"max.message.bytes": record_bytes_max}
        await create_topics(self.bootstrap, topic, partitions=partitions, config=config)
        return topic

    async def looked_up(self) -> None:
        await self.cache.look_up(set(self.cache._wanted))


class KafkaHarness:
    """Makes partitions of apps of their own."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._directory = Path(tempfile.mkdtemp(prefix="dlq-contract-"))
        self._made: list[KafkaSubject] = []

    async def make(self, partition: int = 0) -> KafkaSubject:
        app_id = unique_name("contract")
        await create_changelogs(self._bootstrap, app_id)
        subject = KafkaSubject(self._bootstrap, app_id, self._directory / app_id, partition=partition)
        self._made.append(subject)
        await subject.open()
        return subject

    async def close(self) -> None:
        for subject in self._made:
            await subject.close()
        shutil.rmtree(self._directory)
