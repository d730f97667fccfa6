"""Poison among good events on every partition: the good ones are all retried, the poison is in quarantine, whole.

Everything sent here carries a mark that must not appear in a worker's log, though it logs at level debug.
"""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.record.util import calc_crc32c

from dlq_stream.core.ids import partition_of
from dlq_stream.kafka import no_topic_creation
from tests.integration.conftest import MakeApp
from tests.integration.harness import CLI, FAUST, PARTITIONS, App, by_id, id_of, own, users
from tests.kafka_clients import Header, Outgoing
from tests.kafka_fixture import LocalKafka

MARK = b"7f3a-confidential"
MEGABYTE = 1_048_576
GOOD_ID = b"0123456789abcdef" * 2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    settings = {"allowed_topics": "heat-*,x*", "log_level": "debug"}
    async with App(kafka, tmp_path_factory.mktemp("poison"), **settings) as app:
        await app.init()
        await app.worker().start()
        yield app


def poison(app_id: str, source: str) -> dict[str, tuple[Sequence[Header], str]]:
    """Headers of events that cannot be understood, and how the reason begins; ``{source}`` is a good topic."""
    topic = ("dlq-original-topic", source.encode())
    whole = (
        topic,
        ("dlq-original-partition", b"0"),
        ("dlq-original-offset", b"1"),
        ("dlq-original-timestamp", b"1"),
    )

    def named(name: str) -> tuple[Sequence[Header], str]:
        return [("dlq-original-topic", name.encode("utf-8", "surrogateescape"))], "dlq-original-topic"

    def with_(name: str, value: bytes | None) -> tuple[Sequence[Header], str]:
        return [topic, (f"dlq-{name}", value)], f"dlq-{name}"

    return {
        "no headers": ([], "dlq-original-topic"),
        "null topic": ([("dlq-original-topic", None)], "dlq-original-topic"),
        "empty topic": named(""),
        "topic with a space": named("heat 1"),
        "topic that is not UTF-8": named("heat-\udcff"),
        "topic that is too long": named("heat-" + "x" * 245),
        "dots": named(".."),
        "Kafka's own topic": named("__consumer_offsets"),
        "our failures": named(f"{app_id}-failures"),
        "our changelog": named(f"{app_id}-stats-changelog"),
        "a dead-letter topic": named(f"{source}-dlq"),
        "a retry topic": named(f"{source}-retry"),
        "a topic that is not allowed": named("pump-1"),
        "retry to Kafka's own topic": with_("retry-topic", b"__transaction_state"),
        "retry to our commands": with_("retry-topic", f"{app_id}-commands".encode()),
        "retry to a dead-letter topic": with_("retry-topic", f"{source}-dlq".encode()),
        "retry to a topic that is not allowed": with_("retry-topic", b"pump-1"),
        "retry to no topic": with_("retry-topic", b"\x00"),
        "partial origin": ([topic, ("dlq-original-partition", b"1")], "dlq-original-offset"),
        "origin without time": (whole[:3], "dlq-original-timestamp"),
        "negative partition": ([*whole[2:], topic, ("dlq-original-partition", b"-1")], "dlq-original-partition"),
        "huge partition": ([*whole, ("dlq-original-partition", b"2147483648")], "dlq-original-partition"),
        "offset in hex": ([*whole, ("dlq-original-offset", b"0x10")], "dlq-original-offset"),
        "offset of many digits": ([*whole, ("dlq-original-offset", b"9" * 5_000)], "dlq-original-offset"),
        "time with a fraction": ([*whole, ("dlq-original-timestamp", b"1.5")], "dlq-original-timestamp"),
        "time in other digits": (
            [*whole, ("dlq-original-timestamp", "١٢٣".encode())],
            "dlq-original-timestamp",
        ),
        "id that is short": with_("message-id", b"0123"),
        "id that is no hex": with_("message-id", b"g" * 32),
        "id of raw bytes": with_("message-id", bytes(range(16))),
        "negative attempt": with_("attempt", b"-1"),
        "attempt that is no number": with_("attempt", b"one"),
        "attempt beyond all bounds": with_("attempt", b"99999999999"),
        "empty attempt": with_("attempt", b""),
        "category that is none": with_("category", b"fatal"),
        "category that is not UTF-8": with_("category", b"\xff\xfe"),
        "queue that is not UTF-8": with_("queue", b"\xc3("),
        "empty queue": with_("queue", b""),
        "queue with NUL": with_("queue", b"a\0b"),
        "queue with a line break": with_("queue", b"a\nb"),
        "queue that is too long": with_("queue", b"q" * 250),
        "group that is not UTF-8": with_("group", b"\xff"),
        "group that is too long": with_("group", b"g" * 2_000),
        "outcomes that are neither": with_("outcomes", b"maybe"),
        "forwarded by someone": with_("forwarded", b"yes"),
        "waiting for ever": with_("retry-after-ms", b"99999999999999"),
        "failed in another age": with_("failed-at", b"999999999999999"),
        "metadata without end": with_("metadata", b"{" * 9_000),
    }


HOSTILE: dict[str, Sequence[Header]] = {
    "empty name": [("", b"1"), ("", None)],
    "long name": [("n" * 30_000, b"1")],
    "control characters": [("a\0b\nc\x1b[31m", b"1")],
    "other scripts": [("темп-\u202e-\U0001f525", b"\xff")],
    "nearly ours": [("DLQ-Attempt", b"x"), ("dlq-attempt ", b"x"), (" dlq-message-id", b"x"), ("dlq-version", b"99")],
    "2,000 of them": [(f"h{number % 7}", b"%d" % number) for number in range(2_000)],
    "no UTF-8 in describing headers": [
        ("dlq-error-type", b"\xff,TimeoutError"),
        ("dlq-error-message", b"\xff\xfe" * 5_000),
        ("dlq-error-stacktrace", b"\xff" * 100_000),
        ("dlq-error-cause-type", b"\x00"),
        ("dlq-metadata", b"\xff is no JSON"),
    ],
}
"""Headers of events that are strange and all right."""


async def good_records(app: App, source: str, count: int) -> dict[int, list[ConsumerRecord]]:
    """Records by the partition of the failures topic to which their failures belong."""
    found: dict[int, list[ConsumerRecord]] = {number: [] for number in range(PARTITIONS)}
    for record in await app.produced(*(Outgoing(source, MARK + b"%d" % n, MARK) for n in range(count))):
        found[partition_of(bytes.fromhex(id_of(record)), PARTITIONS)].append(record)
    return found


async def test_poison_among_good_events(app: App) -> None:
    """Each kind of poison stands between good events of its partition, one kind as large as events can be."""
    source = await app.source()
    kinds = poison(app.app_id, source)
    bad = [
        Outgoing(
            app.topic("failures"), MARK + b"\xff", MARK, [("u", MARK), *headers, ("u", None)], partition=number % 4
        )
        for number, (headers, _) in enumerate(kinds.values())
    ]
    reasons = [reason for _, reason in kinds.values()]
    room = MEGABYTE + 65_536 - 300
    bad += [
        Outgoing(app.topic("failures"), MARK + b"x" * (room - 300), MARK, [("dlq-attempt", MARK)], partition=number)
        for number in range(PARTITIONS)
    ]
    reasons += ["dlq-original-topic"] * PARTITIONS
    good = await good_records(app, source, 2 * len(bad))
    last = {number: records.pop() for number, records in good.items()}
    events: list[Outgoing] = []
    for number, event in enumerate(bad):
        events += [app.failure(good[number % PARTITIONS].pop())] if good[number % PARTITIONS] else []
        events.append(event)
    events += [app.failure(record) for records in [*good.values(), last.values()] for record in records]
    written = await app.send(*events)
    retries = by_id((await app.until(source, 4 * len(bad)))[:])
    assert {len(pair) for pair in retries.values()} == {2}
    for original, retry in retries.values():
        assert (retry.key, retry.value) == (original.key, original.value)

    held = {
        (each.partition, int(dict(each.headers)["dlq-quarantine-offset"] or b"")): each
        for each in await app.until(app.topic("quarantine"), len(bad))
    }
    places = [place for event, place in zip(events, written, strict=True) if event in bad]
    for event, place, reason in zip(bad, places, reasons, strict=True):
        kept = held[place.partition, place.offset]
        assert (kept.key, kept.value) == (event.key, event.value), reason
        assert list(kept.headers[: len(event.headers)]) == list(event.headers)
        added = dict(kept.headers[len(event.headers) :])
        assert set(added) == {f"dlq-quarantine-{name}" for name in ("reason", "topic", "partition", "offset")}
        assert (added["dlq-quarantine-topic"] or b"").decode() == app.topic("failures")
        assert (added["dlq-quarantine-reason"] or b"").decode().startswith(reason), (event.headers, added)
    assert (await app.status())["quarantined"] == len(bad)
    (worker,) = app.workers
    assert worker.code is None
    assert MARK.decode() not in worker.log


async def test_strange_headers_are_kept(app: App) -> None:
    """Whatever a header is called, it comes back; headers that describe an error may hold anything."""
    source = await app.source()
    failed = await app.produced(
        *(
            Outgoing(source, b"v", b"k", [(n, v) for n, v in headers if "-error" not in n])
            for headers in HOSTILE.values()
        )
    )
    events = [
        app.failure(
            record, **{name[4:].replace("-", "_"): value for name, value in headers if name[:5] in ("dlq-e", "dlq-m")}
        )
        for record, headers in zip(failed, HOSTILE.values(), strict=True)
    ]
    await app.send(*events)
    retries = by_id(await app.until(source, 2 * len(failed)))
    for name, record in zip(HOSTILE, failed, strict=True):
        original, retry = retries[id_of(record)]
        assert users(retry) == users(original), name


async def test_a_megabyte_is_no_poison(app: App) -> None:
    """Values up to the bound are retried, if their topic takes them with our headers; else they are given up, whole."""
    roomy = await app.source(max_message_bytes=2 * MEGABYTE)
    tight = await app.source(max_message_bytes=MEGABYTE + 100)
    value = MARK + b"\xff" * (MEGABYTE - len(MARK))
    failed = await app.produced(*(Outgoing(topic, value) for topic in (roomy, tight)))
    events = [app.failure(each, error_stacktrace=b"x" * 8_000) for each in failed]
    small = await app.produced(*(Outgoing(roomy, b"small%d" % n, b"k") for n in range(8)))
    await app.send(*events, *(app.failure(each) for each in small))
    retried = [each for each in await app.until(roomy, 2 * 9) if "dlq-attempt" in own(each)]
    assert sorted((each.value or b"")[:6] for each in retried) == sorted([value[:6], *(e.value for e in small)])
    (letter,) = await app.until(f"{tight}-dlq", 1)
    assert (letter.value, letter.key) == (value, None)
    assert own(letter)["dlq-escalation-reason"] == b"too-large"
    assert len(await app.read(tight)) == 1
    await app.figures(tight, escalated=1, unwritten=0)


@pytest.mark.parametrize("command", [[*CLI, "worker", "--log-level", "debug"], [*FAUST, "--loglevel", "debug"]])
async def test_senders_words_are_not_logged(kafka: LocalKafka, make_app: MakeApp, command: Sequence[str]) -> None:
    """Neither payloads nor keys nor header values nor what commands say, under our command and Faust's own."""
    app = await make_app(kafka, log_format="json")
    worker = await app.worker(command=command).start()
    source, word = await app.source(), MARK.decode()
    records = await app.produced(*(Outgoing(source, MARK, MARK, [("user", MARK)]) for _ in range(8)))
    marked = {f"error_{name}": word for name in ("message", "stacktrace", "cause_type")} | {"metadata": f'"{word}"'}
    marked |= {"queue": word, "group": word, "message_id": None, "outcomes": "reported"}
    ids = [id_of(record, group=word) for record in records]
    waits = {"error_type": word, "retry_after_ms": 600_000}
    await app.send(*(app.failure(each, **marked | waits) for each in records[:6]))
    await app.send(*(app.failure(each, **marked | {"error_type": f"{word},ValueError"}) for each in records[6:]))
    await app.send(Outgoing(app.topic("failures"), MARK, MARK, [("dlq-attempt", MARK)]))
    await app.figures(word, pending=6, escalated=2, unwritten=0)
    said = {"reason": word, "by": word}
    for kind, id_ in zip(("reschedule", "escalate", "resolve", "retry", "redrive"), [*ids[:4], ids[7]], strict=True):
        await app.send(app.command(kind, id_, revision=1, **said, **({"due_at": 1} if kind == "reschedule" else {})))
    await app.send(app.command(word, ids[4], revision=1, **said), app.command("purge", ids[4], revision=9, **said))
    await app.figures(word, retrying=3, pending=2, escalated=2, resolved=1, unwritten=0, total_failures=8)
    retries = [each for each in await app.until(source, 8 + 3) if "dlq-attempt" in own(each)]
    await app.send(app.failure(retries[0], **marked), app.command("succeeded", id_of(retries[1]), attempt=1))
    await app.figures(word, retrying=1, pending=3, escalated=2, resolved=2, revision=1, total_failures=9)
    assert (await app.status())["quarantined"] == 2
    assert (await worker.stop())[0] == 0
    assert [line for line in worker.log.splitlines() if word in line][:1] == []
    lines = [json.loads(line) for line in worker.log.splitlines() if line.startswith("{")]
    events = {line["message"] for line in lines if line["logger"] == "dlq_stream.events" and line["level"] == "debug"}
    assert events >= {"FailureStored", "MessageEscalated", "MessageRescheduled", "MessageRedriven", "EventQuarantined"}
    assert {line["fault"] for line in lines if "fault" in line} == {"dlq-original-topic", "type"}


async def send_with_header_name(app: App, name: bytes, around: Sequence[Outgoing], topic: bytes) -> int:
    """Write one batch to partition 0: ``around``, and in its middle an event with a header of that name.

    No client of ours writes names that are no text, so the batch is patched; brokers do not look at them.
    """
    placeholder = "N" * len(name)
    async with no_topic_creation(AIOKafkaProducer(bootstrap_servers=app.bootstrap, acks=1)) as producer:
        batch = producer.create_batch()
        first, second = around
        odd = Outgoing("", MARK, MARK, [(placeholder, MARK), ("dlq-original-topic", topic)])
        for each in (first, odd, second):
            batch.append(timestamp=None, key=each.key, value=each.value, headers=list(each.headers))
        buffer = bytearray(batch._build())
        start = buffer.index(placeholder.encode())
        buffer[start : start + len(name)] = name
        struct.pack_into(">I", buffer, 17, calc_crc32c(bytes(buffer[21:])))
        batch._buffer = bytes(buffer)
        sent = await producer.send_batch(batch, app.topic("failures"), partition=0)
        return (await sent).offset + 1


async def test_header_names_that_are_no_text(app: App) -> None:
    """Python's clients cannot read such a record; it is quarantined, what stands around it in its batch is retried."""
    source = await app.source()
    before = len(await app.read(app.topic("quarantine")))
    name = b"\xff\xfe\xc3("
    good = (await good_records(app, source, 40))[0][:2]
    offset = await send_with_header_name(app, name, [app.failure(each) for each in good], source.encode())
    retries = [each for each in await app.until(source, 40 + 2) if "dlq-attempt" in own(each)]
    assert sorted(each.value or b"" for each in retries) == sorted(each.value or b"" for each in good)
    held = await app.until(app.topic("quarantine"), before + 1)
    (kept,) = (each for each in held if ("dlq-undecodable", name) in each.headers)
    assert (kept.key, kept.value, kept.headers[0][1]) == (MARK, MARK, MARK)
    assert ("dlq-quarantine-offset", b"%d" % offset) in kept.headers
    (worker,) = app.workers
    assert worker.code is None
