"""What would lose records is refused before it does, and FastStream's own exceptions mean what they mean there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message
from faststream.exceptions import AckMessage, NackMessage, RejectMessage, SkipMessage, StopConsume

from dlq_stream.adapters import holding
from dlq_stream.adapters.confluent import consumer_config, handle_batch
from dlq_stream.adapters.faststream import FailureReports
from dlq_stream.adapters.faust import record_of
from dlq_stream.client import FailureReporter, Permanent, PlainRecord, UnusableRecord
from dlq_stream.client.current import current_record
from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError
from tests.adapters.example import prepared
from tests.client.test_report import Read
from tests.client.test_reporter import retry_of
from tests.kafka_fixture import LocalKafka

REPORTER = 'FailureReporter("{{bootstrap}}", group="{}"'


@pytest.mark.parametrize(
    ("adapter", "written", "instead", "told"),
    [
        ("faststream", "ack_policy=AckPolicy.ACK, ", "", "ack_policy, ACK_FIRST"),
        ("faststream", REPORTER.format("{group}"), REPORTER.format("g"), "group 'g'"),
        ("faust", REPORTER.format("{group}"), REPORTER.format("g"), "group: 'g'"),
    ],
)
async def test_an_agent_that_would_lose_records_ends(
    kafka: LocalKafka, tmp_path: Path, adapter: str, written: str, instead: str, told: str
) -> None:
    """Before it has committed anything, and it says why."""
    example = await prepared(adapter, kafka.bootstrap)
    await example.write(b'{"n": 0}')
    names = {"bootstrap": kafka.bootstrap, "group": example.group}
    program = example.program()
    assert written.format(**names) in program
    example.start(tmp_path, program.replace(written.format(**names), instead.format(**names)))
    assert example.process is not None
    try:
        await asyncio.to_thread(example.process.wait, 30)
    finally:
        await example.end()
    assert told in example.logged()
    assert example.said() == []
    assert await example.committed() == 0


class Noted(FailureReporter):
    """A reporter that notes what it is told; the real one is tested elsewhere."""

    def __init__(self) -> None:
        super().__init__("localhost:9092", "g")
        self.failures: list[tuple[Any, BaseException]] = []
        self.successes: list[Any] = []

    async def report(self, record: Any, error: BaseException, **_: Any) -> str:
        self.failures.append((record, error))
        return ""

    async def succeeded(self, record: Any) -> None:
        self.successes.append(record)


async def pass_through(reporter: Noted, records: Any, error: BaseException | None = None) -> tuple[bool, list[Any]]:
    """One delivery through the middleware, as FastStream does it: is the exception settled, and what was handled."""
    middleware = FailureReports(reporter)(records, context={})
    handled: list[Any] = []

    async def handler(message: Any) -> None:
        handled.append(current_record() or message)
        if error is not None:
            raise error

    await middleware.__aenter__()
    try:
        await middleware.consume_scope(handler, "message")
    except BaseException as raised:
        return bool(await middleware.__aexit__(type(raised), raised, None)), handled
    return bool(await middleware.__aexit__(None, None, None)), handled


OURS, OTHERS = retry_of("a" * 32, 1, "g"), retry_of("b" * 32, 1, "others")


@pytest.mark.parametrize(
    ("error", "settled", "failed", "succeeded"),
    [
        (None, False, 0, 1),
        (ValueError("odd"), True, 1, 0),
        (RejectMessage(), True, 1, 0),
        (AckMessage(), False, 0, 1),
        (NackMessage(), False, 0, 0),
        (SkipMessage(), False, 0, 0),
        (StopConsume(), False, 0, 0),
        (KeyboardInterrupt(), False, 0, 0),
        (asyncio.CancelledError("from within"), True, 1, 0),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_exceptions_of_faststream_mean_what_they_mean_there(
    error: BaseException | None, settled: bool, failed: int, succeeded: int
) -> None:
    """A rejection is a permanent failure; what asks for another delivery, or for the end, is neither."""
    reporter = Noted()
    assert await pass_through(reporter, OURS, error) == (settled, [OURS])
    assert (len(reporter.failures), len(reporter.successes)) == (failed, succeeded)
    if isinstance(error, RejectMessage):
        assert isinstance(reporter.failures[0][1], Permanent)


async def test_a_handler_that_is_cancelled_has_not_failed() -> None:
    """The process ends; the record comes again."""
    reporter = Noted()
    stuck = asyncio.Event()

    async def handler(_: Any) -> None:
        asyncio.get_running_loop().call_soon(task.cancel)
        await stuck.wait()

    async def deliver() -> bool:
        middleware = FailureReports(reporter)(OURS, context={})
        try:
            await middleware.consume_scope(handler, "message")
        except asyncio.CancelledError as error:
            return bool(await middleware.__aexit__(type(error), error, None))
        return True

    task = asyncio.create_task(deliver())
    assert await task is False
    assert reporter.failures == []


async def test_batches_are_reported_record_by_record() -> None:
    """Those for us; a batch that is wholly for others is not handled, and no record of one is the current one."""
    reporter = Noted()
    first = Read()
    assert await pass_through(reporter, (first, OURS, OTHERS), ValueError()) == (True, ["message"])
    assert [record for record, _ in reporter.failures] == [first, OURS]
    assert await pass_through(reporter, (first, OURS, OTHERS)) == (False, ["message"])
    assert reporter.successes == [OURS]
    assert await pass_through(reporter, (OTHERS, OTHERS)) == (True, [])
    assert await pass_through(reporter, OTHERS) == (True, [])
    assert await pass_through(reporter, None) == (False, ["message"])


async def test_holding_on_ends_with_an_answer_or_a_cancellation(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It complains each time, at growing intervals."""
    monkeypatch.setattr(holding, "FIRST_WAIT_SECONDS", 0.001)
    answers = [BrokersUnavailable("away"), RuntimeError("odd"), "id"]

    async def attempt() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await holding.until_acknowledged(attempt) == "id"
    assert [record.getMessage().rpartition("s: ")[2] for record in caplog.records] == [
        "BrokersUnavailable: away",
        "RuntimeError: odd",
    ]

    async def never() -> str:
        raise BrokersUnavailable("away")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(holding.until_acknowledged(never), 0.05)
    ending = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, ending.set)
    with pytest.raises(holding.Stopped):
        await holding.until_acknowledged(never, ending.wait)
    found = holding.waits()
    assert [next(found) for _ in range(16)][-2:] == [16.384, 30.0]


def test_a_consumer_that_commits_by_itself_is_refused() -> None:
    """And so is one that reads what was never committed; the rest is the user's."""
    made = consumer_config({"group.id": "g", "enable.auto.commit": "false"})
    assert made == {"group.id": "g", "enable.auto.commit": False, "isolation.level": "read_committed"}
    with pytest.raises(ConfigurationError, match=r"enable\.auto\.commit: True"):
        consumer_config({"enable.auto.commit": True})
    with pytest.raises(ConfigurationError, match=r"isolation\.level"):
        consumer_config({"isolation.level": "read_uncommitted"})


def test_events_of_a_confluent_consumer_are_no_records(caplog: pytest.LogCaptureFixture) -> None:
    """What it cures itself is logged; what only a person can cure is raised; the end of a partition is nothing."""
    handled: list[Message] = []

    def batch(code: int) -> None:
        handle_batch([Message(error=KafkaError(code))], handled.append, reporter=None)  # type: ignore[arg-type]

    batch(KafkaError._PARTITION_EOF)
    assert not caplog.records
    batch(KafkaError._ALL_BROKERS_DOWN)
    assert len(caplog.records) == 1
    with pytest.raises(KafkaException):
        batch(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    assert handled == []


def test_a_message_of_faust_is_a_record() -> None:
    """Its timestamp in milliseconds again, to the digit; its headers with their repeats."""
    headers = [("hop", b"a"), ("hop", b"b")]
    message = Read(timestamp=1_700_000_000_123 / 1000, headers=headers)  # type: ignore[arg-type]
    assert record_of(message) == PlainRecord("heat-processing", 3, 81, 1_700_000_000_123, b"FRN-01", b"{}", headers)  # type: ignore[arg-type]
    assert record_of(Read(timestamp=None, headers=None)).timestamp == -1  # type: ignore[arg-type]


def test_a_deserializing_consumer_is_told_at_once() -> None:
    """Waiting does not cure it."""
    from dlq_stream.client import SyncFailureReporter

    message = Message(topic="t", partition=0, offset=1, value={"a": 1}, timestamp=(1, 5))  # type: ignore[arg-type]
    with pytest.raises(UnusableRecord, match="without deserializers"):
        handle_batch([message], print, SyncFailureReporter("localhost:9092", "g"))
