"""The reporter on a real broker: what it promises, and what it says when it cannot keep it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.partitioner import DefaultPartitioner

from dlq_stream import FailureReporter, SyncFailureReporter
from dlq_stream.client import NotStarted
from dlq_stream.client import reporter as reporter_module
from dlq_stream.client.sync_reporter import GRACE_SECONDS
from dlq_stream.core import headers as names
from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError, TooLarge
from dlq_stream.core.headers import parse_failure
from tests.client.test_report import GROUP, Read
from tests.kafka_clients import create_topics, delete_topic, forbid_writing, list_topics, read_topic
from tests.kafka_fixture import KafkaFactory, LocalKafka, unique_name

PARTITIONS = 4
LIMIT = 20_000


async def app_with_topics(kafka: LocalKafka, *, limit: int = LIMIT) -> str:
    app_id = unique_name("app")
    config = {"max.message.bytes": limit}
    await create_topics(
        kafka.bootstrap, f"{app_id}-failures", f"{app_id}-commands", partitions=PARTITIONS, config=config
    )
    return app_id


def retry_of(message_id: str, attempt: int, group: str = GROUP) -> Read:
    headers = (
        (names.MESSAGE_ID, message_id.encode()),
        (names.ATTEMPT, b"%d" % attempt),
        (names.GROUP, group.encode()),
    )
    return Read(headers=headers)


async def test_a_report_that_returned_is_on_the_brokers(kafka: LocalKafka) -> None:
    """Whole, readable by the worker, on the partition of its id; and nested causes, bytes and nulls survive."""
    app_id = await app_with_topics(kafka)
    record = Read(key=b"\x00\xff", value=None, headers=(("hop", b"\xfe"), ("hop", None)))
    async with FailureReporter(kafka.bootstrap, GROUP, app_id=app_id) as reporter:
        message_id = await reporter.report(record, TimeoutError("slow"), metadata={"agent_id": "gl_010"})
        (found,) = await read_topic(kafka.bootstrap, f"{app_id}-failures")
    event = parse_failure(found)
    assert (event.id.hex(), found.key) == (message_id, message_id.encode())
    assert found.partition == DefaultPartitioner()(found.key, list(range(PARTITIONS)), list(range(PARTITIONS)))
    assert (event.key, event.value, event.headers) == (record.key, None, record.headers)


async def test_only_our_own_retries_have_outcomes(kafka: LocalKafka) -> None:
    """First deliveries, other groups' retries and reporters without outcomes send nothing."""
    app_id = await app_with_topics(kafka)
    async with FailureReporter(kafka.bootstrap, GROUP, app_id=app_id) as reporter:
        await reporter.succeeded(Read())
        await reporter.succeeded(retry_of("b" * 32, 1, group="others"))
        await reporter.succeeded(retry_of("a" * 32, 2))
    async with FailureReporter(kafka.bootstrap, GROUP, app_id=app_id, outcomes=False) as silent:
        await silent.succeeded(retry_of("c" * 32, 2))
    (found,) = await read_topic(kafka.bootstrap, f"{app_id}-commands")
    assert found.key == b"a" * 32
    assert json.loads(found.value or b"") == {"type": "succeeded", "message_id": "a" * 32, "attempt": 2}


async def test_concurrent_reports_share_batches(kafka: LocalKafka) -> None:
    """A thousand at once need a fraction of a thousand round trips, and all arrive, once each."""
    app_id = await app_with_topics(kafka)
    records = [Read(offset=offset) for offset in range(1_000)]
    async with FailureReporter(kafka.bootstrap, GROUP, app_id=app_id) as reporter:
        started = time.perf_counter()
        ids = await asyncio.gather(*(reporter.report(record, ValueError("x")) for record in records))
        assert time.perf_counter() - started < 0.005 * len(records) / 2  # one by one, lingering alone takes 5 s
    found = await read_topic(kafka.bootstrap, f"{app_id}-failures")
    assert sorted(record.key.decode() for record in found) == sorted(ids)
    assert len(set(ids)) == len(records)


async def test_what_is_too_large_loses_its_stack_trace_first(kafka: LocalKafka) -> None:
    """Then it is refused here, with size, limit and fix; others are not affected."""
    app_id = await app_with_topics(kafka)
    error = ValueError("x" * 5_000)  # the message comes twice: as a header and in the last line of the stack trace
    async with FailureReporter(kafka.bootstrap, GROUP, app_id=app_id) as reporter:
        await reporter.report(Read(value=b"v" * (LIMIT - 3_500)), error)
        with pytest.raises(TooLarge, match=rf"has \d+ bytes.*takes {LIMIT}.*dlq-stream init"):
            await reporter.report(Read(offset=2, value=b"v" * LIMIT), error)
        await reporter.report(Read(offset=3), error)
    first, last = sorted(await read_topic(kafka.bootstrap, f"{app_id}-failures"), key=lambda each: -len(each.value))
    assert names.ERROR_STACKTRACE not in dict(first.headers)
    assert parse_failure(first).kind.error_types[0] == "ValueError"
    assert names.ERROR_STACKTRACE in dict(last.headers)


async def test_a_refused_batch_does_not_spoil_the_ones_after_it(kafka: LocalKafka) -> None:
    """The topic takes less than the reporter was told: refusals by the broker leave no gap in sequence numbers."""
    app_id = await app_with_topics(kafka)
    async with FailureReporter(kafka.bootstrap, GROUP, app_id=app_id, record_bytes_max=1 << 20) as reporter:
        for round_ in range(3):
            many = [Read(offset=100 * round_ + n, value=b"v" * (25_000 if n == 5 else 10)) for n in range(20)]
            answers = await asyncio.gather(
                *(reporter.report(each, ValueError()) for each in many), return_exceptions=True
            )
            assert [type(each) for n, each in enumerate(answers) if n != 5] == [str] * 19
            assert isinstance(answers[5], TooLarge)
            assert isinstance(answers[5].__cause__, MessageSizeTooLargeError)
    assert len(await read_topic(kafka.bootstrap, f"{app_id}-failures")) == 57


@pytest.mark.parametrize(
    "use", [lambda r: r.report(Read(), ValueError()), lambda r: r.succeeded(retry_of("a" * 32, 1))]
)
async def test_before_the_start_and_after_the_end_it_says_so(
    kafka: LocalKafka, use: Callable[[FailureReporter], Awaitable[Any]]
) -> None:
    """Nothing pretends."""
    app_id = await app_with_topics(kafka)
    reporter = FailureReporter(kafka.bootstrap, GROUP, app_id=app_id)
    with pytest.raises(NotStarted, match="async with"):
        await use(reporter)
    async with reporter:
        await reporter.start()  # harmless
        await use(reporter)
    with pytest.raises(NotStarted):
        await use(reporter)


async def test_a_missing_topic_is_found_at_the_start_and_not_created(kafka_factory: KafkaFactory) -> None:
    """Also where the broker creates topics that are merely looked at; and a deleted one does not come back."""
    kafka = kafka_factory(auto_create=True)
    reporter = FailureReporter(kafka.bootstrap, GROUP, app_id="nobody", timeout_seconds=3)
    with pytest.raises(ConfigurationError, match=r"nobody-failures does not exist.*dlq-stream init --app-id nobody"):
        await reporter.start()
    assert "nobody-failures" not in await list_topics(kafka.bootstrap)
    app_id = await app_with_topics(kafka)
    async with FailureReporter(kafka.bootstrap, GROUP, app_id=app_id, timeout_seconds=3) as reporter:
        await reporter.report(Read(), ValueError())
        await delete_topic(kafka.bootstrap, f"{app_id}-failures")
        with pytest.raises(BrokersUnavailable, match=r"not acknowledged within 3 s.*commit nothing"):
            await reporter.report(Read(offset=2), ValueError())
    assert asyncio.all_tasks() == {asyncio.current_task()}  # nobody goes on trying
    assert f"{app_id}-failures" not in await list_topics(kafka.bootstrap)


async def test_brokers_that_are_away_and_come_back(kafka_factory: KafkaFactory) -> None:
    """A report waits for them within its time; beyond that it says so, and a second try of it is the same message."""
    kafka = kafka_factory()
    app_id = await app_with_topics(kafka)
    synchronous = SyncFailureReporter(kafka.bootstrap, GROUP, app_id=app_id, timeout_seconds=2)
    await asyncio.to_thread(synchronous.start)
    async with FailureReporter(kafka.bootstrap, GROUP, app_id=app_id, timeout_seconds=2) as hasty:
        await asyncio.to_thread(kafka.pause)
        waiting = synchronous.submit(Read(), ValueError())
        with pytest.raises(BrokersUnavailable, match="not acknowledged within 2 s"):
            await hasty.report(Read(), ValueError())
        with pytest.raises(BrokersUnavailable, match="not acknowledged within 2 s"):
            await asyncio.to_thread(synchronous.report, Read(), ValueError())
        started = time.monotonic()
        await asyncio.to_thread(synchronous.stop)
        assert time.monotonic() - started < 2 + GRACE_SECONDS
        assert isinstance(waiting.exception(0), BrokersUnavailable)
        await asyncio.to_thread(kafka.resume)
    async with FailureReporter(kafka.bootstrap, GROUP, app_id=app_id) as patient:
        await asyncio.to_thread(kafka.kill)
        reporting = asyncio.create_task(patient.report(Read(), ValueError()))
        await asyncio.to_thread(kafka.start)
        message_id = await reporting
    found = await read_topic(kafka.bootstrap, f"{app_id}-failures")
    assert {record.key.decode() for record in found} == {message_id}


async def test_nobody_there(unused_tcp_port: int) -> None:
    """The start ends in time and names the address."""
    reporter = FailureReporter(f"127.0.0.1:{unused_tcp_port}", GROUP, timeout_seconds=0.5)
    with pytest.raises(BrokersUnavailable, match=str(unused_tcp_port)):
        await reporter.start()


async def test_a_topic_that_we_may_not_write(kafka_factory: KafkaFactory) -> None:
    """The right is named."""
    kafka = kafka_factory(authorizer=True)
    app_id = await app_with_topics(kafka)
    await forbid_writing(kafka.bootstrap, f"{app_id}-failures")
    async with FailureReporter(kafka.bootstrap, GROUP, app_id=app_id) as reporter:
        with suppress(ConfigurationError):
            for _ in range(100):  # an ACL takes effect a moment after the broker has taken it
                await reporter.report(Read(), ValueError())
                await asyncio.sleep(0.1)
        for offset in range(2):
            with pytest.raises(ConfigurationError, match=f"Write on topic {app_id}-failures"):
                await reporter.report(Read(offset=offset), ValueError())
        await reporter.succeeded(retry_of("a" * 32, 1))


async def test_a_report_can_be_cancelled(kafka: LocalKafka) -> None:
    """An agent that is shut down is not held up, and the reporter goes on working."""
    app_id = await app_with_topics(kafka)
    async with FailureReporter(kafka.bootstrap, GROUP, app_id=app_id, linger_ms=200) as reporter:
        task = asyncio.create_task(reporter.report(Read(), ValueError()))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await reporter.report(Read(offset=2), ValueError())


@pytest.mark.parametrize("group", ["", "g" * 2_000, None, "\ud800"])
def test_a_group_has_to_be_one(group: Any) -> None:
    """Found where it is written, not at the first failure."""
    with pytest.raises(ConfigurationError, match="group"):
        FailureReporter("localhost:9092", group)


def test_the_original_is_never_changed() -> None:
    """A record is reported, not edited."""
    record = Read(headers=[("hop", b"a"), (names.QUEUE, b"q")])
    before = replace(record, headers=list(record.headers))
    reporter_module.Reporting(GROUP, True).report(
        record, ValueError(), queue="x", category=None, metadata=None, now_ms=1
    )
    assert record == before
