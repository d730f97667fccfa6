"""The policies topic, read whole and written: what `dlq_stream.settings.published` makes of its records.

A worker reads it before it joins and follows it then (`dlq_stream.worker.policies`); ``init`` and the commands read it
once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.kafka import admin_client, reader, wait_for_brokers, writer
from dlq_stream.reading import records_until
from dlq_stream.settings import Settings
from dlq_stream.settings.published import Check, PublishedPolicies
from dlq_stream.topics.cluster import Cluster
from dlq_stream.topics.names import AppTopics


async def take_all(consumer: AIOKafkaConsumer, topic: str, partitions: int, published: PublishedPolicies) -> None:
    """Have ``published`` take every record that is there now, from the beginning; the consumer can then go on.

    Raises `BrokersUnavailable` where reading makes no progress.
    """
    places = [TopicPartition(topic, number) for number in range(partitions)]
    consumer.assign(places)
    ends = await consumer.end_offsets(places)
    await consumer.seek_to_beginning(*places)
    async for record in records_until(consumer, ends):
        published.take(record.key, record.value)


async def read_policies(settings: Settings, check: Check | None = None) -> PublishedPolicies:
    """What is published, on top of these settings.

    Raises `BrokersUnavailable`, and `ConfigurationError` where the topic does not exist.
    """
    await wait_for_brokers(settings.connection, settings.wait_seconds)
    topic = AppTopics(settings.app_id).policies
    async with admin_client(settings.connection) as admin:
        found = await Cluster(admin).describe([topic])
    if topic not in found:
        raise ConfigurationError(
            f"topic {topic} does not exist; check app_id {settings.app_id!r}, or run `dlq-stream init`, which adds it "
            f"to an app of an earlier version, too"
        )
    published = PublishedPolicies(settings.policies(), check)
    async with reader(settings.connection) as consumer:
        await take_all(consumer, topic, found[topic].partitions, published)
    return published


async def write_policies(settings: Settings, records: Mapping[bytes, bytes | None]) -> None:
    """Write records and return once they are on the brokers (acks=all); None as a value is a tombstone."""
    topic = AppTopics(settings.app_id).policies
    async with writer(settings.connection) as producer:
        written: list[Any] = [await producer.send(topic, value, key) for key, value in records.items()]
        for each in written:
            await each
