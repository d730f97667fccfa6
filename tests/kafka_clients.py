"""Kafka as a stranger to the project sees it: plain clients, for putting things in and looking at what came out.

Nothing here knows the system's topics, headers or tables, so that a test of the wire contract tests the wire. Topics
are created by `create_topics` only: a client that looks at a missing topic must not bring it to life.

``bootstrap`` is an address, or a connection that also says how to be let in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import CoordinatorNotAvailableError, for_code
from aiokafka.protocol.admin import CreateAclsRequest
from aiokafka.structs import RecordMetadata

from dlq_stream.core.connection import Brokers
from dlq_stream.kafka import client_options, no_topic_creation

Header = tuple[str, bytes | None]

SETTLE_SECONDS_MAX = 20.0
READ_SECONDS_MAX = 60.0

# From the protocol's enumerations: ResourceType, PatternType, AclOperation, AclPermissionType.
TOPIC, GROUP, LITERAL, ALL, READ, WRITE, DENY, ALLOW = 2, 3, 3, 2, 3, 4, 2, 3


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to produce; None for the partition lets the key decide, None for the timestamp means now."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[Header] = ()
    partition: int | None = None
    timestamp_ms: int | None = None


@asynccontextmanager
async def admin(bootstrap: Brokers) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client.  A cluster whose only broker was frozen names no broker at first: one is waited for."""
    client = no_topic_creation(AIOKafkaAdminClient(**client_options(bootstrap)))
    await client.start()
    try:
        deadline = time.monotonic() + SETTLE_SECONDS_MAX
        while client._client.get_random_node() is None and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            await client._client.force_metadata_update()
        yield client
    finally:
        await client.close()


def check(answers: Iterable[Sequence[Any]]) -> None:
    """Raise what the broker complained about in (name, error code, message...) rows."""
    for name, code, *rest in answers:
        if code:
            raise for_code(code)(f"{name}: {rest[0] if rest else ''}")


async def create_topics(
    bootstrap: Brokers,
    *topics: str,
    partitions: int = 4,
    replication: int = 1,
    config: Mapping[str, object] | None = None,
) -> None:
    """Create topics and wait until every partition has a leader."""
    settings = {name: str(value) for name, value in (config or {}).items()}
    async with admin(bootstrap) as client:
        answer = await client.create_topics(
            [NewTopic(name, partitions, replication, topic_configs=settings) for name in topics]
        )
        check(answer.topic_errors)
        await until_described(client, topics, lambda topic: leaders(topic) == partitions)


async def delete_topic(bootstrap: Brokers, topic: str) -> None:
    """Delete a topic and wait until it is gone."""
    async with admin(bootstrap) as client:
        answer = await client.delete_topics([topic])
        check(answer.topic_error_codes)
        await until_described(client, [topic], lambda described: described["error_code"] != 0)


async def list_topics(bootstrap: Brokers) -> dict[str, int]:
    """Every topic's number of partitions."""
    async with admin(bootstrap) as client:
        return {topic["topic"]: len(topic["partitions"]) for topic in await client.describe_topics()}


async def topic_config(bootstrap: Brokers, topic: str) -> dict[str, str]:
    """A topic's settings, defaults included."""
    async with admin(bootstrap) as client:
        (answer,) = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        ((code, message, _, name, entries),) = answer.resources
        check([(name, code, message)])
        return {entry[0]: entry[1] for entry in entries}


async def until_described(client: AIOKafkaAdminClient, topics: Sequence[str], wanted: Any) -> None:
    """Wait until the broker describes every one of the topics as wanted."""
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    while not all(map(wanted, described := await client.describe_topics(list(topics)))):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the broker still says {described}")
        await asyncio.sleep(0.05)


def leaders(described: Mapping[str, Any]) -> int:
    """How many partitions of a described topic have a leader."""
    return sum(partition["leader"] >= 0 for partition in described["partitions"])


async def produce(
    bootstrap: Brokers, records: Iterable[Outgoing], *, transactional_id: str | None = None, commit: bool = True
) -> list[RecordMetadata]:
    """Write records in order, acknowledged by all replicas; with an id in one transaction, committed or aborted."""
    producer = AIOKafkaProducer(
        **client_options(bootstrap),
        acks="all",
        enable_idempotence=True,
        transactional_id=transactional_id,
        max_request_size=16 << 20,
    )
    async with no_topic_creation(producer):
        if transactional_id:
            await producer.begin_transaction()
        futures = [await send(producer, record) for record in records]
        written = list(await asyncio.gather(*futures))
        if transactional_id:
            await (producer.commit_transaction() if commit else producer.abort_transaction())
        return written


async def send(producer: AIOKafkaProducer, record: Outgoing) -> asyncio.Future[RecordMetadata]:
    """Hand one record to a producer."""
    headers = list(record.headers)
    if record.key is None and record.value is None:
        # aiokafka refuses these, though Kafka takes them; its batches do not mind, but want to know where to.
        assert record.partition is not None, "a record without key and value needs its partition named"
        batch = producer.create_batch()
        batch.append(key=None, value=None, timestamp=record.timestamp_ms, headers=headers)
        return await producer.send_batch(batch, record.topic, partition=record.partition)
    return await producer.send(
        record.topic,
        record.value,
        key=record.key,
        partition=record.partition,
        timestamp_ms=record.timestamp_ms,
        headers=headers,
    )


@asynccontextmanager
async def consumer(bootstrap: Brokers, **options: Any) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without a group, of bytes, from the beginning."""
    client = AIOKafkaConsumer(
        **client_options(bootstrap),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_wait_ms=100,
        max_partition_fetch_bytes=16 << 20,
        **options,
    )
    async with no_topic_creation(client):
        yield client


async def read_topic(
    bootstrap: Brokers,
    topic: str,
    *,
    isolation: str = "read_committed",
    settled: bool = True,
    keep: Callable[[ConsumerRecord], ConsumerRecord] = lambda record: record,
) -> list[ConsumerRecord]:
    """Every record that the topic holds now, in order of partition and offset.

    A commit returns before its markers are written, and what follows an open transaction is not visible. So the end is
    what is written now, and is waited for; `settled=False` stops at what is visible now instead. `keep` says what of
    each record is kept in memory.
    """
    count = (await list_topics(bootstrap))[topic]
    partitions = [TopicPartition(topic, number) for number in range(count)]
    async with consumer(bootstrap, isolation_level="read_uncommitted" if settled else isolation) as client:
        client.assign(partitions)
        ends = await client.end_offsets(partitions)
    records: list[ConsumerRecord] = []
    deadline = time.monotonic() + READ_SECONDS_MAX
    async with consumer(bootstrap, isolation_level=isolation) as client:
        client.assign(partitions)
        while rest := [one for one in partitions if await client.position(one) < ends[one]]:
            for batch in (await client.getmany(*rest, timeout_ms=200)).values():
                records += [keep(record) for record in batch if record.offset < ends[place_of(record)]]
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic} was not read to its end in {READ_SECONDS_MAX:g} s: {rest}, {ends}")
    return sorted(records, key=lambda record: (record.partition, record.offset))


def place_of(record: ConsumerRecord) -> TopicPartition:
    """The partition that a record is from."""
    return TopicPartition(record.topic, record.partition)


async def until_records(
    bootstrap: Brokers, topic: str, count: int, *, seconds: float = 30.0, isolation: str = "read_committed"
) -> list[ConsumerRecord]:
    """Wait until the topic holds at least so many records, and return all of them."""
    deadline = time.monotonic() + seconds
    while len(records := await read_topic(bootstrap, topic, isolation=isolation)) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{topic} holds {len(records)} of {count} records after {seconds:g} s")
        await asyncio.sleep(0.1)
    return records


async def committed_offsets(bootstrap: Brokers, group: str) -> dict[TopicPartition, int]:
    """What a consumer group has committed."""
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    async with admin(bootstrap) as client:
        while True:
            try:
                offsets = await client.list_consumer_group_offsets(group)
            except CoordinatorNotAvailableError:  # a new broker makes the topic of offsets on the first question
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
            else:
                return {partition: offset.offset for partition, offset in offsets.items() if offset.offset >= 0}


async def commit_offsets(bootstrap: Brokers, group: str, places: Mapping[TopicPartition, int]) -> None:
    """Commit for a group without members, as `kafka-consumer-groups --reset-offsets` does."""
    client = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    async with no_topic_creation(client):
        client.assign(list(places))
        await client.commit(dict(places))


async def forbid_writing(bootstrap: Brokers, topic: str) -> None:
    """Let everybody do everything with this topic but write to it (a broker made with `authorizer=True`)."""
    async with admin(bootstrap) as client:
        for operation, permission in ((ALL, ALLOW), (WRITE, DENY)):
            request = CreateAclsRequest(TOPIC, topic, LITERAL, "User:ANONYMOUS", "*", operation, permission)
            answer = await client._send_request(request)
            check([(topic, *answered) for answered in answer.creation_responses])


async def forbid_reading(bootstrap: Brokers, group: str) -> None:
    """Let nobody be a member of this consumer group (a broker made with `authorizer=True`)."""
    async with admin(bootstrap) as client:
        request = CreateAclsRequest(GROUP, group, LITERAL, "User:ANONYMOUS", "*", READ, DENY)
        answer = await client._send_request(request)
        check([(group, *answered) for answered in answer.creation_responses])
