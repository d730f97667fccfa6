"""The timer: what is due is dealt with, in bounds, and nothing holds up anything else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dlq_stream.core import events
from dlq_stream.core.commands import Action, Order
from dlq_stream.core.errors import UnsupportedFormat
from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.core.policy import RetryPolicy
from dlq_stream.core.transaction import UNAVAILABLE, Destination
from dlq_stream.engine import apply_commands, emit
from dlq_stream.tables.attempts import attempt_key
from dlq_stream.tables.messages import Message
from dlq_stream.tables.spec import index_key
from tests.engine.world import GROUP, NOW, TOPIC, World, id_of, rows_of

FAST = RetryPolicy(initial_backoff_ms=10)


def numbers(world: World, topic: str = TOPIC) -> list[int]:
    return [int(sent.header("dlq-original-offset") or b"-1") for sent in world.emissions(topic)]


# ------------------------------------------------------------------------------------------------------- emissions


def test_a_retry_is_the_original_record_with_our_headers() -> None:
    """Same key, value and headers, order and repeats kept; ours follow, each once; the original partition."""
    world = World()
    id_ = world.fail(headers=(("b", b"\xff"), ("a", None), ("b", b"")), key=None, value=None, retry_after_ms=1_000)
    world.wait(1_500)
    result = world.emit()
    assert (result.emitted, result.handled, result.more, result.unknown) == (1, 1, False, frozenset())
    [emission] = world.emissions()
    assert (emission.key, emission.value, emission.partition) == (None, None, 3)
    assert emission.headers[:3] == (("b", b"\xff"), ("a", None), ("b", b""))
    names = [name for name, _ in emission.headers[3:]]
    assert len(set(names)) == len(names)
    expected = {
        "dlq-message-id": id_.hex().encode(),
        "dlq-attempt": b"1",
        "dlq-queue": TOPIC.encode(),
        "dlq-group": GROUP.encode(),
        "dlq-original-topic": TOPIC.encode(),
        "dlq-original-partition": b"3",
        "dlq-original-offset": b"81",
        "dlq-original-timestamp": b"1699999999000",
        "dlq-due-at": b"%d" % (NOW + 1_000),
        "dlq-first-failed-at": b"%d" % NOW,
        "dlq-error-type": b"TimeoutError",
    }
    assert dict(emission.headers[3:]) == expected
    row = world.must(id_)
    assert (row.status, row.attempt, row.revision) == (DLQMessageStatus.RETRYING, 1, 2)
    assert row.due_ms == result.next_due_ms == world.now + 3_600_000
    [seen] = world.seen_of(events.RetryEmitted)
    assert (seen.destination, seen.attempt, seen.late_ms) == (TOPIC, 1, 500)
    assert (world.stats().retrying, world.stats().retries) == (1, 1)
    world.check()


def test_nothing_is_emitted_before_it_is_due() -> None:
    """Not a millisecond; the result says when to come back."""
    world = World()
    world.fail()
    world.wait(59_999)
    result = world.emit()
    assert (result.emitted, result.next_due_ms, result.more) == (0, NOW + 60_000, False)
    world.wait(1)
    assert world.emit().emitted == 1


def test_what_input_of_the_same_transaction_moved_is_left_to_the_next_tick() -> None:
    """The rest goes out, and the result says to come back at once."""
    world = World()
    moved, other = world.fail(offset=1), world.fail(offset=2)
    world.wait(60_000)
    command = world.command(Order(moved, Action.RETRY, revision=1))

    def stage(tx: Any) -> emit.EmitResult:
        apply_commands(tx, [command], world.engine)
        return emit.emit_due(tx, world.engine, records_max=9, bytes_max=9_999)

    result = world.run(stage)
    assert numbers(world) == [2]
    assert (result.emitted, result.next_due_ms) == (1, world.now)
    assert (world.must(moved).revision, world.must(other).revision) == (2, 2)
    world.check()
    world.emit()
    assert numbers(world) == [2, 1]
    world.check()


def test_an_idle_look_changes_nothing() -> None:
    """Nothing is due ever."""
    world = World()
    result = world.emit()
    assert (result.next_due_ms, result.more, result.handled) == (None, False, 0)
    assert not any(world.home.rows.values())


def test_earliest_first_within_the_bound_of_records() -> None:
    """The rest at once afterwards."""
    world = World()
    for offset in range(5):
        world.fail(offset, retry_after_ms=100 - offset)
    world.wait(1_000)
    result = world.emit(records_max=2)
    assert (numbers(world), result.more) == ([4, 3], True)
    result = world.emit(records_max=2)
    assert (numbers(world), result.more) == ([4, 3, 2, 1], True)
    result = world.emit(records_max=2)
    assert (numbers(world), result.more) == ([4, 3, 2, 1, 0], False)
    world.check()


def test_many_pages_in_one_call() -> None:
    """More rows than are read at a time."""
    world = World(policy=FAST)
    world.apply(*(world.failure(offset) for offset in range(emit.PAGE_ROWS_MAX * 2 + 5)))
    world.wait(10)
    result = world.emit(records_max=10_000)
    assert (result.emitted, result.more) == (emit.PAGE_ROWS_MAX * 2 + 5, False)
    world.check()


def test_within_the_bound_of_bytes_but_at_least_one() -> None:
    """A record larger than the bound goes out alone."""
    world = World(policy=FAST)
    for offset, size in enumerate((50_000, 400, 400, 400)):
        world.fail(offset, value=b"x" * size, retry_after_ms=offset)
    world.wait(100)
    emitted = []
    while True:
        result = world.emit(bytes_max=1_500)
        emitted.append(result.emitted)
        if not result.more:
            break
    assert emitted == [1, 2, 1]


def test_the_original_partition_if_it_still_exists() -> None:
    """Else by key."""
    world = World(policy=FAST)
    world.home.learn(Destination(TOPIC, partitions=3))
    world.fail()
    world.wait(10)
    world.emit()
    assert world.emissions()[0].partition is None


@pytest.mark.parametrize(
    ("policy", "own", "target"),
    [
        (RetryPolicy(), None, TOPIC),
        (RetryPolicy(emit_to="retry"), None, f"{TOPIC}-retry"),
        (RetryPolicy(emit_to="retry", retry_topic="{group}.again"), None, f"{GROUP}.again"),
        (RetryPolicy(emit_to="retry"), f"{TOPIC}-own", f"{TOPIC}-own"),
        (RetryPolicy(), f"{TOPIC}-own", f"{TOPIC}-own"),
    ],
)
def test_where_retries_go(policy: RetryPolicy, own: str | None, target: str) -> None:
    """The message's own retry topic, else the queue's, else the source."""
    world = World(policy=policy)
    world.home.learn(Destination(target, 8))
    world.fail(retry_topic=own)
    world.wait(60_000)
    world.emit()
    [emission] = world.emissions(target)
    assert emission.header("dlq-original-topic") == TOPIC.encode()
    assert emission.header("dlq-retry-topic") == (own.encode() if own else None)


# ------------------------------------------------------------------------------------------ unusable destinations


@pytest.mark.parametrize(
    ("destination", "reason"),
    [
        (Destination(TOPIC, refusal="missing"), "missing"),
        (Destination(TOPIC, refusal="not-authorised"), "not-authorised"),
        (Destination(TOPIC, refusal="strange"), "record-refused"),
        (Destination(TOPIC, 8, compacted=True), "compacted"),
        (Destination(TOPIC, 8, record_bytes_max=200), "too-large"),
    ],
)
def test_an_unusable_destination_escalates_its_message_alone(destination: Destination, reason: str) -> None:
    """With the reason; retries to other topics are not held up."""
    world = World(policy=FAST)
    world.home.learn(destination, Destination("heat-results", 8))
    id_ = world.fail(1)
    world.fail(2, original_topic="heat-results")
    world.wait(10)
    result = world.emit()
    assert (result.emitted, result.handled, result.more) == (1, 2, False)
    row = world.must(id_)
    assert (row.status, row.reason) == (DLQMessageStatus.ESCALATED, reason)
    assert TOPIC in row.detail
    assert world.emissions() == []
    assert world.dead_letters()[0].header("dlq-escalation-reason") == reason.encode()
    assert world.dead_letters()[0].header("dlq-error-message") == b"no answer in 30 s"
    assert world.seen_of(events.MessageEscalated)[0].reason == reason
    world.check()


def test_retries_to_a_topic_that_does_not_answer_are_put_off() -> None:
    """Nothing is given up for it, no chance is used up, and what is due elsewhere goes out."""
    world = World(policy=FAST)
    world.home.learn(Destination(TOPIC, 8, refusal=UNAVAILABLE), Destination("heat-results", 8))
    id_ = world.fail(1)
    world.fail(2, original_topic="heat-results")
    world.wait(10)
    result = world.emit()
    assert (result.emitted, result.handled, result.more) == (1, 2, False)
    row = world.must(id_)
    due_ms = world.now + emit.UNAVAILABLE_PUT_OFF_MS
    assert (row.status, row.attempt, row.due_ms) == (DLQMessageStatus.PENDING, 0, due_ms)
    [seen] = world.seen_of(events.RetryPutOff)
    assert (seen.id, seen.destination, seen.due_ms) == (id_, TOPIC, due_ms)
    world.home.learn(Destination(TOPIC, 8))
    world.wait(emit.UNAVAILABLE_PUT_OFF_MS)
    assert world.emit().emitted == 1
    assert (world.status(id_), world.must(id_).attempt) == ("retrying", 1)
    world.check()


def test_a_compacted_topic_is_written_where_the_queue_says_so() -> None:
    """It knows what it does."""
    world = World(policy=RetryPolicy(write_compacted=True))
    world.home.learn(Destination(TOPIC, 8, compacted=True))
    world.fail()
    world.wait(60_000)
    assert world.emit().emitted == 1


def test_a_refused_record_escalates_its_message_alone() -> None:
    """The brokers refused this very record in an earlier try."""
    world = World(policy=FAST)
    ids = [world.fail(offset, value=b"%d" % offset) for offset in (1, 2, 3)]
    world.home.refused[TOPIC, b"furnace-7", b"2"] = "invalid record"
    world.wait(10)
    assert world.emit().emitted == 2
    assert world.must(ids[1]).reason == "record-refused"
    assert "invalid record" in world.must(ids[1]).detail
    world.check()


def test_what_the_transaction_finds_too_large_escalates() -> None:
    """Though the headers seemed to fit."""
    world = World(policy=FAST)
    id_ = world.fail()
    world.wait(10)

    def stage(tx: Any) -> Any:
        tx.send, send = _too_large(tx.send), tx.send
        return emit.emit_due(tx, world.engine, records_max=9, bytes_max=9_999) if send else None

    world.run(stage)
    assert world.must(id_).reason == "too-large"


def _too_large(send: Any) -> Any:
    from dlq_stream.core.errors import TooLarge

    def refusing(topic: str, *arguments: Any) -> None:
        if topic == TOPIC:
            raise TooLarge("by one byte")
        send(topic, *arguments)

    return refusing


def test_our_headers_make_way_before_the_record_is_too_large() -> None:
    """Down to id, attempt, group and queue."""
    world = World(policy=FAST)
    world.home.learn(Destination(TOPIC, 8, record_bytes_max=700))
    world.fail(value=b"x" * 430)
    world.wait(10)
    assert world.emit().emitted == 1
    names = {name for name, _ in world.emissions()[0].headers}
    assert names >= {"trace", "dlq-message-id", "dlq-attempt", "dlq-group", "dlq-queue"}
    assert "dlq-error-type" not in names


def test_names_that_became_forbidden_escalate() -> None:
    """Settings change between a failure and its retry; nothing is even asked about such a topic."""
    world = World(policy=FAST)
    id_, own = world.fail(1), world.fail(2, retry_topic="billing")
    world.engine = _with(world, allowed_topics=(TOPIC,))
    world.wait(10)
    result = world.emit()
    assert (result.emitted, result.unknown) == (1, frozenset())
    assert (world.status(id_), world.must(own).reason) == ("retrying", "forbidden")
    own = world.fail(3, retry_topic=f"{TOPIC}-own")
    world.engine = _with(world, allowed_topics=(f"{TOPIC}-own",))
    world.wait(60_000)
    world.emit()
    assert world.must(own).reason == "forbidden"
    bad = World(policy=RetryPolicy(initial_backoff_ms=10, emit_to="retry", retry_topic="{topic}-{group}"))
    id_ = bad.fail(group="two words")
    bad.wait(10)
    bad.emit()
    assert bad.must(id_).reason == "forbidden"


def _with(world: World, **changes: Any) -> Any:
    engine = world.engine
    kept = ("app_id", "policies", "classifier_for", "observe")
    return type(engine)(**({name: getattr(engine, name) for name in kept} | changes))


# --------------------------------------------------------------------------------------------- unknown destinations


def test_an_unknown_destination_is_passed_over_and_asked_for() -> None:
    """What waits for it stays due; what does not goes out."""
    world = World(policy=FAST, known=False)
    world.home.learn(Destination("heat-results", 8))
    id_ = world.fail(1)
    world.fail(2, original_topic="heat-results")
    world.wait(10)
    result = world.emit()
    assert (result.emitted, result.more, result.unknown) == (1, False, {TOPIC})
    assert result.next_due_ms == world.now + emit.UNKNOWN_RETRY_MS
    assert world.status(id_) == "pending"
    world.home.learn(Destination(TOPIC, 8))
    assert world.emit().emitted == 1
    assert world.emit().unknown == frozenset()


def test_a_dead_letter_topic_that_nothing_is_known_of_is_looked_at_again_at_once() -> None:
    """Escalated in this look, written in the one after the look-up."""
    world = World(policy=FAST, known=False)
    world.home.learn(Destination(TOPIC, refusal="missing"))
    id_ = world.fail()
    world.wait(10)
    assert world.emit().more
    result = world.emit()
    assert (result.more, result.unknown) == (False, {f"{TOPIC}-dlq"})
    assert result.next_due_ms == world.now + emit.UNKNOWN_RETRY_MS
    world.home.learn(Destination(f"{TOPIC}-dlq", 8))
    world.emit()
    assert world.must(id_).dead_letter == "written"


def test_many_rows_with_unknown_destinations_do_not_hide_those_behind() -> None:
    """They are put off a little, so that the others get their turn."""
    world = World(policy=FAST, known=False)
    world.home.learn(Destination("heat-results", 8))
    world.apply(*(world.failure(offset) for offset in range(40)))
    world.fail(100, original_topic="heat-results", retry_after_ms=11)
    world.wait(20)
    looks = 0
    while not world.emissions("heat-results"):
        world.emit(records_max=2)
        looks += 1
    assert looks <= 4
    assert {row.revision for id_, row in rows_of(world.home).items() if id_ != id_of(100)} == {1}
    world.check()
    world.home.learn(Destination(TOPIC, 8))
    world.wait(emit.UNKNOWN_POSTPONED_MS)
    assert world.emit().emitted == 40


# ------------------------------------------------------------------------------------------------------- time-outs


def test_a_time_out_is_an_attempt() -> None:
    """It says what happened to that delivery, and what the message failed of last."""
    world = World()
    id_ = world.retried(outcomes="reported")
    world.wait(3_600_000)
    assert world.emit().emitted == 0
    row = world.must(id_)
    assert (row.error_type, row.last_failed_ms) == (emit.TIMEOUT_ERROR_TYPE, world.now)
    number, attempt = world.history(id_)[-1]
    assert (number, attempt.error_types, attempt.has_record) == (1, (emit.TIMEOUT_ERROR_TYPE,), False)
    assert [type(seen) for seen in world.seen][-1] is events.OutcomeTimedOut
    world.apply(world.failure(attempt=1))
    assert world.stats().ignored == {"duplicate": 1}
    world.check()


def test_a_success_after_the_time_out_still_counts() -> None:
    """Any delivery so far may have succeeded."""
    world = World()
    id_ = world.retried(outcomes="reported")
    world.wait(3_600_000)
    world.emit()
    world.succeed(id_, 1)
    assert world.status(id_) == "resolved"


def test_what_is_due_again_at_once_is_looked_at_again_at_once() -> None:
    """Timed out, without a backoff before the next retry."""
    world = World(policy=RetryPolicy(initial_backoff_ms=0, outcome_timeout_ms=5))
    world.fail(outcomes="reported")
    assert not world.emit().more
    world.wait(5)
    result = world.emit()
    assert (result.emitted, result.more) == (0, True)
    assert world.emit().emitted == 1
    assert [sent.header("dlq-attempt") for sent in world.emissions()] == [b"1", b"2"]


# ----------------------------------------------------------------------------------------------------- stuck rows


def stick(world: World, id_: bytes) -> None:
    del world.home.rows["attempts"][attempt_key(id_, 0)]
    world.wait(60_000)
    world.emit()


def test_a_row_without_its_record_is_stuck() -> None:
    """It leaves the due index with its status, counted, and the others go on."""
    world = World()
    id_ = world.fail(1)
    world.fail(2)
    before = world.must(id_)
    stick(world, id_)
    row = world.must(id_)
    assert (row.status, row.due_ms, row.revision) == (DLQMessageStatus.PENDING, None, before.revision)
    assert row.stuck_reason.startswith("record-missing: RecordMissing: the first attempt")
    assert numbers(world) == [2]
    assert (world.stats().stuck, world.stats().stuck_reasons) == (1, {"record-missing": 1})
    [seen] = world.seen_of(events.RowStuck)
    assert (seen.id, seen.reason, seen.error) == (id_, "record-missing", "RecordMissing")
    world.check()


def test_an_operator_frees_a_stuck_row() -> None:
    """Retried it gets stuck again, given up it can never be written, resolved it is done."""
    world = World()
    id_ = world.fail()
    stick(world, id_)
    world.order(id_, Action.RETRY)
    assert (world.must(id_).stuck_reason, world.stats().stuck, world.stats().stuck_reasons) == ("", 0, {})
    world.emit()
    assert world.stats().stuck == 1
    world.order(id_, Action.ESCALATE)
    row = world.must(id_)
    assert (row.stuck_reason, row.dead_letter, row.dead_letter_reason) == (
        "",
        "impossible",
        "record-missing",
    )
    assert (world.stats().stuck, world.stats().unwritten) == (0, 1)
    assert world.stats().unwritten_reasons == {"record-missing": 1}
    world.order(id_, Action.RESOLVE)
    assert (world.stats().unwritten, world.stats().unwritten_reasons, world.stats().resolved) == (0, {}, 1)
    world.check()


def test_a_record_that_does_not_decode_sticks_its_message() -> None:
    """The attempt's bytes make no sense."""
    world = World()
    id_ = world.fail()
    world.home.rows["attempts"][attempt_key(id_, 0)] = b"\x01\x00\xc1"
    world.wait(60_000)
    world.emit()
    assert world.must(id_).stuck_reason.startswith("undecodable: UndecodableRow")
    assert world.stats().stuck_reasons == {"undecodable": 1}


def test_a_row_that_does_not_decode_is_stuck_with_what_is_left_of_it() -> None:
    """Its status and times are."""
    world = World()
    id_ = world.fail(1)
    world.fail(2)
    fields = msgspec.msgpack.decode(world.home.rows["messages"][id_][2:])
    fields[Message.__struct_fields__.index("group")] = 5
    world.home.rows["messages"][id_] = b"\x01\x00" + msgspec.msgpack.encode(fields)
    world.wait(60_000)
    assert world.emit().emitted == 1
    row = world.must(id_)
    assert (row.status, row.due_ms, row.queue) == (DLQMessageStatus.PENDING, None, TOPIC)
    assert row.stuck_reason.startswith("undecodable: UndecodableRow")
    world.check()


def test_what_an_unexpected_error_staged_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug that one row meets sticks that row."""
    world = World()
    id_ = world.fail(1)
    world.fail(2)
    advance = emit.advance

    def broken(row: Message, *arguments: Any, **changes: Any) -> Message:
        if row.origin_offset == 1:
            raise ZeroDivisionError("a bug")
        return advance(row, *arguments, **changes)

    monkeypatch.setattr(emit, "advance", broken)
    world.wait(60_000)
    result = world.emit()
    assert (result.emitted, numbers(world)) == (1, [2])
    assert world.must(id_).stuck_reason == "unexpected: ZeroDivisionError: a bug"
    [seen] = world.seen_of(events.RowStuck)
    assert (seen.reason, seen.error) == ("unexpected", "ZeroDivisionError")
    assert len(world.seen_of(events.RetryEmitted)) == 1
    world.check()


@pytest.mark.parametrize("table", ["messages", "attempts"])
def test_rows_of_a_newer_major_version_stop_the_worker(table: str) -> None:
    """It must not touch anything."""
    world = World()
    world.fail()
    for key, raw in world.home.rows[table].items():
        world.home.rows[table][key] = b"\x02" + raw[1:]
    world.wait(60_000)
    with pytest.raises(UnsupportedFormat):
        world.emit()


def test_an_index_entry_without_its_row_is_ignored() -> None:
    """Each entry is checked against its row, and a stale one holds up nothing."""
    world = World()
    id_, other = world.fail(1), world.fail(2)
    world.home.rows["due"][index_key(b"", 5, id_)] = b""
    world.home.rows["due"][index_key(b"", 6, bytes(16))] = b""
    result = world.emit(records_max=1)
    assert (result.handled, result.more, result.next_due_ms) == (0, False, NOW + 60_000)
    assert {world.status(id_), world.status(other)} == {"pending"}
