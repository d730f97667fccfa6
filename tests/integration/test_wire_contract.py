"""The wire contract as any language can keep it: plain Kafka clients, hashes of the standard library, nothing of ours.

Only the worker under test and the command ``dlq-stream status`` are ours, each a process of its own.  What is sent and
expected here is spelt out byte by byte, so that this module can be read beside the contract's documentation.
"""

from __future__ import annotations

import hashlib
import json
import struct
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.structs import RecordMetadata

from tests.integration.harness import App
from tests.integration.plain_clients import Header, Outgoing, create_topic, produce, read, until_records
from tests.kafka_fixture import LocalKafka, unique_name

PARTITIONS = 4
BACKOFF_MS = 300


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    async with App(kafka, tmp_path_factory.mktemp("wire")) as app:
        await app.init()
        await app.worker().start()
        yield app


@pytest_asyncio.fixture
async def source(kafka: LocalKafka) -> str:
    topic = unique_name("heat")
    await create_topic(kafka.bootstrap, topic, partitions=3, config={"message.timestamp.type": "LogAppendTime"})
    return topic


def derived_id(group: str, topic: str, partition: int, offset: int, timestamp: int) -> str:
    """32 hex digits: BLAKE2b-128 of two texts with their lengths, and three numbers, all big-endian."""
    texts = b"".join(struct.pack(">I", len(text.encode())) + text.encode() for text in (group, topic))
    return hashlib.blake2b(texts + struct.pack(">qqq", partition, offset, timestamp), digest_size=16).hexdigest()


async def report(
    app: App,
    headers: Sequence[Header],
    *,
    key: bytes | None = None,
    value: bytes | None = b"value",
    partition: int | None = None,
) -> RecordMetadata:
    """One failure event."""
    return await produce(app.bootstrap, Outgoing(f"{app.app_id}-failures", value, key, headers, partition))


async def until_status(app: App, queue: str, **wanted: int) -> None:
    """Wait until ``dlq-stream status --json`` shows these numbers of a queue; totals and ignored events included."""
    deadline = time.monotonic() + 30
    while True:
        told = await app.run("status", "--json")
        assert told.returncode == 0, told.stderr
        row: dict[str, Any] = next((row for row in json.loads(told.stdout)["queues"] if row["queue"] == queue), {})
        totals = {f"total_{name}": count for name, count in row.get("totals", {}).items()}
        shown = row | row.get("ignored", {}) | totals
        if wanted.items() <= shown.items():
            return
        assert time.monotonic() < deadline, f"status shows {shown}"


async def retries(app: App, source: str, count: int = 1) -> list[ConsumerRecord]:
    """The retries in a source topic that holds nothing else."""
    records = await until_records(app.bootstrap, source, count)
    assert len(records) == count
    return records


async def quarantined(app: App, event: RecordMetadata) -> ConsumerRecord:
    """Wait for an event in quarantine."""
    place = {
        ("dlq-quarantine-topic", event.topic.encode()),
        ("dlq-quarantine-partition", b"%d" % event.partition),
        ("dlq-quarantine-offset", b"%d" % event.offset),
    }
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for record in await read(app.bootstrap, f"{app.app_id}-quarantine"):
            if place <= set(record.headers):
                return record
    raise AssertionError(f"{event} is not in quarantine")


def text(record: ConsumerRecord, name: str) -> str | None:
    """A header that may be there once."""
    (value,) = [value for header, value in record.headers if header == name] or [None]
    return None if value is None else value.decode()


async def test_one_header_is_enough(app: App, source: str) -> None:
    """Without anything else the event's own coordinates make the id, and its key is the record's."""
    event = await report(app, [("dlq-original-topic", source.encode()), ("mine", b"1")], key=b"furnace-7")
    (retry,) = await retries(app, source)
    assert (retry.key, retry.value) == (b"furnace-7", b"value")
    assert retry.headers[0] == ("mine", b"1")
    assert text(retry, "dlq-message-id") == derived_id(
        "", f"{app.app_id}-failures", event.partition, event.offset, event.timestamp
    )
    assert text(retry, "dlq-attempt") == "1"
    assert text(retry, "dlq-group") == ""
    assert text(retry, "dlq-queue") == source
    assert text(retry, "dlq-original-topic") == source
    assert text(retry, "dlq-original-partition") is None
    assert retry.timestamp >= int(text(retry, "dlq-due-at") or 0) >= event.timestamp + BACKOFF_MS


async def test_the_id_is_derived_from_the_origin(app: App, source: str) -> None:
    """From group, topic, partition, offset and timestamp, and written as the retry's header; every report of it, from
    whatever partition, is the same message."""
    headers = [
        ("dlq-original-topic", source.encode()),
        ("dlq-original-partition", b"2"),
        ("dlq-original-offset", b"81"),
        ("dlq-original-timestamp", b"1767225600000"),
        ("dlq-group", "öfen".encode()),
    ]
    for partition in range(PARTITIONS):
        await report(app, headers, key=b"key", partition=partition)
    await until_status(app, source, retrying=1, duplicate=PARTITIONS - 1)
    (retry,) = await retries(app, source)
    assert text(retry, "dlq-message-id") == derived_id("öfen", source, 2, 81, 1_767_225_600_000)
    assert (retry.partition, text(retry, "dlq-group")) == (2, "öfen")
    assert text(retry, "dlq-original-offset") == "81"
    assert text(retry, "dlq-original-timestamp") == "1767225600000"


@pytest.mark.parametrize(
    ("key", "header", "expected"),
    [
        ("id", [], None),
        ("id", [("dlq-original-key", b"\xff\x00")], b"\xff\x00"),
        ("id", [("dlq-original-key", b"")], b""),
        ("id", [("dlq-original-key", None)], None),
        ("ID", [], None),
        (b"other", [], b"other"),
        (b"other", [("dlq-original-key", None)], None),
        (None, [], None),
        (None, [("dlq-original-key", b"first"), ("dlq-original-key", b"last")], b"last"),
    ],
)
async def test_the_original_key(
    app: App, source: str, key: bytes | str | None, header: list[Header], expected: bytes | None
) -> None:
    """The header's, null included; without one the event's own, unless that is the message id."""
    id_ = hashlib.md5(source.encode()).hexdigest()
    if isinstance(key, str):
        key = (id_ if key == "id" else id_.upper()).encode()
    await report(app, [("dlq-message-id", id_.encode()), ("dlq-original-topic", source.encode()), *header], key=key)
    (retry,) = await retries(app, source)
    assert (retry.key, text(retry, "dlq-message-id")) == (expected, id_)


async def test_a_misplaced_event_is_passed_on(app: App, source: str) -> None:
    """To the partition that Kafka's default partitioner chooses for the id; id, key and the mark are written down."""
    id_ = hashlib.md5(source.encode()).hexdigest()
    headers = [("x", b"1"), ("dlq-original-topic", source.encode()), ("dlq-message-id", id_.upper().encode())]
    right = (await report(app, headers, key=id_.encode(), value=b"v")).partition
    for partition in range(PARTITIONS):
        if partition != right:
            await report(app, headers, key=b"k%d" % partition, value=b"v", partition=partition)
    await until_status(app, source, retrying=1, duplicate=PARTITIONS - 1)
    forwarded = [
        record
        for record in await read(app.bootstrap, f"{app.app_id}-failures")
        if ("dlq-forwarded", b"1") in record.headers and text(record, "dlq-message-id") == id_
    ]
    assert {record.partition for record in forwarded} == {right}
    assert {text(record, "dlq-original-key") for record in forwarded} == {
        f"k{partition}" for partition in range(PARTITIONS) if partition != right
    }
    for record in forwarded:
        assert (record.key, record.value, record.headers[0]) == (id_.encode(), b"v", ("x", b"1"))
        assert text(record, "dlq-original-topic") == source
    wrong = (right + 1) % PARTITIONS
    again = await report(app, [*headers, ("dlq-forwarded", b"1")], key=b"k", value=b"v", partition=wrong)
    kept = await quarantined(app, again)
    assert "wrong partition" in (text(kept, "dlq-quarantine-reason") or "")
    assert len(await read(app.bootstrap, source)) == 1


async def test_a_message_goes_on_under_its_id(app: App, source: str) -> None:
    """A retry that fails is reported with the headers it came with; the success of the next one ends it."""
    await report(app, [("dlq-original-topic", source.encode()), ("dlq-outcomes", b"reported"), ("u", b"")], key=b"k")
    (first,) = await retries(app, source)
    event = [
        *first.headers,
        ("dlq-original-key", first.key),
        ("dlq-error-type", b"x.Odd"),
        ("dlq-outcomes", b"reported"),
    ]
    await report(app, event, key=(text(first, "dlq-message-id") or "").encode(), value=first.value)
    second = (await retries(app, source, 2))[-1]
    assert text(second, "dlq-message-id") == text(first, "dlq-message-id")
    assert (text(second, "dlq-attempt"), text(second, "dlq-error-type")) == ("2", "x.Odd")
    assert (second.key, second.value, second.headers[0]) == (b"k", b"value", ("u", b""))
    assert int(text(second, "dlq-due-at") or 0) >= first.timestamp + 2 * BACKOFF_MS
    command = {"type": "succeeded", "message_id": text(second, "dlq-message-id"), "attempt": 2}
    key = (text(second, "dlq-message-id") or "").encode()
    await produce(app.bootstrap, Outgoing(f"{app.app_id}-commands", json.dumps(command).encode(), key))
    await until_status(app, source, resolved=1, total_succeeded=1, total_failures=2, total_retries=2)


async def test_another_groups_failure_of_a_retry_is_a_message_of_its_own(app: App, source: str) -> None:
    """Its id comes from the same origin and that group; the retries are told apart by `dlq-group`."""
    origin = [
        ("dlq-original-topic", source.encode()),
        ("dlq-original-partition", b"1"),
        ("dlq-original-offset", b"5"),
        ("dlq-original-timestamp", b"1000"),
    ]
    await report(app, [*origin, ("dlq-group", b"one")], key=b"k")
    (retry,) = await retries(app, source)
    other = [header for header in retry.headers if header[0] != "dlq-group"]
    await report(app, [*other, ("dlq-group", b"two")], key=b"k")
    by_group = {text(each, "dlq-group"): each for each in await retries(app, source, 2)}
    assert {group: text(each, "dlq-message-id") for group, each in by_group.items()} == {
        group: derived_id(group, source, 1, 5, 1000) for group in ("one", "two")
    }
    assert {text(each, "dlq-attempt") for each in by_group.values()} == {"1"}


async def test_a_message_that_was_forgotten_goes_on_at_its_number(app: App, source: str) -> None:
    """An attempt that no row knows of counts on; the allowance of retries is a fresh one."""
    id_ = hashlib.md5(source.encode()).hexdigest()
    headers = [("dlq-message-id", id_.encode()), ("dlq-original-topic", source.encode()), ("dlq-attempt", b"7")]
    await report(app, headers, key=id_.encode())
    (retry,) = await retries(app, source)
    assert text(retry, "dlq-attempt") == "8"


async def test_senders_may_compress_and_use_transactions(app: App, source: str) -> None:
    """Every codec of Kafka's, and committed transactions; what was aborted was never said."""
    topic = f"{app.app_id}-failures"
    headers: list[Header] = [("dlq-original-topic", source.encode())]
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        async with AIOKafkaProducer(bootstrap_servers=app.bootstrap, compression_type=codec, acks="all") as producer:
            await producer.send_and_wait(topic, codec.encode() * 500, headers=headers)
    for value, commit in ((b"committed", True), (b"aborted", False)):
        event = Outgoing(topic, value, None, headers)
        await produce(app.bootstrap, event, transactional_id=unique_name("sender"), commit=commit)
    await produce(app.bootstrap, Outgoing(topic, b"afterwards", None, headers))
    values = {b"gzip", b"snappy", b"lz4", b"zstd", b"committed", b"afterwards"}
    found = await retries(app, source, len(values))
    assert {next(value for value in values if (record.value or b"").startswith(value)) for record in found} == values
    await until_status(app, source, retrying=len(values), total_failures=len(values))


async def test_of_repeated_headers_the_last_counts(app: App, source: str) -> None:
    """Ours, that is; they come out once, and the user's repeats stay."""
    headers = [
        ("dlq-original-topic", b"elsewhere"),
        ("dlq-queue", b"first"),
        ("u", b"1"),
        ("dlq-original-topic", source.encode()),
        ("u", b"2"),
        ("dlq-queue", b"second"),
    ]
    await report(app, headers)
    (retry,) = await retries(app, source)
    assert text(retry, "dlq-queue") == "second"
    assert [header for header in retry.headers if header[0] == "u"] == [("u", b"1"), ("u", b"2")]


async def test_a_header_that_the_contract_does_not_name_is_the_users(app: App, source: str) -> None:
    """Whatever it begins with, and whatever version somebody means by it: there is none, so nothing is refused."""
    users = [("dlq-version", b"99"), ("dlq-contract", None), ("dlq-version", b"\xff"), ("DLQ-Attempt", b"many")]
    await report(app, [*users[:2], ("dlq-original-topic", source.encode()), *users[2:]], key=b"k")
    (first,) = await retries(app, source)
    assert first.headers[:4] == tuple(users)
    assert text(first, "dlq-attempt") == "1"
    id_ = (text(first, "dlq-message-id") or "").encode()
    await report(app, [*first.headers, ("dlq-original-key", b"k"), ("dlq-category", b"permanent")], key=id_)
    (letter,) = await until_records(app.bootstrap, f"{source}-dlq", 1)
    assert letter.headers[:4] == tuple(users)
    assert text(letter, "dlq-escalation-reason") == "permanent"


async def test_an_id_belongs_to_one_record(app: App, source: str) -> None:
    """A known id with another origin is refused, wherever the two differ; without coordinates it counts as the same."""
    id_ = hashlib.md5(source.encode()).hexdigest().encode()
    origin = {"topic": source.encode(), "partition": b"1", "offset": b"5", "timestamp": b"1000"}

    async def told(**changes: bytes) -> RecordMetadata:
        named = [(f"dlq-original-{name}", value) for name, value in (origin | changes).items()]
        return await report(app, [("dlq-message-id", id_), *named], key=id_)

    await told()
    await retries(app, source)
    for changes in ({"offset": b"6"}, {"partition": b"0"}, {"timestamp": b"1001"}, {"topic": b"another"}):
        kept = await quarantined(app, await told(**changes))
        assert (text(kept, "dlq-quarantine-reason") or "").startswith("dlq-message-id"), changes
    await report(
        app, [("dlq-message-id", id_), ("dlq-original-topic", source.encode()), ("dlq-attempt", b"1")], key=id_
    )
    second = (await retries(app, source, 2))[-1]
    assert (text(second, "dlq-attempt"), text(second, "dlq-original-offset")) == ("2", "5")
