"""Every command, sent as JSON to a running worker, and the ways in which one has no effect."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiokafka import ConsumerRecord

from tests.integration.harness import App, attempt_of, eventually, id_of, own
from tests.kafka_clients import Outgoing
from tests.kafka_fixture import LocalKafka

LONG_SECONDS = 600


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """Retries are so far away that whatever happens is a command's doing."""
    directory = tmp_path_factory.mktemp("commands")
    async with App(kafka, directory, initial_backoff_seconds=LONG_SECONDS, max_backoff_seconds=LONG_SECONDS) as app:
        await app.init()
        await app.worker().start()
        yield app


async def pending(app: App, source: str, **headers: object) -> ConsumerRecord:
    """A record whose failure is stored and waits."""
    (record,) = await app.produced(Outgoing(source, b"value", b"key"))
    await app.send(app.failure(record, **headers))
    await app.row(id_of(record), status="pending", revision=1)
    return record


async def test_retry_emits_now(app: App) -> None:
    """What would be due in ten minutes goes out within moments; the order repeated does nothing."""
    source = await app.source()
    record = await pending(app, source)
    order = app.command("retry", id_of(record), revision=1, reason="fixed", by="ops")
    (ordered,) = await app.send(order)
    retry = (await app.until(source, 2))[-1]
    assert (attempt_of(retry), retry.value) == (1, b"value")
    assert 0 <= retry.timestamp - ordered.timestamp < 3_000
    await app.send(order)
    await app.figures(source, retrying=1, total_retries=1, revision=1)
    assert len(await app.read(source)) == 2


async def test_reschedule_emits_then(app: App) -> None:
    """At the instant named and not before; an instant that has passed means now."""
    source = await app.source()
    record, other = await pending(app, source), await pending(app, source)
    due_at = int(time.time() * 1000) + 2_000
    await app.send(app.command("reschedule", id_of(record), revision=1, due_at=due_at))
    await app.send(app.command("reschedule", id_of(other), revision=1, due_at=0))
    retries = {id_of(each): each for each in await app.until(source, 4) if attempt_of(each)}
    assert own(retries[id_of(record)])["dlq-due-at"] == b"%d" % due_at
    assert 0 <= retries[id_of(record)].timestamp - due_at < 3_000
    assert retries[id_of(other)].timestamp < due_at


async def test_succeeded_settles_whatever_is_open(app: App) -> None:
    """A success of any delivery up to the latest; one that was never made changes nothing; repeats change nothing."""
    source = await app.source()
    record = await pending(app, source)
    await app.send(app.command("succeeded", id_of(record), attempt=1))
    await app.figures(source, pending=1, ahead=1)
    success = app.command("succeeded", id_of(record), attempt=0)
    await app.send(success, success)
    await app.figures(source, pending=0, resolved=1, total_succeeded=1, status=1)
    row = await app.row(id_of(record), status="resolved", revision=2)
    assert (row.due_ms, row.presumed) == (None, False)


async def test_resolve_then_purge(app: App) -> None:
    """Resolved by an operator, with his words; purged, nothing of it is left; then it is unknown."""
    source = await app.source()
    record = await pending(app, source)
    purge = app.command("purge", id_of(record), revision=2, by="ops")
    await app.send(app.command("purge", id_of(record), revision=1))
    await app.figures(source, pending=1, status=1)
    await app.send(app.command("resolve", id_of(record), revision=1, reason="was a drill", by="ops"))
    row = await app.row(id_of(record), status="resolved", revision=2)
    assert (row.reason, row.detail) == ("operator", "was a drill (ops)")
    await app.figures(source, resolved=1, total_resolved_by_operator=1)
    await app.send(purge)
    await app.figures(source, resolved=0, total_purged=1)
    assert id_of(record) not in await app.rows()
    left = {each.key: each.value for each in await app.read(app.topic("attempts-changelog"))}
    assert [value for key, value in left.items() if key.startswith(bytes.fromhex(id_of(record)))] == [None]
    before = (await app.status())["ignored"].get("absent", 0)
    await app.send(purge)
    await eventually(app.status, wanted=lambda told: told["ignored"].get("absent", 0) == before + 1)


async def test_escalate_then_redrive(app: App) -> None:
    """Given up by an operator into the dead-letter topic; a redrive emits at once, with the next number."""
    source = await app.source()
    record = await pending(app, source, error_message="no answer")
    await app.send(app.command("escalate", id_of(record), revision=1, reason="no use", by="ops"))
    (letter,) = await app.until(f"{source}-dlq", 1)
    told = own(letter)
    assert (told["dlq-escalation-reason"], told["dlq-attempt"]) == (b"operator", b"0")
    assert (letter.key, letter.value, told["dlq-error-message"]) == (b"key", b"value", b"no answer")
    row = await app.row(id_of(record), status="escalated", dead_letter="written")
    assert (row.reason, row.detail) == ("operator", "no use (ops)")
    await app.send(app.command("redrive", id_of(record), revision=row.revision, by="ops"))
    retry = (await app.until(source, 2))[-1]
    assert attempt_of(retry) == 1
    await app.figures(source, retrying=1, escalated=0, total_redriven=1, total_escalated=1, total_retries=1)


async def test_an_order_at_another_revision_does_nothing(app: App) -> None:
    """It was given by someone who saw another state of the message; counted by its reason."""
    source = await app.source()
    record = await pending(app, source)
    for kind in ("retry", "resolve", "escalate", "redrive", "purge"):
        await app.send(*(app.command(kind, id_of(record), revision=revision) for revision in (0, 2)))
    await app.send(app.command("reschedule", id_of(record), revision=7, due_at=0))
    await app.figures(source, pending=1, revision=11, total_retries=0)
    await app.row(id_of(record), status="pending", revision=1)


async def test_a_command_for_nobody_is_counted(app: App) -> None:
    """An id that no message has: neither an error nor a row."""
    before = (await app.status())["ignored"].get("absent", 0)
    unknown = "00" * 16
    await app.send(
        app.command("succeeded", unknown, attempt=0),
        app.command("retry", unknown, revision=1),
        app.command("purge", unknown, revision=1),
    )
    await eventually(app.status, wanted=lambda told: told["ignored"].get("absent", 0) == before + 3)
    assert unknown not in await app.rows()


async def test_a_misplaced_command_is_passed_on(app: App) -> None:
    """It came on some other partition and takes effect all the same, once."""
    source = await app.source()
    record = await pending(app, source)
    value = app.command("resolve", id_of(record), revision=1).value
    await app.send(*(Outgoing(app.topic("commands"), value, partition=number) for number in range(4)))
    await app.figures(source, resolved=1, total_resolved_by_operator=1, revision=3)


GOOD_ID = "0123456789abcdef" * 2
MALFORMED: dict[str, tuple[bytes | None, str]] = {
    "null": (None, "command"),
    "empty": (b"", "command"),
    "no JSON": (b"{type: retry}", "command"),
    "not UTF-8": (b'{"type": "\xff"}', "command"),
    "UTF-16": ('{"type":"retry"}'.encode("utf-16"), "command"),
    "a list": (b"[1]", "command"),
    "too deep": (b"[" * 10_000, "command"),
    "too long": (b'{"type":"' + b"x" * 20_000 + b'"}', "command"),
    "half a megabyte": (b"\x00" * 500_000, "command"),
    "unknown type": (json.dumps({"type": "explode", "message_id": GOOD_ID}).encode(), "type"),
    "type of another type": (json.dumps({"type": ["retry"], "message_id": GOOD_ID}).encode(), "type"),
    "no type": (json.dumps({"message_id": GOOD_ID}).encode(), "type"),
    "no id": (b'{"type":"retry","revision":1}', "message_id"),
    "bad id": (b'{"type":"retry","message_id":"xyz","revision":1}', "message_id"),
    "no revision": (json.dumps({"type": "retry", "message_id": GOOD_ID}).encode(), "revision"),
    "revision of another type": (
        json.dumps({"type": "retry", "message_id": GOOD_ID, "revision": "1"}).encode(),
        "revision",
    ),
    "boolean for a number": (
        json.dumps({"type": "succeeded", "message_id": GOOD_ID, "attempt": True}).encode(),
        "attempt",
    ),
    "negative": (json.dumps({"type": "succeeded", "message_id": GOOD_ID, "attempt": -1}).encode(), "attempt"),
    "no due_at": (json.dumps({"type": "reschedule", "message_id": GOOD_ID, "revision": 1}).encode(), "due_at"),
    "unknown field": (
        json.dumps({"type": "retry", "message_id": GOOD_ID, "revision": 1, "version": 99}).encode(),
        "field 'version'",
    ),
    "field twice": (b'{"type":"retry","type":"purge","message_id":"' + GOOD_ID.encode() + b'"}', "command"),
}


async def test_what_is_no_command_goes_to_quarantine_whole(app: App) -> None:
    """With the reason, its place, key and headers; commands among them on the same partition take effect."""
    source = await app.source()
    record = await pending(app, source)
    before = await app.read(app.topic("quarantine"))
    headers = [("from", b"\xff"), ("from", b"here")]
    bad = [
        Outgoing(app.topic("commands"), value, b"key-%d" % number, headers, partition=number % 4)
        for number, (value, _) in enumerate(MALFORMED.values())
    ]
    written = await app.send(*bad, app.command("retry", id_of(record), revision=1), *bad)
    await app.until(source, 2)
    held = (await app.until(app.topic("quarantine"), len(before) + 2 * len(bad)))[:]
    by_place = {
        (own(each)["dlq-quarantine-partition"], own(each)["dlq-quarantine-offset"]): each
        for each in held
        if own(each)["dlq-quarantine-topic"] == app.topic("commands").encode()
    }
    for name, sent, place in zip(MALFORMED, bad, written, strict=False):
        kept = by_place[b"%d" % place.partition, b"%d" % place.offset]
        assert (kept.key, kept.value, kept.partition) == (sent.key, sent.value, sent.partition), name
        assert list(kept.headers[:2]) == headers
        assert own(kept)["dlq-quarantine-reason"].decode().startswith(MALFORMED[name][1]), name
    assert (await app.status())["quarantined"] == len(held)
