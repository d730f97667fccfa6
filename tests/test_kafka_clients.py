"""The tests' own instruments: what they read is what was written, and an ACL keeps them from writing."""

from __future__ import annotations

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import TopicAuthorizationFailedError, UnknownTopicOrPartitionError

from tests.kafka_clients import (
    Outgoing,
    committed_offsets,
    create_topics,
    delete_topic,
    forbid_writing,
    list_topics,
    produce,
    read_topic,
    topic_config,
    until_records,
)
from tests.kafka_fixture import KafkaFactory, LocalKafka, unique_name


async def test_what_is_produced_is_read(kafka: LocalKafka) -> None:
    """Keys, null values, repeated and null headers, partitions and timestamps come back as they were."""
    topic = unique_name("plain")
    await create_topics(kafka.bootstrap, topic, partitions=3, config={"message.timestamp.type": "CreateTime"})
    headers = [("a", b"1"), ("a", b"2"), ("b", None), ("c", b"\xff\x00")]
    written = await produce(
        kafka.bootstrap,
        [
            Outgoing(topic, b"v", b"k", headers, partition=2, timestamp_ms=1_700_000_000_000),
            Outgoing(topic, None, None, partition=0),
        ],
    )
    assert [(place.partition, place.offset) for place in written] == [(2, 0), (0, 0)]
    second, first = await until_records(kafka.bootstrap, topic, 2)
    assert (first.partition, first.key, first.value, first.timestamp) == (2, b"k", b"v", 1_700_000_000_000)
    assert list(first.headers) == headers
    assert (second.partition, second.key, second.value) == (0, None, None)
    assert (await topic_config(kafka.bootstrap, topic))["message.timestamp.type"] == "CreateTime"


async def test_reading_ends_behind_transaction_markers(kafka: LocalKafka) -> None:
    """Commit and abort markers at a partition's end do not keep a reader waiting, and aborted records are not seen."""
    topic = unique_name("transactions")
    await create_topics(kafka.bootstrap, topic, partitions=1)
    name = unique_name("producer")
    await produce(kafka.bootstrap, [Outgoing(topic, b"yes")], transactional_id=name)
    await produce(kafka.bootstrap, [Outgoing(topic, b"no")], transactional_id=name, commit=False)
    assert [record.value for record in await read_topic(kafka.bootstrap, topic)] == [b"yes"]
    everything = await read_topic(kafka.bootstrap, topic, isolation="read_uncommitted")
    assert [record.value for record in everything] == [b"yes", b"no"]


async def test_committed_offsets_of_a_group(kafka: LocalKafka) -> None:
    """A group's commits are seen, and a group without any has none."""
    topic, group = unique_name("offsets"), unique_name("group")
    await create_topics(kafka.bootstrap, topic, partitions=1)
    await produce(kafka.bootstrap, [Outgoing(topic, b"1")])
    assert await committed_offsets(kafka.bootstrap, group) == {}
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=kafka.bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False
    )
    async with consumer:
        await consumer.getone()
        await consumer.commit()
    assert await committed_offsets(kafka.bootstrap, group) == {TopicPartition(topic, 0): 1}


async def test_a_deleted_topic_stays_deleted(kafka_factory: KafkaFactory) -> None:
    """Looking at a topic does not bring it back, though the broker creates topics for clients that ask."""
    broker = kafka_factory(auto_create=True)
    topic = unique_name("gone")
    await create_topics(broker.bootstrap, topic)
    await delete_topic(broker.bootstrap, topic)
    with pytest.raises(UnknownTopicOrPartitionError):
        await topic_config(broker.bootstrap, topic)
    assert topic not in await list_topics(broker.bootstrap)


async def test_an_acl_forbids_one_topic(kafka_factory: KafkaFactory) -> None:
    """Writing is refused where it was forbidden, reading is not, and other topics are open, transactions included."""
    broker = kafka_factory(authorizer=True)
    forbidden, free = unique_name("forbidden"), unique_name("free")
    await create_topics(broker.bootstrap, forbidden, free, partitions=1)
    await produce(broker.bootstrap, [Outgoing(forbidden, b"before")])
    await forbid_writing(broker.bootstrap, forbidden)
    with pytest.raises(TopicAuthorizationFailedError):
        await produce(broker.bootstrap, [Outgoing(forbidden, b"after")])
    await produce(broker.bootstrap, [Outgoing(free, b"free")], transactional_id="t")
    assert [record.value for record in await read_topic(broker.bootstrap, free)] == [b"free"]
    assert [record.value for record in await read_topic(broker.bootstrap, forbidden)] == [b"before"]
