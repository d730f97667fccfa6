"""What the types say to those who use the package: checked by mypy (`make lint`), never run.

Each function is a piece of somebody's program.  A line that must not type-check says so with an ignore comment, and
mypy complains about ignores that are not needed: so the refusals are checked, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import assert_type

import confluent_kafka

import dlq_stream
from dlq_stream import (
    Connection,
    DLQMessageStatus,
    ErrorCategory,
    FailureReporter,
    Permanent,
    RetryAfter,
    RetryConsumer,
    Security,
    SyncFailureReporter,
)
from dlq_stream.client import Delivery, NotStarted, PlainRecord, UnusableRecord
from dlq_stream.client.delivery import delivery_of
from dlq_stream.core.errors import DLQError
from dlq_stream.core.model import Headers, Record
from dlq_stream.core.transaction import Destination, Transaction
from dlq_stream.engine import EmitResult, Engine, apply_commands, apply_failures, emit_due, retain
from dlq_stream.tables import attempts, messages
from dlq_stream.tables.attempts import Attempt
from dlq_stream.tables.messages import DeadLetter, Message

assert_type(dlq_stream.__version__, str)


@dataclass(frozen=True)
class Reading:
    """A consumer's own type of record: it fits `Record` by its shape alone."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True)
class Parsed:
    """No record: its value is not bytes any more."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: dict[str, float]
    headers: Headers


async def agent(reading: Reading, parsed: Parsed, brokers: list[str]) -> None:
    """What an agent does with a reporter."""
    async with FailureReporter(brokers, "heat-agents", outcomes=True) as reporter:
        assert_type(reporter, FailureReporter)
        try:
            assert_type(await reporter.succeeded(reading), None)
        except (NotStarted, UnusableRecord) as error:
            caught: DLQError = error
            message_id = await reporter.report(reading, caught, queue="ovens", metadata={"furnace": 7})
            assert_type(message_id, str)
        await reporter.report(reading, KeyboardInterrupt(), category=ErrorCategory.TRANSIENT)
        await reporter.report(reading, ValueError(), category="permanent")

        await reporter.report(parsed, ValueError())  # type: ignore[arg-type]
        await reporter.report(reading, "it broke")  # type: ignore[arg-type]
        await reporter.report(reading, ValueError(), metadata="furnace 7")  # type: ignore[arg-type]
        await reporter.report(reading, ValueError(), "ovens")  # type: ignore[call-arg]
        await reporter.succeeded(reading, 1)  # type: ignore[call-arg]
    FailureReporter("kafka:9092, kafka-2:9092", group="heat-agents", app_id="dlq", linger_ms=0, timeout_seconds=1)
    security = Security("SASL_SSL", "SCRAM-SHA-512", "heat-agents", "secret", cafile="/etc/kafka/ca.pem")
    FailureReporter(brokers, "heat-agents", security=security)
    FailureReporter(Connection(("kafka:9093",), security), "heat-agents")
    FailureReporter(brokers, "heat-agents", security="SASL_SSL")  # type: ignore[arg-type]
    security.password = "other"  # type: ignore[misc]
    FailureReporter("kafka:9092")  # type: ignore[call-arg]
    FailureReporter("kafka:9092", "heat-agents", True)  # type: ignore[call-arg]


async def other_records(reporter: FailureReporter, message: confluent_kafka.Message) -> None:
    """Whatever library a record comes from, or none."""
    plain = PlainRecord("heat-processing", 3, 81, 1_700_000_000_000, b"key", None, (("unit", b"K"), ("unit", None)))
    for record in (message, plain, ("heat-processing", 3, 81, -1, None, b"{}", [("unit", "K")])):
        assert_type(reporter.delivery(record), Delivery | None)
        assert_type(await reporter.report(record, ValueError()), str)
        await reporter.succeeded(record)
    await reporter.report(("heat-processing", 3, 81, -1, None, {"kiln": 7}, ()), ValueError())  # type: ignore[arg-type]
    await reporter.report("heat-processing", ValueError())  # type: ignore[arg-type]
    PlainRecord("heat-processing", 3, 81, 1_700_000_000.5, b"key", None)  # type: ignore[arg-type]


def synchronous(message: confluent_kafka.Message, reading: Reading, parsed: Parsed) -> None:
    """The same without asyncio."""
    with SyncFailureReporter(
        ["kafka:9092"], "heat-agents", mask_headers=["*token*"], mask_pointers=["/card"]
    ) as reporter:
        assert_type(reporter, SyncFailureReporter)
        assert_type(reporter.report(message, ValueError(), category="permanent", metadata={"furnace": 7}), str)
        assert_type(reporter.submit(reading, ValueError(), queue="ovens"), Future[str])
        assert_type(reporter.delivery(message), Delivery | None)
        assert_type(reporter.submit_succeeded(message), Future[None])
        reporter.succeeded(reading)

        reporter.report(parsed, ValueError())  # type: ignore[arg-type]
        reporter.report(message, "it broke")  # type: ignore[arg-type]
    SyncFailureReporter("kafka:9092")  # type: ignore[call-arg]


def handler(reading: Reading) -> None:
    """A handler that knows better than policy."""
    RetryAfter("soon")  # type: ignore[arg-type]
    try:
        raise TimeoutError
    except TimeoutError as error:
        if reading.value is None:
            raise Permanent("a tombstone") from error
        raise RetryAfter(1.5, "busy") from error


async def handle(record: Record) -> None:
    """What an agent does with a record."""


def handle_plainly(record: Record) -> str:
    """What it returns does not matter."""
    return record.topic


async def consume(brokers: list[str], reporter: FailureReporter) -> None:
    """What an agent does with a consumer."""
    consumer = RetryConsumer("heat-processing", group="heat-agents", handler=handle, brokers=brokers)
    assert_type(await consumer.run(), None)
    assert_type(consumer.stop(), None)
    assert_type(consumer.reporter, FailureReporter)
    RetryConsumer(["heat", "cold"], "heat-agents", handle_plainly, "kafka:9092", concurrency=4, stop_seconds=1)
    RetryConsumer("heat", "heat-agents", handle, brokers, retry_topics=[], reporter=reporter, queue="ovens")
    RetryConsumer("heat", "heat-agents", lambda: None, brokers)  # type: ignore[arg-type]
    RetryConsumer("heat", "heat-agents", handle, brokers, auto_offset_reset="none")  # type: ignore[arg-type]
    RetryConsumer("heat", "heat-agents", handle, brokers, "ovens")  # type: ignore[call-arg]
    RetryConsumer("heat", "heat-agents", handle)  # type: ignore[call-arg]


def delivery(reading: Reading) -> int:
    """Which delivery of its message a record is."""
    found = delivery_of(reading, "heat-agents")
    assert_type(found, Delivery | None)
    return 0 if found is None else found.attempt


def words(row: Message) -> str:
    """Statuses and categories are text as well."""
    assert_type(row.status, DLQMessageStatus)
    assert_type(row.category, ErrorCategory)
    assert_type(row.dead_letter, DeadLetter)
    assert_type(row.due_ms, int | None)
    row.status = DLQMessageStatus.PENDING  # type: ignore[misc]
    return row.status


def stage(tx: Transaction, message_id: bytes) -> int | None:
    """Typed access to tables, and the raw one below it."""
    row = messages.get(tx, message_id)
    assert_type(row, Message | None)
    assert_type(messages.get_many(tx, [message_id]), dict[bytes, Message | None])
    assert_type(attempts.get(tx, message_id, 0), Attempt | None)
    assert_type(attempts.history(tx, message_id, 10), list[tuple[int, Attempt]])
    assert_type(messages.due_until(tx, tx.now_ms, 10), list[tuple[int, bytes]])
    assert_type(tx.get_many("messages", {message_id}), dict[bytes, bytes | None])
    assert_type(tx.scan("due", b"", b"\xff", 10, reverse=True), list[tuple[bytes, bytes]])

    known = tx.destination("heat-processing")
    assert_type(known, Destination | None)
    if row is None or known is None or known.refusal is not None:
        return None
    mark = tx.mark()
    messages.put(tx, message_id, row)
    tx.send("heat-processing", None, b"{}", (("unit", b"K"), ("unit", None)), row.origin_partition)
    tx.rollback(mark)
    tx.after_commit(lambda: None)

    messages.put(tx, message_id, None)  # type: ignore[arg-type]
    messages.get(tx, message_id.hex())  # type: ignore[arg-type]
    tx.put("messages", message_id, None)  # type: ignore[arg-type]
    tx.send("heat-processing", None, b"{}", {"unit": b"K"})  # type: ignore[arg-type]
    row.due_ms + 1  # type: ignore[operator]
    return row.due_ms


def engine(tx: Transaction, context: Engine, records: Sequence[Reading]) -> None:
    """The steps of the engine, each a function of one transaction."""
    batch: Sequence[Record] = records
    assert_type(apply_failures(tx, batch, context), None)
    assert_type(apply_commands(tx, batch, context), None)
    assert_type(emit_due(tx, context, records_max=500, bytes_max=1 << 20), EmitResult)
    assert_type(retain(tx, context, steps_max=200), int | None)
    emit_due(tx, context, 500, 1 << 20)  # type: ignore[call-arg]
