"""Kafka as any program has it: aiokafka's clients as they come, without a line of ours.

`tests.kafka_clients` offers more, but makes its clients leave topics alone that do not exist, by our own means.  What
proves the wire contract must not lean on what it proves; so this is for brokers that create no topics by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import RecordMetadata

Header = tuple[str, bytes | None]

SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to produce; None for the partition lets the key decide."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[Header] = ()
    partition: int | None = None


async def create_topic(bootstrap: str, topic: str, *, partitions: int, config: dict[str, str]) -> None:
    """Create a topic and wait until its partitions have leaders."""
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        answer = await client.create_topics([NewTopic(topic, partitions, 1, topic_configs=config)])
        assert not answer.topic_errors[0][1], answer
        deadline = time.monotonic() + SECONDS_MAX
        while True:
            (described,) = await client.describe_topics([topic])
            if [partition["leader"] >= 0 for partition in described["partitions"]] == [True] * partitions:
                return
            assert time.monotonic() < deadline, described
            await asyncio.sleep(0.05)
    finally:
        await client.close()


async def produce(
    bootstrap: str, record: Outgoing, *, transactional_id: str | None = None, commit: bool = True
) -> RecordMetadata:
    """Write one record, acknowledged by all replicas; with an id in a transaction, committed or aborted."""
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, transactional_id=transactional_id
    ) as producer:
        if transactional_id:
            await producer.begin_transaction()
        written = await producer.send_and_wait(
            record.topic, record.value, key=record.key, partition=record.partition, headers=list(record.headers)
        )
        if transactional_id:
            await (producer.commit_transaction() if commit else producer.abort_transaction())
        return written


async def read(bootstrap: str, topic: str) -> list[ConsumerRecord]:
    """Every committed record that the topic holds now, in order of partition and offset."""
    records: list[ConsumerRecord] = []
    options = {"bootstrap_servers": bootstrap, "auto_offset_reset": "earliest"}  # no group: all partitions of the topic
    async with (
        AIOKafkaConsumer(topic, isolation_level="read_uncommitted", **options) as uncommitted,
        AIOKafkaConsumer(topic, isolation_level="read_committed", **options) as consumer,
    ):
        places = sorted(consumer.assignment())
        ends = await uncommitted.end_offsets(places)  # what is being written now is waited for
        deadline = time.monotonic() + SECONDS_MAX
        while waiting := [place for place in places if await consumer.position(place) < ends[place]]:
            assert time.monotonic() < deadline, f"{waiting} cannot be read to {ends}"
            for place, found in (await consumer.getmany(*waiting, timeout_ms=200)).items():
                records += [record for record in found if record.offset < ends[place]]
    return sorted(records, key=lambda record: (record.partition, record.offset))


async def until_records(bootstrap: str, topic: str, count: int) -> list[ConsumerRecord]:
    """Wait until the topic holds at least so many committed records, and return all of them."""
    deadline = time.monotonic() + SECONDS_MAX
    while len(records := await read(bootstrap, topic)) < count:
        assert time.monotonic() < deadline, f"{topic} holds {len(records)} of {count} records"
        await asyncio.sleep(0.1)
    return records
