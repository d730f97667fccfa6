"""The transactional producer on a real broker: what it writes, what it learns of refusals, and when it gives up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import TopicPartition

from dlq_stream.kafka import client_options
from dlq_stream.runtime.ports import Batch, Fenced, OutcomeUnknown, Refusal, Unavailable
from dlq_stream.runtime.producer import KafkaProducer
from tests.kafka_clients import committed_offsets, create_topics, delete_topic, read_topic
from tests.kafka_fixture import KafkaFactory, LocalKafka, unique_name

DEADLINE_SECONDS = 10 * 0.4


class Wire:
    """Producers of one broker, and what readers of committed records see."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.group = unique_name("workers")
        self.gone: set[str] = set()
        self._made: list[KafkaProducer] = []

    async def producer(self) -> KafkaProducer:
        """A producer of the one transactional id that all of them have."""

        async def missing(topics: Any) -> bool:
            return bool(self.gone & set(topics))

        made = KafkaProducer(
            f"{self.group}-p0",
            group=self.group,
            partition=0,
            options={**client_options(self.bootstrap), "client_id": "test"},
            transaction_timeout_seconds=10.0,
            request_bytes_max=4 << 20,
            missing=missing,
        )
        self._made.append(made)
        await made.start()
        return made

    async def topic(self, **config: object) -> str:
        name = unique_name("wire")
        settings = {setting.replace("_", "."): value for setting, value in config.items()}
        await create_topics(self.bootstrap, name, partitions=1, config=settings)
        return name

    async def values(self, topic: str) -> list[bytes | None]:
        return [record.value for record in await read_topic(self.bootstrap, topic)]

    async def close(self) -> None:
        for producer in self._made:
            await producer.stop()


@asynccontextmanager
async def wire_to(bootstrap: str) -> AsyncIterator[Wire]:
    made = Wire(bootstrap)
    try:
        yield made
    finally:
        await made.close()


@pytest_asyncio.fixture
async def wire(kafka: LocalKafka) -> AsyncIterator[Wire]:
    """The session's broker."""
    async with wire_to(kafka.bootstrap) as made:
        yield made


def with_key(number: int) -> bytes | None:
    return b"k"


def batch(topic: str, *values: bytes, keys: Callable[[int], bytes | None] = with_key, **options: Any) -> Batch:
    records = [(keys(number), value, (("n", b"%d" % number),)) for number, value in enumerate(values)]
    return Batch(topic, 0, records, **({"batch_bytes_max": 100_000} | options))


async def test_records_and_offsets_are_one_transaction(wire: Wire) -> None:
    """Neither is visible before the commit, both are after it."""
    producer, one, two = await wire.producer(), await wire.topic(), await wire.topic()
    written = await producer.write([batch(one, b"a", b"b"), batch(two, b"c", compress=True)], {one: 17})
    assert (written.last_offsets, written.refusals) == ([1, 0], [])
    assert await committed_offsets(wire.bootstrap, wire.group) == {}
    await producer.commit()
    assert [await wire.values(topic) for topic in (one, two)] == [[b"a", b"b"], [b"c"]]
    assert await committed_offsets(wire.bootstrap, wire.group) == {TopicPartition(one, 0): 17}
    [first, _] = await read_topic(wire.bootstrap, one)
    assert (first.key, first.headers) == (b"k", (("n", b"0"),))


async def test_transactions_follow_each_other(wire: Wire) -> None:
    """The markers of the former one may still be on their way; offsets count them."""
    producer, topic = await wire.producer(), await wire.topic()
    offsets = []
    for number in range(5):
        offsets += (await producer.write([batch(topic, b"%d" % number)], {})).last_offsets
        await producer.commit()
    assert offsets == [0, 2, 4, 6, 8]
    assert await wire.values(topic) == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_large_batch_is_cut_for_its_destination(wire: Wire) -> None:
    """``max.message.bytes`` bounds a record batch, not a record alone; the last offset is the last record's."""
    producer, topic = await wire.producer(), await wire.topic(max_message_bytes=2_000)
    written = await producer.write([batch(topic, *(b"%d" % n * 400 for n in range(10)), batch_bytes_max=2_000)], {})
    assert (written.last_offsets, written.refusals) == ([9], [])
    await producer.commit()
    assert len(await wire.values(topic)) == 10


async def test_a_new_start_ends_what_was_open(wire: Wire) -> None:
    """Its own, and that of a former owner, who is fenced at his next step."""
    former, topic = await wire.producer(), await wire.topic()
    await former.write([batch(topic, b"abandoned")], {topic: 5})
    await former.start()
    await former.write([batch(topic, b"fenced")], {topic: 6})
    owner = await wire.producer()
    await owner.write([batch(topic, b"kept")], {topic: 7})
    with pytest.raises(Fenced):
        await former.commit()
    await owner.commit()
    assert await wire.values(topic) == [b"kept"]
    assert await committed_offsets(wire.bootstrap, wire.group) == {TopicPartition(topic, 0): 7}


async def test_a_fenced_producer_writes_nothing(wire: Wire) -> None:
    """Not even what nobody would see."""
    former, topic = await wire.producer(), await wire.topic()
    await wire.producer()
    with pytest.raises(Fenced):
        await former.write([batch(topic, b"late")], {topic: 1})
    assert await read_topic(wire.bootstrap, topic, isolation="read_uncommitted") == []


# ------------------------------------------------------------------------------------------------------------- refusals


async def refusals(producer: KafkaProducer, *batches: Batch) -> list[Refusal]:
    """What is refused, in a transaction of its own."""
    written = await producer.write(batches, {batches[0].topic: 1})
    await producer.start()
    return written.refusals


async def test_a_refused_record_is_found_among_good_ones(wire: Wire) -> None:
    """A compacted topic takes no record without a key: its batch is refused, then, one by one, only itself."""
    producer, topic, other = await wire.producer(), await wire.topic(cleanup_policy="compact"), await wire.topic()
    values = [b"%d" % number for number in range(20)]
    keyless = {3, 4, 11, 19}

    def keys(number: int) -> bytes | None:
        return None if number in keyless else b"k%d" % number

    [whole] = await refusals(producer, batch(topic, *values, keys=keys), batch(other, b"good"))
    assert (whole.topic, whole.records) == (topic, tuple(range(20)))
    [single] = await refusals(producer, batch(topic, *values, keys=keys, one_by_one=True), batch(other, b"good"))
    assert set(single.records) == keyless
    assert "invalid-record" in single.reason
    good = [(b"k%d" % number, values[number], ()) for number in range(20) if number not in keyless]
    written = await producer.write([Batch(topic, 0, good, 100_000, one_by_one=True)], {})
    assert written.refusals == []
    await producer.commit()
    assert len(await wire.values(topic)) == 16
    assert await wire.values(other) == []


async def test_a_refused_batch_does_not_accuse_those_behind_it(wire: Wire) -> None:
    """What follows a refusal fails, too, for its sequence number; that is nobody's fault."""
    producer, topic = await wire.producer(), await wire.topic(cleanup_policy="compact")
    values = [b"%d" % number * 300 for number in range(9)]
    cut = batch(topic, *values, keys=lambda n: None if n == 1 else b"k", batch_bytes_max=1_100)
    [refusal] = await refusals(producer, cut)
    assert 1 in refusal.records
    assert len(refusal.records) < 9


async def test_a_record_that_is_too_large_is_named_so(wire: Wire) -> None:
    """The topic's limit was lowered since anybody looked."""
    producer, topic = await wire.producer(), await wire.topic(max_message_bytes=500)
    [refusal] = await refusals(producer, batch(topic, b"x" * 900))
    assert (refusal.topic, refusal.records, refusal.reason) == (topic, (0,), "too-large")
    [refusal] = await refusals(producer, batch(topic, b"a", b"x" * 900, b"b", one_by_one=True))
    assert (refusal.records, refusal.reason) == ((1,), "too-large")


async def test_many_refused_records_are_named_in_few_tries(wire: Wire) -> None:
    """Each try names as many as it finds in half the time that a transaction has."""
    producer, topic = await wire.producer(), await wire.topic(cleanup_policy="compact")
    left = list(range(200))
    tries = 0
    while True:
        tries += 1
        wanted = [(None if n % 2 else b"k", b"%d" % n, ()) for n in left]
        found = await refusals(producer, Batch(topic, 0, wanted, 100_000, one_by_one=True))
        if not found:
            break
        left = [n for position, n in enumerate(left) if position not in found[0].records]
    assert left == list(range(0, 200, 2))
    assert tries < 20


# -------------------------------------------------------------------------------------------------------------- silence


async def test_a_destination_that_went_away_is_found_out_before_the_deadline(wire: Wire) -> None:
    """aiokafka would wait for it to come back; and the producer goes on with others."""
    producer, topic = await wire.producer(), await wire.topic()
    await producer.write([batch(topic, b"a")], {})
    await producer.commit()
    await delete_topic(wire.bootstrap, topic)
    wire.gone.add(topic)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await producer.write([batch(topic, b"b")], {})
    assert time.monotonic() - began < DEADLINE_SECONDS - 1
    await producer.start()
    other = await wire.topic()
    await producer.write([batch(other, b"c")], {})
    await producer.commit()
    assert await wire.values(other) == [b"c"]


async def test_brokers_that_hang(kafka_factory: KafkaFactory) -> None:
    """At a write and at a start: try again.  At a commit: nobody knows.  Each within its time."""
    broker = kafka_factory()
    async with wire_to(broker.bootstrap) as wire:
        producer, topic = await wire.producer(), await wire.topic()

        async def hangs(step: Any, seconds_max: float, expected: type[Exception]) -> None:
            broker.pause()
            began = time.monotonic()
            try:
                with pytest.raises(expected):
                    await step
                assert time.monotonic() - began < seconds_max
            finally:
                broker.resume()

        await producer.write([batch(topic, b"unknown")], {})
        await hangs(producer.commit(), DEADLINE_SECONDS + 1, OutcomeUnknown)
        await until_started(producer)
        await hangs(producer.write([batch(topic, b"void")], {topic: 1}), DEADLINE_SECONDS + 1, Unavailable)
        await hangs(producer.start(), 2 * DEADLINE_SECONDS + 2, Unavailable)
        await until_started(producer)
        await producer.write([batch(topic, b"last")], {topic: 3})
        await producer.commit()
        assert (await wire.values(topic)) in ([b"last"], [b"unknown", b"last"])


async def until_started(producer: KafkaProducer) -> None:
    """As a partition does it."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await producer.start()
            except Unavailable:
                await asyncio.sleep(0.1)


async def test_stopping_takes_no_time_and_no_care(wire: Wire) -> None:
    """In the middle of a transaction, and twice."""
    producer, topic = await wire.producer(), await wire.topic()
    await producer.write([batch(topic, b"a")], {})
    began = time.monotonic()
    await producer.stop()
    await producer.stop()
    assert time.monotonic() - began < 1
    with pytest.raises(Unavailable):
        await producer.write([batch(topic, b"b")], {})
