"""Refusals of single records, against a broker that counts sequence numbers; errors that are no refusals."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors
from aiokafka.producer.sender import AddPartitionsToTxnHandler
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.runtime.broker_errors import is_away, refusal_of
from dlq_stream.runtime.ports import Batch, Refusal, Unavailable
from dlq_stream.runtime.producer import AFTER_COMMIT_SECONDS, KafkaProducer


class Broker:
    """Appends record batches whose sequence numbers follow each other, except those with a bad record."""

    def __init__(self, refusal: Exception) -> None:
        self.refusal = refusal
        self.appended: list[bytes] = []
        self.requests = 0

    def append(self, first_sequence: int, values: Sequence[bytes]) -> int:
        self.requests += 1
        if first_sequence != len(self.appended):
            raise errors.OutOfOrderSequenceNumber
        if b"bad" in values:
            raise self.refusal
        self.appended += values
        return first_sequence


class Client:
    """aiokafka's producer, as far as it is used: it counts on, whatever became of a batch."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.sequence = 0
        self.client = SimpleNamespace(add_topic=lambda topic: None)
        self._txn_manager = SimpleNamespace(increment_sequence_number=self._increment)

    def _increment(self, place: Any, count: int) -> None:
        self.sequence += count

    async def partitions_for(self, topic: str) -> set[int]:
        return {0}

    async def send_batch(self, builder: Any, topic: str, *, partition: int) -> asyncio.Future[Any]:
        values = []
        records = MemoryRecords(bytes(builder._build()))
        while records.has_next():
            values += [record.value for record in records.next_batch()]
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            answer.set_result(SimpleNamespace(offset=self.broker.append(self.sequence, values)))
        except errors.KafkaError as error:
            answer.set_exception(error)
        self.sequence += len(values)
        return answer


async def missing(topics: Any) -> bool:
    return False


def a_producer(transaction_timeout_seconds: float = 10) -> KafkaProducer:
    """One that is not started."""
    return KafkaProducer(
        "app-p0",
        group="app",
        partition=0,
        options={},
        transaction_timeout_seconds=transaction_timeout_seconds,
        request_bytes_max=1 << 20,
        missing=missing,
    )


def produced(broker: Broker, values: Sequence[bytes], *, one_by_one: bool, bytes_max: int = 10_000) -> Any:
    """What becomes of a batch."""
    producer = a_producer()
    batch = Batch("topic", 0, [(b"key", value, ()) for value in values], bytes_max, one_by_one=one_by_one)
    client: Any = Client(broker)
    return asyncio.run(producer._produce(client, batch))


@given(st.lists(st.sampled_from([b"good", b"bad"]), min_size=1, max_size=40))
def test_exactly_the_records_at_fault_are_named(values: list[bytes]) -> None:
    """Those behind them are none of them, though an idempotent producer's numbers have a hole then."""
    broker = Broker(errors.UnknownError())
    found = produced(broker, values, one_by_one=True)
    bad = tuple(position for position, value in enumerate(values) if value == b"bad")
    if bad:
        assert isinstance(found, Refusal)
        assert found.records == bad
    else:
        assert found[-1] == len(values) - 1
    assert broker.appended == [b"good"] * (len(values) - len(bad))


def test_few_requests_find_one_of_many() -> None:
    """By halving."""
    broker = Broker(errors.MessageSizeTooLargeError())
    found = produced(broker, [b"good"] * 300 + [b"bad"] + [b"good"] * 199, one_by_one=True)
    assert found == Refusal("topic", 0, "too-large", (300,))
    assert broker.requests < 25


def test_what_follows_a_refused_batch_is_not_refused() -> None:
    """Its sequence numbers are out of order for no fault of its own."""
    values = [b"bad", *[b"good" * 10] * 20]
    found = produced(Broker(errors.UnknownError()), values, one_by_one=False, bytes_max=110)
    assert found.records == (0,)


def test_a_destination_that_refuses_needs_no_search() -> None:
    """Every record would be refused."""
    for one_by_one in (True, False):
        broker = Broker(errors.TopicAuthorizationFailedError("topic"))
        found = produced(broker, [b"bad"] * 9, one_by_one=one_by_one)
        assert (found, broker.requests) == (Refusal("topic", 0, "not-authorised"), 1)


@pytest.mark.parametrize(
    "error",
    [
        errors.ProducerFenced(),
        errors.InvalidTxnState(),
        errors.OutOfOrderSequenceNumber(),
        errors.KafkaConnectionError(),
        errors.KafkaError("bare"),
        ValueError(),
    ],
    ids=repr,
)
def test_what_is_no_fault_of_a_record_is_no_refusal(error: Exception) -> None:
    """A message must not be given up for it."""
    with pytest.raises(type(error)):
        refusal_of(error)


def test_what_to_try_again() -> None:
    """Brokers that are away, and producers that are void; a programming error is neither."""
    assert is_away(errors.KafkaError("bare: a connection was lost while a coordinator was looked for"))
    assert is_away(errors.InvalidTxnState())
    assert is_away(TimeoutError())
    assert not is_away(errors.UnsupportedVersionError())
    assert not is_away(AssertionError())


def test_a_transaction_that_follows_at_once_does_not_wait_long_for_its_predecessor() -> None:
    """Brokers answer so while they write the markers of the one before; other answers have aiokafka's usual pause."""
    a_producer()
    manager = SimpleNamespace(txn_partitions=set())
    sender = SimpleNamespace(_retry_backoff=0.1, _txn_manager=manager)
    handler = AddPartitionsToTxnHandler(sender, [])
    answer = SimpleNamespace(errors=[("heat-processing", [(0, errors.ConcurrentTransactions.errno)])])
    assert handler.handle_response(answer) == AFTER_COMMIT_SECONDS
    manager.txn_partitions.add(("heat-processing", 0))
    assert handler.handle_response(answer) == 0.1


class Values(list[tuple[bytes, bytes, tuple[()]]]):
    """Records of a batch, told from other lists."""


@pytest.mark.parametrize("answered", [True, False])
def test_a_try_that_failed_leaves_no_batch_behind(answered: bool) -> None:
    """Tries follow each other for as long as brokers are away, and garbage is looked for now and then."""

    async def send_batch(builder: Any, topic: str, *, partition: int) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if answered:
            answer.set_exception(errors.KafkaConnectionError("gone"))
        return answer

    async def nothing(*_: Any) -> None:
        pass

    async def partitions_for(topic: str) -> set[int]:
        return {0}

    async def tried() -> int:
        producer = a_producer(0.1)
        future = asyncio.get_running_loop().create_future
        client: Any = SimpleNamespace(
            _sender=SimpleNamespace(sender_task=None),
            begin_transaction=nothing,
            send_offsets_to_transaction=nothing,
            send_batch=send_batch,
            partitions_for=partitions_for,
            client=SimpleNamespace(add_topic=lambda topic: None, close=nothing),
            _txn_manager=SimpleNamespace(wait_for_transaction_end=future),
        )
        for _ in range(3):
            producer._producer = client
            with pytest.raises(Unavailable):
                await producer.write([Batch("topic", 0, Values([(b"key", b"value", ())]), 10_000)], {"app-failures": 1})
        await asyncio.sleep(0)
        return sum(type(each) is Values for each in gc.get_objects())

    gc.disable()
    try:
        assert asyncio.run(tried()) == 0
    finally:
        gc.enable()
