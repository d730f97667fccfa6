"""What time does to a message: outcomes that do not come, retention, and input that is read a second time."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiokafka import ConsumerRecord

from dlq_stream.tables.messages import DeadLetter
from tests.integration.acls import CLUSTER, CREATE, THE_CLUSTER, allow_again, forbid
from tests.integration.conftest import MakeApp
from tests.integration.harness import App, attempt_of, eventually, id_of, own
from tests.kafka_clients import Outgoing
from tests.kafka_fixture import KafkaFactory, LocalKafka

OUTCOME_MS = 1_500
BACKOFF_MS = 300


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    settings = {"max_retries": 2, "outcome_timeout_seconds": OUTCOME_MS / 1000}
    async with App(kafka, tmp_path_factory.mktemp("time"), **settings) as app:
        await app.init()
        await app.worker().start()
        yield app


async def failed(app: App, source: str, value: bytes = b"v", **headers: object) -> ConsumerRecord:
    """A record whose failure was reported."""
    (record,) = await app.produced(Outgoing(source, value, b"k"))
    await app.send(app.failure(record, **headers))
    return record


def due_ms(retry: ConsumerRecord) -> int:
    """When a retry was due; the deadline of its outcome counts from then or, if it was late, from later."""
    return int(own(retry)["dlq-due-at"])


async def test_silence_is_a_failure_where_outcomes_are_reported(app: App) -> None:
    """Each retry that nothing is heard of uses up one of the allowance, with its backoff; the last is given up."""
    source = await app.source()
    record = await failed(app, source, outcomes="reported")
    (letter,) = await app.until(f"{source}-dlq", 1)
    _, first, second = await app.until(source, 3)
    assert [attempt_of(first), attempt_of(second)] == [1, 2]
    assert second.timestamp >= due_ms(first) + OUTCOME_MS + 2 * BACKOFF_MS
    assert letter.timestamp >= due_ms(second) + OUTCOME_MS
    told = own(letter)
    assert (told["dlq-escalation-reason"], told["dlq-error-type"]) == (b"retries-exhausted", b"OutcomeTimeout")
    assert told["dlq-message-id"].decode() == id_of(record)
    await app.figures(source, escalated=1, total_timed_out=2, total_retries=2, total_failures=1, total_presumed=0)


async def test_a_success_after_the_time_out_still_counts(app: App) -> None:
    """The message waits for its next retry then, which is not made."""
    source = await app.source()
    record = await failed(app, source, outcomes="reported")
    await app.until(source, 2)
    await app.row(id_of(record), status="pending", attempt=1, error_type="OutcomeTimeout")
    await app.send(app.command("succeeded", id_of(record), attempt=1))
    await app.figures(source, resolved=1, total_succeeded=1, total_timed_out=1)
    await asyncio.sleep(2 * BACKOFF_MS / 1000)
    assert len(await app.read(source)) == 2


async def test_silence_is_success_where_they_are_not(app: App) -> None:
    """Presumed, and counted apart; a failure of that delivery, however late, reopens the message."""
    source = await app.source()
    record = await failed(app, source)
    retry = (await app.until(source, 2))[-1]
    row = await app.row(id_of(record), status="resolved", presumed=True)
    assert (row.closed_ms or 0) >= due_ms(retry) + OUTCOME_MS
    await app.figures(source, resolved=1, total_presumed=1, total_timed_out=0, total_succeeded=0)
    (reported,) = await app.send(app.failure(retry))
    again = (await app.until(source, 3))[-1]
    assert attempt_of(again) == 2
    assert again.timestamp >= reported.timestamp + 2 * BACKOFF_MS
    await app.figures(source, resolved=1, total_presumed=2, total_reopened=1, total_failures=2, total_retries=2)


async def test_a_redrive_gives_a_fresh_allowance(app: App) -> None:
    """As many retries again, numbered on, the first at once; given up again, it is in the dead-letter topic again."""
    source = await app.source()
    (delivery,) = await app.produced(Outgoing(source, b"v", b"k"))
    for count in (2, 3):
        await app.send(app.failure(delivery, outcomes="reported"))
        delivery = (await app.until(source, count))[-1]
    await app.send(app.failure(delivery, outcomes="reported"))
    await app.until(f"{source}-dlq", 1)
    row = await app.row(id_of(delivery), status="escalated", attempt=2)
    (ordered,) = await app.send(app.command("redrive", id_of(delivery), revision=row.revision))
    delivery = (await app.until(source, 4))[-1]
    assert attempt_of(delivery) == 3
    assert delivery.timestamp - ordered.timestamp < 3_000
    (reported,) = await app.send(app.failure(delivery, outcomes="reported"))
    delivery = (await app.until(source, 5))[-1]
    assert attempt_of(delivery) == 4
    assert delivery.timestamp >= reported.timestamp + 2 * BACKOFF_MS, "it was the second retry of this allowance"
    await app.send(app.failure(delivery, outcomes="reported"))
    letters = await app.until(f"{source}-dlq", 2)
    assert sorted(own(each)["dlq-attempt"] for each in letters) == [b"2", b"4"]
    await app.figures(source, escalated=1, total_escalated=2, total_redriven=1, total_retries=4, total_failures=5)


RETENTION_MS = 2_000


async def test_retention_takes_what_is_closed_and_nothing_else(kafka_factory: KafkaFactory, make_app: MakeApp) -> None:
    """Rows and attempts go when their time has passed, never what is open or not yet in its dead-letter topic."""
    broker = await asyncio.to_thread(kafka_factory, authorizer=True)
    app = await make_app(broker, retention_days=RETENTION_MS / 86_400_000)
    source, absent = await app.source(), f"absent-{await app.source()}"
    await forbid(app.bootstrap, THE_CLUSTER, CREATE, kind=CLUSTER)
    await forbid(app.bootstrap, f"{absent}-dlq", CREATE)
    await app.worker().start()
    long_name = f"{'x' * 200}{await app.source()}"
    long_name += "y" * (246 - len(long_name))  # its dead-letter topic could not be named
    written = await failed(app, source, error_type="ValueError")
    resolved = await failed(app, source, retry_after_ms=600_000)
    waiting = await failed(app, source, error_type="ValueError", original_topic=absent)
    impossible = await failed(app, source, error_type="ValueError", original_topic=long_name)
    open_ = await failed(app, source, retry_after_ms=600_000)
    await app.send(app.command("succeeded", id_of(resolved), attempt=0))
    closed = {id_of(each): (await app.row(id_of(each), due_ms=None)).closed_ms for each in (written, resolved)}
    assert None not in closed.values()
    await eventually(app.status, wanted=lambda told: told["total"]["totals"]["purged"] == 2)
    kept = {id_of(waiting), id_of(impossible), id_of(open_)}
    youngest_ms = max(row.created_ms for row in (await app.rows()).values())
    await asyncio.sleep(max(0, (youngest_ms + 2 * RETENTION_MS) / 1000 - time.time()))
    rows = await app.rows()
    assert set(rows) == kept
    assert rows[id_of(waiting)].dead_letter is DeadLetter.WAITING
    assert "creation was refused" in rows[id_of(waiting)].dead_letter_reason
    assert (rows[id_of(impossible)].dead_letter, rows[id_of(impossible)].dead_letter_reason) == (
        DeadLetter.IMPOSSIBLE,
        "invalid-name",
    )
    for table in ("messages", "attempts"):
        changes = {each.key: each for each in await app.read(app.topic(f"{table}-changelog"))}
        for id_, closed_ms in closed.items():
            (deleted,) = (each for key, each in changes.items() if key.startswith(bytes.fromhex(id_)))
            assert deleted.value is None
            assert closed_ms is not None
            assert closed_ms + RETENTION_MS <= deleted.timestamp < closed_ms + RETENTION_MS + 3_000
    await app.figures(source, pending=1, resolved=0, escalated=0, total_purged=2)
    figures = await app.figures(absent, escalated=1, unwritten=1, total_purged=0)
    assert figures["unwritten_reasons"] == {"missing": 1}
    told = (await app.run("status")).stdout
    assert f"unwritten in {absent}: missing 1\n" in told
    assert f"unwritten in {long_name}: invalid-name 1\n" in told
    for reason in ("missing", "invalid-name"):
        assert re.search(rf"is not in its -dlq topic message_id=\w+ reason={reason} ", app.workers[0].log)
    await allow_again(app.bootstrap, f"{absent}-dlq")
    await app.until(f"{absent}-dlq", 1, seconds=90)
    assert (await app.figures(absent, escalated=0, unwritten=0, total_purged=1))["unwritten_reasons"] == {}
    assert set(await app.rows()) == kept - {id_of(waiting)}


async def test_a_message_without_its_record_is_stuck_and_alone(kafka: LocalKafka, make_app: MakeApp) -> None:
    """What a timer cannot process leaves the due index, keeps its status, is counted, and waits for an operator."""
    app = await make_app(kafka)
    worker = await app.worker().start()
    source = await app.source()
    broken, sound = [await failed(app, source, value, retry_after_ms=4_000) for value in (b"broken", b"sound")]
    await app.figures(source, pending=2)
    await worker.stop()
    changelog = app.topic("attempts-changelog")
    (row,) = (each for each in await app.read(changelog) if each.key.startswith(bytes.fromhex(id_of(broken))))
    await app.send(Outgoing(changelog, None, row.key, partition=row.partition))
    await worker.start()
    retry = (await app.until(source, 3))[-1]
    assert id_of(retry) == id_of(sound)
    stuck = await app.row(id_of(broken), status="pending", due_ms=None)
    assert "original record, is missing" in stuck.stuck_reason
    figures = await app.figures(source, pending=1, retrying=1, stuck=1)
    assert figures["stuck_reasons"] == {"record-missing": 1}
    assert f"stuck in {source}: record-missing 1\n" in (await app.run("status")).stdout
    assert f"until an operator retries, resolves or escalates it message_id={id_of(broken)}" in worker.log
    assert worker.code is None
    await app.send(app.command("resolve", id_of(broken), revision=stuck.revision))
    assert (await app.figures(source, pending=0, resolved=1, stuck=0))["stuck_reasons"] == {}


async def test_reading_all_input_again_changes_nothing(kafka: LocalKafka, make_app: MakeApp) -> None:
    """With the group's offsets reset to the beginning, no retry or dead letter is written twice, and no row changes."""
    app = await make_app(kafka, max_retries=1)
    worker = await app.worker().start()
    source = await app.source()
    records = await app.produced(*(Outgoing(source, b"%d" % n, b"k%d" % n) for n in range(60)))
    kinds = {
        "waits": records[:10],
        "permanent": records[10:20],
        "runs out": records[20:35],
        "succeeds": records[35:50],
        "in the air": records[50:],
    }
    special = {"waits": {"retry_after_ms": 600_000}, "permanent": {"error_type": "ValueError"}}
    events = [
        app.failure(each, outcomes="reported", **special.get(kind, {}))
        for kind, group in kinds.items()
        for each in group
    ]
    await app.send(*events, *events[::7])
    retries = {id_of(each): each for each in await app.until(source, 60 + 40) if attempt_of(each)}
    await app.send(*(app.failure(retries[id_of(each)], outcomes="reported") for each in kinds["runs out"]))
    await app.send(*(app.command("succeeded", id_of(each), attempt=1) for each in kinds["succeeds"]))
    letters = await app.until(f"{source}-dlq", 25)
    redriven = [each for each in letters if own(each)["dlq-attempt"] == b"1"][:5]
    revisions = {id_: row.revision for id_, row in (await app.rows()).items()}
    await app.send(*(app.command("redrive", id_of(each), revision=revisions[id_of(each)]) for each in redriven))
    await app.until(source, 105)
    before = await app.figures(source, pending=10, escalated=20, resolved=15, retrying=15, total_redriven=5)
    rows = await app.rows()
    code, _ = await worker.stop()
    assert code == 0
    await app.rewind()
    await worker.start()
    await app.processed()
    after = await app.figures(source, pending=10)
    ignored = {"duplicate", "status", "revision", "ahead", "updated_ms", "oldest_open_age_seconds"}
    assert {k: v for k, v in after.items() if k not in ignored} == {k: v for k, v in before.items() if k not in ignored}
    assert sum(after.get(name, 0) for name in ("duplicate", "status", "revision")) > len(events)
    assert await app.rows() == rows
    await app.until(source, 105)
    await app.until(f"{source}-dlq", 25)
