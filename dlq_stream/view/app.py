"""An app's topics, opened for reading; and how much of its intake no worker has processed yet."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.kafka import admin_client, reader, wait_for_brokers
from dlq_stream.reading import records_until
from dlq_stream.settings import Settings
from dlq_stream.topics import AppTopics
from dlq_stream.topics.cluster import Cluster


@dataclass(frozen=True, slots=True)
class AsOf:
    """Of which moment an answer is; instants are epoch milliseconds."""

    as_of_ms: int
    """When the ends of the topics were asked for, by this machine's clock: nothing that came later is in it."""
    updated_ms: int | None
    """When the latest change that is in it was written, by the brokers' clock; None where there is none."""
    lag: Mapping[str, int]
    """Records that workers had not processed, for ``failures`` and ``commands``: what they say is not in it."""


@dataclass(frozen=True, slots=True)
class AppReader:
    """The topics of an app, all of ``partitions`` partitions, and the clients to read them with."""

    app_id: str
    partitions: int
    consumer: AIOKafkaConsumer
    cluster: Cluster

    @property
    def topics(self) -> AppTopics:
        """Their names."""
        return AppTopics(self.app_id)

    async def committed(self) -> Mapping[tuple[str, int], int]:
        """How far the workers are, by topic and partition."""
        return await self.cluster.offsets(self.app_id)

    async def lag(self, partitions: Collection[int] | None = None) -> dict[str, int]:
        """Records of ``failures`` and ``commands`` that the workers have not processed (None: of all partitions)."""
        committed = await self.committed()
        numbers = range(self.partitions) if partitions is None else partitions
        intake = {"failures": self.topics.failures, "commands": self.topics.commands}
        return {name: await _lag(self.consumer, topic, numbers, committed) for name, topic in intake.items()}


@asynccontextmanager
async def open_app(settings: Settings, *topics: str) -> AsyncIterator[AppReader]:
    """The app's ``topics``, and its intake.  Raises BrokersUnavailable, and ConfigurationError where one is missing."""
    await wait_for_brokers(settings.connection, settings.wait_seconds)
    names = AppTopics(settings.app_id)
    needed = {*topics, names.failures, names.commands}
    async with admin_client(settings.connection) as admin, reader(settings.connection) as consumer:
        cluster = Cluster(admin)
        found = await cluster.describe(needed)
        missing = sorted(needed - set(found))
        if missing:
            raise ConfigurationError(
                f"topic {missing[0]} does not exist; check app_id {settings.app_id!r}, or run `dlq-stream init`"
            )
        partitions = {topic.partitions for topic in found.values()}
        if len(partitions) > 1:
            counts = ", ".join(f"{name} has {topic.partitions}" for name, topic in sorted(found.items()))
            raise ConfigurationError(f"the app's topics differ in partitions: {counts}; run `dlq-stream init`")
        yield AppReader(settings.app_id, partitions.pop(), consumer, cluster)


def now_ms() -> int:
    """This machine's clock."""
    return time.time_ns() // 1_000_000


async def _lag(
    consumer: AIOKafkaConsumer, topic: str, partitions: Collection[int], committed: Mapping[tuple[str, int], int]
) -> int:
    """Offsets between what the group committed and the end; nothing where only transaction markers are between."""
    places = [TopicPartition(topic, number) for number in partitions]
    consumer.assign(places)
    begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    starts = {place: max(begins[place], committed.get((topic, place.partition), 0)) for place in places}
    behind = {place: ends[place] - starts[place] for place in places if ends[place] > starts[place]}
    for place in places:
        consumer.seek(place, starts[place])
    consumer.pause(*(set(places) - set(behind)))
    real: set[TopicPartition] = set()
    async for record in records_until(consumer, {place: ends[place] for place in behind}):
        place = TopicPartition(record.topic, record.partition)
        if place not in real:  # one record tells; the others need not be read
            real.add(place)
            consumer.seek(place, ends[place])
    return sum(behind[place] for place in real)
