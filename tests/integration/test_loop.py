"""The loop: a failure goes in, its retry comes out on time, as it was; and what ends it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.conftest import MakeApp
from tests.integration.harness import App, attempt_of, by_id, id_of, own, users
from tests.kafka_clients import Outgoing, create_topics, list_topics, topic_config
from tests.kafka_fixture import LocalKafka, unique_name

BACKOFF_MS = 300
LATENESS_MS_MAX = 3_000
"""How late a retry may be on two cores that are shared with all the rest; 20 ms are usual."""

HEADERS = [("trace", b"1"), ("a", b"\xff\x00"), ("trace", b"2"), ("empty", b""), ("null", None), ("trace", b"1")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    async with App(kafka, tmp_path_factory.mktemp("loop"), max_retries=2) as app:
        await app.init()
        await app.worker().start()
        yield app


async def test_a_failure_comes_back_on_time_and_as_it_was(app: App) -> None:
    """Same partition, key, value and headers; ours say what it is; a success then settles it."""
    source = await app.source()
    (failed,) = await app.produced(Outgoing(source, b'{"celsius": 1450}', b"furnace-7", HEADERS, partition=2))
    event = app.failure(failed, outcomes="reported", queue="ovens", error_message="no answer", failed_at=1)
    (reported,) = await app.send(event)
    retry = (await app.until(source, 2))[1]
    assert (retry.partition, retry.key, retry.value) == (2, failed.key, failed.value)
    assert users(retry) == HEADERS
    told = own(retry)
    due_ms, first_failed_ms = int(told.pop("dlq-due-at")), int(told.pop("dlq-first-failed-at"))
    assert told == {
        "dlq-message-id": id_of(failed).encode(),
        "dlq-queue": b"ovens",
        "dlq-attempt": b"1",
        "dlq-group": b"furnaces",
        "dlq-original-topic": source.encode(),
        "dlq-original-partition": b"2",
        "dlq-original-offset": b"0",
        "dlq-original-timestamp": b"%d" % failed.timestamp,
        "dlq-error-type": b"TimeoutError",
    }
    assert due_ms == first_failed_ms + BACKOFF_MS
    assert first_failed_ms >= reported.timestamp, "due counts from when the worker saw it"
    assert retry.timestamp >= due_ms, "never early"
    print(f"the retry was {retry.timestamp - due_ms} ms late")
    assert retry.timestamp - due_ms < LATENESS_MS_MAX
    await app.figures("ovens", retrying=1, total_failures=1, total_retries=1)
    await app.send(app.command("succeeded", id_of(failed), attempt=1))
    await app.figures("ovens", retrying=0, resolved=1, total_succeeded=1)
    row = await app.row(id_of(failed), status="resolved")
    assert (row.due_ms, row.presumed) == (None, False)
    assert len(await app.read(source)) == 2


async def test_retries_end_in_the_dead_letter_topic(app: App) -> None:
    """Each retry waits twice as long; after the last the record goes to a topic that is made for it, like its own."""
    source = await app.source(partitions=5)
    (failed,) = await app.produced(Outgoing(source, b"value", b"\x00key", HEADERS, partition=4))
    delivery = failed
    for attempt, backoff_ms in ((1, BACKOFF_MS), (2, 2 * BACKOFF_MS)):
        event = app.failure(delivery, outcomes="reported", error_type="app.Odd,Exception", error_stacktrace=b"at \xff")
        (reported,) = await app.send(event)
        delivery = (await app.until(source, 1 + attempt))[-1]
        assert attempt_of(delivery) == attempt
        assert delivery.timestamp >= int(own(delivery)["dlq-due-at"]) >= reported.timestamp + backoff_ms
        assert delivery.timestamp - int(own(delivery)["dlq-due-at"]) < LATENESS_MS_MAX
    await app.send(app.failure(delivery, error_type="app.Odd", error_message="still", error_stacktrace=b"at \xff"))
    (given_up,) = await app.until(f"{source}-dlq", 1)
    assert (given_up.partition, given_up.key, given_up.value) == (4, failed.key, failed.value)
    assert users(given_up) == HEADERS
    told = own(given_up)
    assert told["dlq-escalation-reason"] == b"retries-exhausted"
    assert (told["dlq-attempt"], told["dlq-message-id"]) == (b"2", id_of(failed).encode())
    assert (told["dlq-error-type"], told["dlq-error-message"]) == (b"app.Odd", b"still")
    assert (told["dlq-error-stacktrace"], told["dlq-category"]) == (b"at \xff", b"unknown")
    await app.figures(source, pending=0, retrying=0, escalated=1, unwritten=0, total_failures=3, total_retries=2)
    assert (await list_topics(app.bootstrap))[f"{source}-dlq"] == 5
    config = await topic_config(app.bootstrap, f"{source}-dlq")
    assert int(config["retention.ms"]) >= 30 * 86_400_000
    assert len(await app.read(source)) == 3


async def test_a_permanent_error_is_given_up_at_once(app: App) -> None:
    """By the built-in rules as by the reporter's own word; nothing is retried."""
    source = await app.source()
    by_rule, by_word = await app.produced(Outgoing(source, b"1", b"k"), Outgoing(source, b"2", b"k"))
    await app.send(
        app.failure(by_rule, error_type="orders.BadOrder,ValueError"),
        app.failure(by_word, error_type="TimeoutError", category="PERMANENT"),
    )
    given_up = await app.until(f"{source}-dlq", 2)
    assert {each.value for each in given_up} == {b"1", b"2"}
    for each in given_up:
        told = own(each)
        assert (told["dlq-escalation-reason"], told["dlq-category"], told["dlq-attempt"]) == (
            b"permanent",
            b"permanent",
            b"0",
        )
    await app.figures(source, escalated=2, unwritten=0, total_failures=2, total_retries=0)
    assert len(await app.read(source)) == 2


CONTENTS = {
    "binary key": Outgoing("", b"\x00\xff\xfe", b"\xff\x00\x80", [("h", b"\x80")]),
    "null value": Outgoing("", None, b"key", HEADERS),
    "null key": Outgoing("", b"value", None, HEADERS),
    "null key and value": Outgoing("", None, None, [("only", b"headers")]),
    "nothing at all": Outgoing("", None, None),
    "empty key and value": Outgoing("", b"", b""),
    "32 hex digits for a key": Outgoing("", b"value", b"0123456789abcdef" * 2),
    "headers of ours that are not": Outgoing("", b"v", b"k", [("dlq-", b"1"), ("DLQ-Attempt", b"9"), ("dlq-x", None)]),
    "100 kB": Outgoing("", b"x" * 100_000, b"k" * 5_000, [("big", b"h" * 10_000)]),
}


async def test_every_kind_of_content_comes_back_unchanged(app: App) -> None:
    """In a retry and in the dead letter: nulls stay null, empty stays empty, headers keep order and repeats."""
    source = await app.source()
    wanted = [
        Outgoing(source, each.value, each.key, each.headers, partition=number % 3)
        for number, each in enumerate(CONTENTS.values())
    ]
    failed = await app.produced(*wanted)
    await app.send(*(app.failure(each) for each in failed))
    retries = by_id((await app.until(source, 2 * len(failed)))[:])
    for name, original in zip(CONTENTS, failed, strict=True):
        (retry,) = (each for each in retries[id_of(original)] if attempt_of(each) == 1)
        assert (retry.key, retry.value, retry.partition) == (original.key, original.value, original.partition), name
        assert users(retry) == list(original.headers), name
    await app.send(
        *(app.failure(each, error_type="KeyError") for group in retries.values() for each in group if attempt_of(each))
    )
    dead = by_id(await app.until(f"{source}-dlq", len(failed)))
    for name, original in zip(CONTENTS, failed, strict=True):
        (letter,) = dead[id_of(original)]
        assert (letter.key, letter.value, letter.partition) == (original.key, original.value, original.partition), name
        assert users(letter) == list(original.headers), name


async def test_a_partition_that_is_gone_is_chosen_by_key(app: App) -> None:
    """The original partition is kept only while the topic has it; equal keys then still meet in one partition."""
    source = await app.source(partitions=2)
    (failed,) = await app.produced(Outgoing(source, b"v", b"same-key", partition=0))
    events = [app.failure(failed, message_id=None, original_partition=7, original_offset=number) for number in range(3)]
    await app.send(*events)
    retries = [each for each in await app.until(source, 4) if attempt_of(each)]
    (expected,) = {each.partition for each in await app.produced(Outgoing(source, b"by key", b"same-key"))}
    assert {each.partition for each in retries} == {expected}


async def test_a_message_may_have_a_retry_topic_and_a_wait_of_its_own(app: App) -> None:
    """`dlq-retry-topic` takes the place of the source, `dlq-retry-after-ms` that of the backoff, once."""
    source = await app.source()
    aside = f"{source}-aside"
    await create_topics(app.bootstrap, aside, partitions=1, config={"message.timestamp.type": "LogAppendTime"})
    (failed,) = await app.produced(Outgoing(source, b"v", b"k", partition=2))
    (reported,) = await app.send(app.failure(failed, retry_topic=aside, retry_after_ms=1_500))
    (retry,) = await app.until(aside, 1)
    assert retry.timestamp >= int(own(retry)["dlq-due-at"]) >= reported.timestamp + 1_500
    assert (retry.value, own(retry)["dlq-retry-topic"]) == (b"v", aside.encode())
    (reported,) = await app.send(app.failure(retry))
    again = (await app.until(aside, 2))[1]
    assert reported.timestamp + 2 * BACKOFF_MS <= int(own(again)["dlq-due-at"]) < reported.timestamp + 1_500 + 2_000
    assert len(await app.read(source)) == 1


async def test_status_is_the_same_for_everybody(app: App) -> None:
    """The command prints what Kafka says, worker or not."""
    source = await app.source()
    (failed,) = await app.produced(Outgoing(source, b"v", b"k"))
    await app.send(app.failure(failed, retry_after_ms=600_000))
    await app.figures(source, pending=1)
    done = await app.run("status", "--json")
    assert done.returncode == 0, done.stderr
    printed, read = json.loads(done.stdout), await app.status()
    (row,) = (row for row in printed["queues"] if row["queue"] == source)
    assert (row["pending"], row["totals"]["failures"], row["oldest_open_ms"]) == (1, 1, row["updated_ms"])
    assert {name for name in printed if printed[name] != read[name]} <= {"as_of_ms", "total", "queues"}
    assert printed["total"]["totals"] == read["total"]["totals"]


async def test_each_queue_has_a_policy_of_its_own(kafka: LocalKafka, make_app: MakeApp, tmp_path: Path) -> None:
    """From the settings file: where retries go, how many there are, what an error means, whether compaction is fine."""
    names = {name: unique_name(name) for name in ("aside", "compacted", "never", "ruled")}
    file = tmp_path / "dlq.toml"
    file.write_text(f"""
        [queues.{names["aside"]}]
        emit_to = "retry"
        retry_topic = "{{topic}}.{{group}}.again"
        [queues.{names["compacted"]}]
        write_compacted = true
        [queues.{names["never"]}]
        max_retries = 0
        [queues.{names["ruled"]}]
        initial_backoff_seconds = 600
        rules = [ {{ regex = "^E[0-9]+", category = "permanent" }} ]
        by_error = {{ Slow = {{ initial_backoff_seconds = 0 }} }}
    """)
    app = await make_app(kafka, config=file)
    for name, topic in names.items():
        config = {"cleanup.policy": "compact"} if name == "compacted" else {}
        await create_topics(kafka.bootstrap, topic, partitions=2, config=config)
    again = f"{names['aside']}.furnaces.again"
    await create_topics(kafka.bootstrap, again, partitions=2)
    await app.worker().start()
    events = []
    for name in ("aside", "compacted", "never"):
        (record,) = await app.produced(Outgoing(names[name], b"v", b"k", partition=1))
        events.append(app.failure(record))
    texts = {b"E42 in furnace 7": "Odd", b"no E42": "Odd", b"slow": "Slow"}
    for text, record in zip(
        texts, await app.produced(*(Outgoing(names["ruled"], text, b"k") for text in texts)), strict=True
    ):
        events.append(app.failure(record, error_message=text, error_type=texts[text]))
    await app.send(*events)
    (retry,) = await app.until(again, 1)
    assert (retry.partition, retry.value, attempt_of(retry)) == (1, b"v", 1)
    await app.until(names["compacted"], 2)
    (letter,) = await app.until(f"{names['never']}-dlq", 1)
    assert own(letter)["dlq-escalation-reason"] == b"retries-exhausted"
    (letter,) = await app.until(f"{names['ruled']}-dlq", 1)
    assert (letter.value, own(letter)["dlq-escalation-reason"]) == (b"E42 in furnace 7", b"permanent")
    retries = [each for each in await app.until(names["ruled"], 4) if attempt_of(each)]
    assert [each.value for each in retries] == [b"slow"]
    await app.figures(names["ruled"], pending=1, retrying=1, escalated=1)
    assert len(await app.read(names["aside"])) == len(await app.read(names["never"])) == 1
