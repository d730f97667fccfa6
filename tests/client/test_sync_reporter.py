"""The reporter for synchronous code on a real broker: threads, forks, interrupts, and the end of the interpreter."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import confluent_kafka
import pytest

from dlq_stream import SyncFailureReporter
from dlq_stream.client import NotStarted, UnusableRecord
from dlq_stream.client.current import handling
from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError, TooLarge
from dlq_stream.core.headers import parse_failure
from dlq_stream.core.model import Origin
from tests.client.test_report import GROUP, Read
from tests.client.test_reporter import LIMIT, app_with_topics, retry_of
from tests.kafka_clients import Outgoing, create_topics, produce, read_topic
from tests.kafka_fixture import LocalKafka, unique_name


@pytest.fixture
def app_id(kafka: LocalKafka) -> str:
    return asyncio.run(app_with_topics(kafka))


def failures(kafka: LocalKafka, app_id: str) -> list[str]:
    """The message ids on the failures topic."""
    return [record.key.decode() for record in asyncio.run(read_topic(kafka.bootstrap, f"{app_id}-failures"))]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "dlq-stream" in thread.name]


def test_it_does_what_the_other_does(kafka: LocalKafka, app_id: str) -> None:
    """Reports, outcomes, deliveries; and leaves nothing behind."""
    with SyncFailureReporter(kafka.bootstrap, GROUP, app_id=app_id) as reporter:
        reporter.start()  # harmless
        message_id = reporter.report(Read(), TimeoutError("slow"), queue="q", metadata={"a": 1})
        retry = retry_of(message_id, 2)
        delivery = reporter.delivery(retry)
        assert delivery is not None
        assert (delivery.message_id, delivery.attempt, delivery.for_this_group) == (message_id, 2, True)
        assert reporter.delivery(Read()) is None
        reporter.succeeded(retry)
        reporter.succeeded(Read())
        with handling(retry) as handled:
            reporter.report(retry, ValueError())
        assert handled.reported
        with handling(retry) as handled:
            reporter.report(Read(offset=82), ValueError())
        assert not handled.reported
    assert failures(kafka, app_id).count(message_id) == 2
    (outcome,) = asyncio.run(read_topic(kafka.bootstrap, f"{app_id}-commands"))
    assert outcome.key == message_id.encode()
    assert threads() == []


def test_threads_and_submitters_share_batches(kafka: LocalKafka, app_id: str) -> None:
    """Thirty threads take no longer than one does, and a thousand submitted reports no longer than a few."""
    with SyncFailureReporter(kafka.bootstrap, GROUP, app_id=app_id, linger_ms=50) as reporter:
        started = time.perf_counter()
        with ThreadPoolExecutor(30) as pool:
            ids = list(pool.map(lambda offset: reporter.report(Read(offset=offset), ValueError()), range(90)))
        assert time.perf_counter() - started < 90 * 0.05 / 2  # one by one they would linger 50 ms each
        futures = [reporter.submit(Read(offset=offset), ValueError()) for offset in range(90, 1_000)]
        ids += [future.result() for future in futures]
        assert time.perf_counter() - started < 10
    assert sorted(failures(kafka, app_id)) == sorted(ids)
    assert len(set(ids)) == 1_000


def test_errors_are_the_same(kafka: LocalKafka, app_id: str, unused_tcp_port: int) -> None:
    """Before the start, of the start, of the record, of the brokers; and no thread is left."""
    reporter = SyncFailureReporter(kafka.bootstrap, GROUP, app_id=app_id, record_bytes_max=1 << 20)
    for use in (reporter.report, reporter.submit):
        with pytest.raises(NotStarted, match="`with`"):
            use(Read(), ValueError())
    with pytest.raises(NotStarted):
        reporter.succeeded(Read())
    reporter.stop()
    with pytest.raises(ConfigurationError, match="nobody-failures does not exist"):
        SyncFailureReporter(kafka.bootstrap, GROUP, app_id="nobody").start()
    with pytest.raises(BrokersUnavailable):
        SyncFailureReporter(f"127.0.0.1:{unused_tcp_port}", GROUP, timeout_seconds=0.2).start()
    with pytest.raises(ConfigurationError, match="group"):
        SyncFailureReporter(kafka.bootstrap, "")
    with reporter:
        with pytest.raises(UnusableRecord):
            reporter.submit(Read(value={}), ValueError())
        future = reporter.submit(Read(value=b"v" * 2 * LIMIT), ValueError())
        with pytest.raises(TooLarge, match="refused the record as too large"):
            future.result()
        reporter.report(Read(), ValueError())
    with pytest.raises(NotStarted):
        reporter.report(Read(), ValueError())
    time.sleep(0.1)  # the threads of the starts that failed end on their own
    assert threads() == []


def test_what_was_submitted_is_answered_when_it_stops(kafka: LocalKafka, app_id: str) -> None:
    """Every future is done, whichever thread stops it; whoever comes later is told."""
    reporter = SyncFailureReporter(kafka.bootstrap, GROUP, app_id=app_id, linger_ms=300)
    reporter.start()
    futures = [reporter.submit(Read(offset=offset), ValueError()) for offset in range(200)]
    stopping = threading.Thread(target=reporter.stop)
    stopping.start()
    later: list[Any] = []
    while not later:
        try:
            futures.append(reporter.submit(Read(offset=len(futures)), ValueError()))
        except NotStarted as error:
            later.append(error)
    stopping.join()
    assert all(future.done() for future in futures)
    reported = {future.result() for future in futures if future.exception() is None}
    assert len(reported) >= 200
    assert reported <= set(failures(kafka, app_id))


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    head = f"""
import os, signal, sys, time
from dlq_stream import SyncFailureReporter
from dlq_stream.client import NotStarted, PlainRecord
record = PlainRecord("heat-processing", 3, 81, 5, None, b"x")
brokers, app_id = {arguments!r}
"""
    return subprocess.run([sys.executable, "-c", head + script], capture_output=True, text=True, timeout=60)


def test_a_forked_child_is_told_and_one_that_starts_its_own_works(kafka: LocalKafka, app_id: str) -> None:
    """Also at the end of the child: it does not stop what is its parent's."""
    done = run(
        """
started = SyncFailureReporter(brokers, "g", app_id=app_id)
made = SyncFailureReporter(brokers, "h", app_id=app_id)
with started:
    if os.fork() == 0:
        try:
            started.report(record, ValueError())
        except NotStarted as error:
            print("child:", error, flush=True)
        with made:
            print("own:", made.report(record, ValueError()), flush=True)
        sys.exit(0)
    assert os.wait()[1] == 0
    print("parent:", started.report(record, ValueError()), flush=True)
""",
        kafka.bootstrap,
        app_id,
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert "forked child" in said["child"]
    assert sorted([said["own"], said["parent"]]) == sorted(failures(kafka, app_id))


def test_an_interrupt_ends_the_wait(kafka: LocalKafka, app_id: str) -> None:
    """At once, as KeyboardInterrupt; and the program can end."""
    done = run(
        """
with SyncFailureReporter(brokers, "g", app_id=app_id, linger_ms=3_000) as reporter:
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    began = time.monotonic()
    try:
        reporter.report(record, ValueError())
    except KeyboardInterrupt:
        print(time.monotonic() - began)
""",
        kafka.bootstrap,
        app_id,
    )
    assert done.returncode == 0, done.stderr
    assert 0.4 < float(done.stdout) < 2.5


def test_the_end_of_the_interpreter_flushes_and_does_not_hang(kafka: LocalKafka, app_id: str) -> None:
    """A program that never stops its reporter ends all the same, and what it submitted is on the brokers."""
    done = run(
        """
reporter = SyncFailureReporter(brokers, "g", app_id=app_id, linger_ms=200)
reporter.start()
reporter.submit(record, ValueError())
""",
        kafka.bootstrap,
        app_id,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(failures(kafka, app_id)) == 1
    assert parse_failure(asyncio.run(read_topic(kafka.bootstrap, f"{app_id}-failures"))[0]).kind.group == "g"


def test_records_of_the_synchronous_libraries_are_one_message(kafka: LocalKafka, app_id: str) -> None:
    """Read by confluent-kafka and by kafka-python, the same record is reported as the same message, byte for byte."""
    topic = unique_name("heat")
    headers = (("hop", b"\xff"), ("hop", None), ("hop", b""))
    asyncio.run(create_topics(kafka.bootstrap, topic, partitions=1))
    asyncio.run(produce(kafka.bootstrap, [Outgoing(topic, b"\x00", b"\xfe", headers, timestamp_ms=1_700_000_000_123)]))
    records: list[Any] = []

    confluent = confluent_kafka.Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": unique_name("group")})
    confluent.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    records.append(confluent.poll(20))
    confluent.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        from kafka import KafkaConsumer

        other = KafkaConsumer(
            topic, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=20_000
        )
        records.append(next(other))
        other.close()

    with SyncFailureReporter(kafka.bootstrap, GROUP, app_id=app_id) as reporter:
        (message_id,) = {reporter.report(record, ValueError()) for record in records}
    for record in asyncio.run(read_topic(kafka.bootstrap, f"{app_id}-failures")):
        event = parse_failure(record)
        assert (event.id.hex(), event.key, event.value, event.headers) == (message_id, b"\xfe", b"\x00", headers)
        assert event.origin == Origin(topic, 0, 0, 1_700_000_000_123)
