"""Records that no client can read: they harm no other record, and no other partition."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from dlq_stream.client import consumer as consumer_module
from dlq_stream.core.headers import parse_failure
from dlq_stream.core.model import Record
from dlq_stream.kafka import no_topic_creation
from tests.client.agent import Agent
from tests.kafka_clients import Outgoing, produce, read_topic
from tests.kafka_fixture import LocalKafka
from tests.test_tolerant import RawName


@pytest.fixture
async def agent(kafka: LocalKafka) -> Agent:
    made = Agent(kafka.bootstrap)
    await made.make_topics()
    return made


async def write(agent: Agent, headers: list[tuple[str, bytes]]) -> None:
    """Write a record by means of a batch that encodes header names as they say."""
    async with no_topic_creation(AIOKafkaProducer(bootstrap_servers=agent.bootstrap)) as producer:
        batch = producer.create_batch()
        batch._builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, -1, 1 << 20)
        batch.append(key=b"k", value=b"1", timestamp=None, headers=headers)
        await (await producer.send_batch(batch, agent.topic, partition=0))


async def test_a_header_name_that_is_not_utf_8(agent: Agent) -> None:
    """Any client in C or Go can write one; it is handled, reported and committed like any other record."""
    await produce(agent.bootstrap, [Outgoing(agent.topic, b"0", b"k", (), 0)])
    await write(agent, [(RawName(b"\xff\xfe"), b"x"), ("trace", b"7")])
    await produce(agent.bootstrap, [Outgoing(agent.topic, b"2", b"k", (), 0)])

    async def handle(record: Record) -> None:
        agent.note(record)
        if record.offset == 1:
            raise ValueError("odd")

    async with agent.consuming(handle):
        await agent.until_committed(3)
    assert [offset for *_, offset in agent.seen] == [0, 1, 2]
    (event,) = [parse_failure(record) for record in await read_topic(agent.bootstrap, agent.failures)]
    assert (event.value, event.headers) == (b"1", (("??", b"x"), ("trace", b"7")))


async def test_a_record_that_cannot_be_read_costs_no_other_partition_its_records(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What aiokafka had taken of other partitions when it found one unreadable was given to nobody."""
    monkeypatch.setattr(consumer_module, "REJOIN_SECONDS", 0.1)
    getall = FetchResult.getall
    drained = broken = 0

    def some_are_corrupt(self: Any, max_records: int | None = None) -> list[Any]:
        nonlocal drained, broken
        if drained and broken < 3:  # another partition was drained within this very poll
            broken += 1
            raise CorruptRecordException("no such record")
        found: list[Any] = getall(self, max_records)
        if found:
            drained += 1
            asyncio.get_running_loop().call_soon(forget)
        return found

    def forget() -> None:
        nonlocal drained
        drained = 0

    monkeypatch.setattr(FetchResult, "getall", some_are_corrupt)
    await agent.send(200, value="{{}}")
    async with agent.consuming():
        await agent.until_committed(200)
    assert broken == 3
    assert len(set(agent.seen)) == 200
