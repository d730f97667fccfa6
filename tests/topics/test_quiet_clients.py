"""No client of ours brings a deleted topic back, on a broker that creates topics for everybody who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import UnknownTopicOrPartitionError

from dlq_stream.kafka import admin_client, no_topic_creation, reader, wait_for_brokers, writer
from tests.kafka_clients import create_topics, delete_topic, list_topics
from tests.kafka_fixture import LocalKafka, local_kafka, unique_name

LOOKS = 1.5
"""Seconds in which clients that refresh what they know every 0.1 s look at a topic many times."""


@pytest.fixture(scope="module")
def creating() -> Iterator[LocalKafka]:
    with local_kafka(auto_create=True) as broker:
        yield broker


@pytest.fixture
async def topic(creating: LocalKafka) -> str:
    name = unique_name("gone")
    await create_topics(creating.bootstrap, name, partitions=1)
    return name


pytestmark = pytest.mark.kafka


async def test_an_ordinary_client_does_bring_it_back(creating: LocalKafka, topic: str) -> None:
    """The control: without us, the broker does what these tests are about."""
    async with AIOKafkaProducer(bootstrap_servers=creating.bootstrap, metadata_max_age_ms=100) as producer:
        await producer.send_and_wait(topic, b"x")
        await delete_topic(creating.bootstrap, topic)
        await asyncio.sleep(LOOKS)
        assert topic in await list_topics(creating.bootstrap)


async def test_a_producer_that_knew_the_topic(creating: LocalKafka, topic: str) -> None:
    """It goes on refreshing its metadata, and fails to write, but the topic stays gone."""
    async with writer(creating.bootstrap, metadata_max_age_ms=100, request_timeout_ms=1000) as producer:
        await producer.send_and_wait(topic, b"x")
        await delete_topic(creating.bootstrap, topic)
        await asyncio.sleep(LOOKS)
        with pytest.raises(UnknownTopicOrPartitionError):
            await asyncio.wait_for(producer.send_and_wait(topic, b"y"), 5)
        assert topic not in await list_topics(creating.bootstrap)


async def test_a_consumer_that_is_subscribed(creating: LocalKafka, topic: str) -> None:
    """A subscription to a topic that is gone, and to one that never was."""
    never = unique_name("never")
    consumer = AIOKafkaConsumer(
        bootstrap_servers=creating.bootstrap, group_id=unique_name("g"), metadata_max_age_ms=100
    )
    async with no_topic_creation(consumer):
        consumer.subscribe([topic, never])
        await delete_topic(creating.bootstrap, topic)
        await asyncio.sleep(LOOKS)
        assert not {topic, never} & set(await list_topics(creating.bootstrap))


async def test_a_reader_that_is_assigned(creating: LocalKafka, topic: str) -> None:
    """The reader of changelogs asks for partitions without a group."""
    async with reader(creating.bootstrap) as consumer:
        await consumer._client.set_topics([topic, unique_name("never")])
        await delete_topic(creating.bootstrap, topic)
        for _ in range(5):
            await consumer._client.force_metadata_update()
        assert topic not in await list_topics(creating.bootstrap)


async def test_an_admin_client_that_asks(creating: LocalKafka, topic: str) -> None:
    """Describing a topic is not creating it."""
    await delete_topic(creating.bootstrap, topic)
    async with admin_client(creating.bootstrap) as admin:
        (described,) = await admin.describe_topics([topic])
        assert described["error_code"] == UnknownTopicOrPartitionError.errno
    assert topic not in await list_topics(creating.bootstrap)


async def test_connections_that_are_open_already_are_covered(creating: LocalKafka, topic: str) -> None:
    """A client that was started before it was made quiet; twice is as good as once."""
    admin = AIOKafkaAdminClient(bootstrap_servers=creating.bootstrap)
    await admin.start()
    try:
        await admin.list_topics()
        await delete_topic(creating.bootstrap, topic)
        assert no_topic_creation(no_topic_creation(admin)) is admin
        await admin.describe_topics([topic])
        assert topic not in await list_topics(creating.bootstrap)
    finally:
        await admin.close()


async def test_other_users_of_aiokafka_are_left_alone(creating: LocalKafka) -> None:
    """Only the instance changes, not the library."""
    mine = no_topic_creation(AIOKafkaClient(bootstrap_servers=creating.bootstrap))
    theirs = AIOKafkaClient(bootstrap_servers=creating.bootstrap)
    assert type(mine) is not AIOKafkaClient
    assert type(theirs) is AIOKafkaClient


async def test_waiting_ends_when_the_broker_answers(creating: LocalKafka) -> None:
    """One address of several is enough."""
    await wait_for_brokers(f"127.0.0.1:1, {creating.bootstrap}", 5)
