"""Intake: failure events of one batch and what they change."""

from __future__ import annotations

import gzip
import random
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from dlq_stream.core import events
from dlq_stream.core.commands import Action
from dlq_stream.core.errors import UnsupportedFormat
from dlq_stream.core.headers import parse_failure
from dlq_stream.core.ids import message_id, partition_of
from dlq_stream.core.lifecycle import Ignored
from dlq_stream.core.model import DLQMessageStatus, ErrorCategory, Origin
from dlq_stream.core.policy import Override, Policies, RetryPolicy
from dlq_stream.core.transaction import Destination
from dlq_stream.engine import apply_failures
from dlq_stream.tables import attempts, messages
from dlq_stream.tables.messages import DeadLetter
from tests.engine.world import GROUP, NOW, PERMANENT, TOPIC, World, id_of, offset_on, rows_of
from tests.memory import FakeRecord, MemoryTransaction

# ------------------------------------------------------------------------------------------------- a new failure


def test_a_first_failure_is_stored_and_scheduled() -> None:
    """All that the event said is kept, and the worker's clock decides when it is due."""
    world = World()
    world.wait(7)
    id_ = world.fail(failed_at=NOW - 90_000, metadata='{"a": 1}', outcomes="reported", error_cause_type="OSError")
    row = world.must(id_)
    assert (row.status, row.due_ms, row.created_ms) == (DLQMessageStatus.PENDING, NOW + 60_007, NOW + 7)
    assert (row.queue, row.group, row.origin) == (TOPIC, GROUP, Origin(TOPIC, 3, 81, 1_699_999_999_000))
    assert (row.attempt, row.attempt_base, row.first_attempt, row.revision) == (0, 0, 0, 1)
    assert (row.category, row.error_type, len(row.fingerprint)) == (ErrorCategory.TRANSIENT, "TimeoutError", 8)
    assert (row.outcomes_reported, row.retry_topic, row.dead_letter) == (True, "", DeadLetter.NONE)
    [(number, attempt)] = world.history(id_)
    assert number == 0
    assert (attempt.key, attempt.value) == (b"furnace-7", b'{"t": 1}')
    assert attempt.headers == (("trace", b"1"), ("trace", None))
    assert (attempt.error_types, attempt.cause_types) == (("TimeoutError",), ("OSError",))
    assert (attempt.error_message, attempt.stacktrace) == ("no answer in 30 s", b"Traceback ...")
    assert (attempt.category, attempt.rule) == (ErrorCategory.TRANSIENT, "default type TimeoutError")
    assert (attempt.failed_at, attempt.recorded_ms) == (NOW - 90_000, NOW + 7)
    assert (attempt.group, attempt.metadata, attempt.has_record) == (GROUP, b'{"a": 1}', True)
    figures = world.stats()
    assert (figures.pending, figures.failures, figures.oldest_open_ms) == (1, 1, NOW + 7)
    [seen] = world.seen
    assert isinstance(seen, events.FailureStored)
    assert (seen.id, seen.due_ms, seen.reopened) == (id_, row.due_ms, False)
    world.check()


def test_the_retrys_target_is_looked_up_early() -> None:
    """By the time it is due, it is known; a dead letter's topic is nobody's business yet."""
    world = World(known=False)
    world.fail()
    assert world.home.asked == {TOPIC}
    retry = World(known=False, policy=RetryPolicy(emit_to="retry", retry_topic="{topic}-{group}-retry"))
    retry.fail()
    assert retry.home.asked == {f"{TOPIC}-{GROUP}-retry"}
    own = World(known=False)
    own.fail(retry_topic=f"{TOPIC}-late")
    assert own.home.asked == {f"{TOPIC}-late"}


def test_a_permanent_error_is_given_up_at_once() -> None:
    """The dead letter goes out in the same transaction, with the original record."""
    world = World()
    id_ = world.fail(error=PERMANENT)
    row = world.must(id_)
    assert (row.status, row.reason, row.detail) == (
        DLQMessageStatus.ESCALATED,
        "permanent",
        "default type ValidationError",
    )
    assert (row.due_ms, row.closed_ms, row.dead_letter) == (None, NOW, DeadLetter.WRITTEN)
    [letter] = world.dead_letters()
    assert (letter.key, letter.value, letter.partition) == (b"furnace-7", b'{"t": 1}', 3)
    assert letter.headers[:2] == (("trace", b"1"), ("trace", None))
    assert letter.header("dlq-message-id") == id_.hex().encode()
    assert letter.header("dlq-escalation-reason") == b"permanent"
    assert letter.header("dlq-error-stacktrace") == b"Traceback ..."
    assert letter.header("dlq-first-failed-at") == b"%d" % NOW
    assert world.emissions() == []
    assert [type(seen) for seen in world.seen] == [events.MessageEscalated, events.DeadLetterWritten]
    world.check()


def test_an_event_may_say_its_category_itself() -> None:
    """The reporter knows best, and the attempt says that it was he."""
    world = World()
    id_ = world.fail(category="permanent")
    assert world.status(id_) == "escalated"
    assert world.history(id_)[0][1].rule == "as reported"
    assert world.status(world.fail(82, error=PERMANENT, category="transient")) == "pending"


def test_a_retry_after_replaces_the_backoff_of_this_attempt() -> None:
    """Of this one only."""
    world = World()
    id_ = world.fail(retry_after_ms=5)
    assert world.must(id_).due_ms == NOW + 5
    assert world.must(world.fail(82)).due_ms == NOW + 60_000
    world.apply(world.failure(83, retry_after_ms=7), world.failure(84), world.failure(85, retry_after_ms=9))
    assert [world.must(id_of(offset)).due_ms for offset in (83, 84, 85)] == [NOW + 7, NOW + 60_000, NOW + 9]
    world.wait(5)
    world.emit()
    world.fail(attempt=1)
    assert world.must(id_).due_ms == world.now + 300_000


def test_a_failure_of_a_purged_message_goes_on_with_its_number() -> None:
    """As a new message with a whole allowance of retries."""
    world = World(policy=RetryPolicy(max_retries=1))
    id_ = world.fail(attempt=7)
    row = world.must(id_)
    assert (row.status, row.attempt, row.attempt_base, row.first_attempt) == (DLQMessageStatus.PENDING, 7, 7, 7)
    assert row.due_ms == NOW + 60_000
    world.wait(60_000)
    world.emit()
    assert world.emissions()[0].header("dlq-attempt") == b"8"
    world.fail(attempt=8)
    assert world.must(id_).reason == "retries-exhausted"
    assert [number for number, _ in world.history(id_)] == [7, 8]


def test_a_messages_own_retry_topic_stays_until_another_is_named() -> None:
    """A reporter that does not repeat it means the same as before."""
    world = World()
    world.home.learn(Destination(f"{TOPIC}-a", 8), Destination(f"{TOPIC}-b", 8))
    id_ = world.retried(retry_topic=f"{TOPIC}-a")
    world.fail(attempt=1)
    assert world.must(id_).retry_topic == f"{TOPIC}-a"
    world.to_next_due()
    world.emit()
    world.fail(attempt=2, retry_topic=f"{TOPIC}-b")
    assert world.must(id_).retry_topic == f"{TOPIC}-b"
    assert len(world.emissions(f"{TOPIC}-a")) == 2


def test_policies_are_the_queues_own() -> None:
    """Each queue of a batch by its own policy, errors by their own overrides."""
    slow = RetryPolicy(initial_backoff_ms=9_000, by_error={"KeyError": Override(initial_backoff_ms=1_000)})
    world = World(policies=Policies(by_queue={"slow": slow}))
    rows = [
        world.must(world.fail(1)),
        world.must(world.fail(2, queue="slow")),
        world.must(world.fail(3, queue="slow", error="KeyError", category="unknown")),
    ]
    assert [row.due_ms for row in rows] == [NOW + 60_000, NOW + 9_000, NOW + 1_000]
    assert world.stats("slow").pending == 2
    world.check()


def test_jitter_is_the_same_when_staged_again() -> None:
    """It is derived from id and attempt, not drawn."""
    dues = []
    for _ in range(2):
        world = World(policy=RetryPolicy(jitter="full"))
        dues.append([world.must(world.fail(offset)).due_ms for offset in range(5)])
    assert dues[0] == dues[1]
    assert len(set(dues[0])) == 5
    assert all(NOW <= (due or 0) < NOW + 60_000 for due in dues[0])


def test_no_retries_at_all() -> None:
    """A queue may escalate at the first failure."""
    world = World(policy=RetryPolicy(max_retries=0))
    assert world.must(world.fail()).reason == "retries-exhausted"


def test_events_without_coordinates_are_taken() -> None:
    """Only the original topic is required; the event's own coordinates make the id."""
    world = World()
    record = FakeRecord("dlq-stream-failures", 0, 5, 77, b"k", b"v", (("dlq-original-topic", TOPIC.encode()),))
    world.apply(record, record)
    [(id_, row)] = rows_of(world.home).items()
    assert id_ == message_id("", Origin("dlq-stream-failures", 0, 5, 77))
    assert row.origin == Origin(TOPIC)
    assert (row.group, row.error_type) == ("", "")
    assert world.history(id_)[0][1].key == b"k"
    world.wait(60_000)
    world.emit()
    [emission] = world.emissions()
    assert (emission.partition, emission.header("dlq-original-partition")) == (None, None)


# ---------------------------------------------------------------------------------------------------- repetition


def test_a_repeated_failure_is_a_duplicate() -> None:
    """In the same batch and in a later one: counted, and nothing else."""
    world = World()
    record = world.failure()
    world.apply(record, record)
    rows = {**world.home.rows["messages"]}
    world.wait(5)
    world.apply(record)
    assert world.home.rows["messages"] == rows
    assert world.stats().ignored == {"duplicate": 2}
    assert world.stats().failures == 1
    assert [seen.why for seen in world.seen_of(events.EventIgnored)] == [Ignored.DUPLICATE] * 2


def test_a_failure_of_an_earlier_delivery_is_a_duplicate() -> None:
    """Also while the latest one's outcome is open."""
    world = World()
    id_ = world.retried(times=2)
    for attempt in (0, 1):
        world.apply(world.failure(attempt=attempt))
    assert world.status(id_) == "retrying"
    assert world.stats().ignored == {"duplicate": 2}


@pytest.mark.parametrize("state", ["pending", "retrying"])
def test_a_failure_of_a_delivery_that_never_was_is_ahead(state: str) -> None:
    """Its reader reads uncommitted emissions."""
    world = World()
    id_ = world.fail() if state == "pending" else world.retried()
    before = world.row(id_)
    world.apply(world.failure(attempt=9))
    assert world.row(id_) == before
    assert world.stats().ignored == {"ahead": 1}


def test_all_of_a_messages_events_in_one_batch_see_each_other() -> None:
    """First the failure, then its repetition; and one that escalates, then its repetition."""
    world = World()
    first, hopeless = world.failure(1), world.failure(2, error=PERMANENT)
    world.apply(first, hopeless, first, hopeless)
    assert len(world.dead_letters()) == 1
    assert (world.stats().pending, world.stats().escalated, world.stats().ignored) == (1, 1, {"duplicate": 2})
    world.check()


def test_failures_until_no_retries_are_left() -> None:
    """60, 300, 1500 seconds, then it is given up; the latest error is the one that the dead letter tells of."""
    world = World()
    id_ = world.fail()
    for attempt, backoff in ((1, 60_000), (2, 300_000), (3, 1_500_000)):
        assert world.must(id_).due_ms == world.now + backoff
        world.wait(backoff - 1)
        assert world.emit().emitted == 0
        world.wait(1)
        assert world.emit().emitted == 1
        world.fail(attempt=attempt, message=f"failure {attempt}")
        world.check()
    row = world.must(id_)
    assert (row.status, row.reason, row.attempt) == (DLQMessageStatus.ESCALATED, "retries-exhausted", 3)
    [letter] = world.dead_letters()
    assert (letter.header("dlq-error-message"), letter.header("dlq-attempt")) == (b"failure 3", b"3")
    assert letter.value == b'{"t": 1}'
    assert [number for number, _ in world.history(id_)] == [0, 1, 2, 3]
    assert [attempt.has_record for _, attempt in world.history(id_)] == [True, False, False, False]
    assert (world.stats().failures, world.stats().retries, world.stats().escalated_total) == (4, 3, 1)


def test_a_time_budget_ends_retries() -> None:
    """No retry is scheduled beyond it."""
    world = World(policy=RetryPolicy(budget_ms=100_000))
    id_ = world.retried()
    world.fail(attempt=1)
    assert world.must(id_).reason == "budget-exhausted"


def test_only_so_many_attempts_are_kept() -> None:
    """The first, which holds the record, and the latest."""
    world = World(policy=RetryPolicy(max_retries=10, initial_backoff_ms=1, backoff_multiplier=1), attempts_kept_max=3)
    id_ = world.retried(times=8)
    assert [number for number, _ in world.history(id_)] == [0, 6, 7]


def test_a_presumed_success_is_reopened_by_the_failure_of_its_delivery() -> None:
    """Counted as reopened, and as old as it is."""
    world = World()
    id_ = world.retried()
    world.to_next_due()
    world.emit()
    assert world.must(id_).presumed
    world.fail(attempt=1)
    row = world.must(id_)
    assert (row.status, row.presumed, row.closed_ms) == (DLQMessageStatus.PENDING, False, None)
    assert (world.stats().reopened, world.stats().oldest_open_ms) == (1, NOW)
    assert world.seen_of(events.FailureStored)[-1].reopened
    world.check()


# ----------------------------------------------------------------------------------------------- misplaced events


def test_a_misplaced_event_is_forwarded_with_its_id_fixed() -> None:
    """To its own partition of the same topic, where it is understood in the same way."""
    world = World(partition=0, partitions=4)
    offset = offset_on(3, 4)
    record = world.failure(offset, message_id=None, event_key=b"whatever", key=b"k")
    world.apply(record)
    assert world.home.rows["messages"] == {}
    [sent] = world.home.sent("dlq-stream-failures")
    assert (sent.partition, sent.value, sent.key) == (3, record.value, id_of(offset).hex().encode())
    there = World(partition=3, partitions=4)
    forwarded = there.record(sent.topic, sent.key, sent.value, sent.headers)
    again, at_first = parse_failure(forwarded), parse_failure(record)
    assert again == at_first._replace(kind=at_first.kind._replace(forwarded=True))
    there.apply(forwarded)
    assert there.status(id_of(offset)) == "pending"
    assert world.own_stats().forwarded == 1
    [seen] = world.seen
    assert (seen.kind, seen.to_partition) == ("failure", 3)


def test_a_forwarded_event_that_is_misplaced_again_is_quarantined() -> None:
    """Passing it on would never end."""
    world = World(partition=0, partitions=4)
    world.apply(world.failure(offset_on(2, 4), forwarded=1))
    assert world.home.sent("dlq-stream-failures") == []
    assert "forwarded to the wrong partition" in world.reasons()[0]


def test_a_misplaced_event_that_is_forbidden_is_quarantined_as_it_came() -> None:
    """It is not passed on first, with headers that its sender never wrote."""
    world = World(partition=0, partitions=4, allowed_topics=["orders-*"])
    record = world.failure(offset_on(2, 4))
    world.apply(record)
    assert world.home.sent("dlq-stream-failures") == []
    [sent] = world.quarantined()
    assert sent.headers[: len(record.headers)] == record.headers


def test_a_forwarded_event_at_home_is_applied() -> None:
    """The mark alone says nothing against it."""
    world = World(partition=2, partitions=4)
    offset = offset_on(2, 4)
    world.fail(offset, forwarded=1)
    assert world.status(id_of(offset)) == "pending"


# -------------------------------------------------------------------------------------------------- other groups


def test_another_groups_failure_of_a_retry_is_a_message_of_its_own() -> None:
    """With its own id, its own first delivery and its own retries; the first message goes on undisturbed."""
    world = World()
    id_ = world.retried()
    before = world.row(id_)
    world.apply(world.failure(attempt=1, group="billing", message_id=id_.hex()))
    other = id_of(81, "billing")
    row = world.must(other)
    assert (row.group, row.attempt, row.origin) == ("billing", 0, Origin(TOPIC, 3, 81, 1_699_999_999_000))
    assert world.row(id_) == before
    world.apply(world.failure(attempt=2, group="billing", message_id=id_.hex()))
    assert world.row(other) == row
    assert world.stats().ignored == {"duplicate": 1}
    world.wait(60_000)
    world.emit()
    emission = world.emissions()[-1]
    assert emission.header("dlq-message-id") == other.hex().encode()
    assert (emission.header("dlq-group"), emission.header("dlq-attempt")) == (b"billing", b"1")
    world.check()


def test_another_groups_message_may_live_on_another_partition() -> None:
    """Its event is forwarded there, as what it is to its own message."""
    offset = next(n for n in range(10_000) if _partitions_of(n) == (0, 1))
    world = World(partition=0, partitions=4)
    id_ = world.retried(offset)
    event = world.failure(
        offset,
        attempt=1,
        group="billing",
        message_id=id_.hex(),
        original_partition=None,
        original_offset=None,
        original_timestamp=None,
    )
    world.apply(event)
    [sent] = world.home.sent("dlq-stream-failures")
    assert sent.partition == 1
    there = World(partition=1, partitions=4)
    there.apply(there.record(sent.topic, sent.key, sent.value, sent.headers))
    row = there.must(id_of(offset, "billing"))
    assert (row.attempt, row.origin) == (0, Origin(TOPIC, 3, offset, 1_699_999_999_000))
    assert world.status(id_) == "retrying"


def _partitions_of(offset: int) -> tuple[int, int]:
    return partition_of(id_of(offset), 4), partition_of(id_of(offset, "billing"), 4)


def test_another_groups_failure_of_a_message_without_coordinates() -> None:
    """Neither the event nor the message knows where the record came from: the event's own coordinates make the id."""
    world = World()
    plain = {"original_partition": None, "original_offset": None, "original_timestamp": None}
    id_ = world.fail(**plain)
    event = world.failure(group="billing", message_id=id_.hex(), **plain)
    world.apply(event)
    other = message_id("billing", Origin(event.topic, event.partition, event.offset, event.timestamp))
    assert world.must(other).origin == Origin(TOPIC)


def test_an_id_that_is_neither_the_groups_own_nor_free_is_quarantined() -> None:
    """Deriving it once more would give the same id."""
    world = World()
    world.apply(world.failure(group=GROUP, message_id=id_of(81, "billing").hex()))
    world.apply(world.failure(group="billing", message_id=id_of(81, "billing").hex()))
    assert len(world.quarantined()) == 1
    assert "belongs to another" in world.reasons()[0]


# --------------------------------------------------------------------------------------------------- quarantine

POISON: dict[str, dict[str, Any]] = {
    "partial origin": {"original_offset": None},
    "no original topic": {"original_topic": None},
    "an id that is none": {"message_id": "xyz"},
    "a forbidden original topic": {"original_topic": "dlq-stream-commands"},
    "kafka's own topic": {"original_topic": "__consumer_offsets"},
    "a dead-letter topic": {"original_topic": f"{TOPIC}-dlq"},
    "a retry topic of ours": {"retry_topic": "dlq-stream-failures"},
    "a retry topic of others": {"retry_topic": "billing"},
    "an attempt that is none": {"attempt": "-1"},
}


@pytest.mark.parametrize("poison", POISON)
def test_poison_is_quarantined_alone_and_whole(poison: str) -> None:
    """With its reason, on its own partition, beside good events of the same batch."""
    world = World(allowed_topics=[TOPIC])
    bad = world.failure(2, **POISON[poison])
    world.apply(world.failure(1), bad, world.failure(3))
    assert len(world.home.rows["messages"]) == 2
    [sent] = world.quarantined()
    assert (sent.key, sent.value, sent.partition) == (bad.key, bad.value, 0)
    assert sent.headers[: len(bad.headers)] == bad.headers
    assert sent.header("dlq-quarantine-topic") == b"dlq-stream-failures"
    assert sent.header("dlq-quarantine-offset") == b"%d" % bad.offset
    assert sent.header("dlq-quarantine-reason")
    assert world.own_stats().quarantined == 1
    [seen] = world.seen_of(events.EventQuarantined)
    assert (seen.topic, seen.offset) == (bad.topic, bad.offset)
    assert seen.fault.startswith("dlq-")
    world.check()


def test_a_topic_that_is_not_allowed_is_quarantined() -> None:
    """And its retries go nowhere."""
    world = World(allowed_topics=["orders-*"])
    world.fail()
    assert "matches none of the allowed topics" in world.reasons()[0]


def test_a_known_id_with_another_origin_is_quarantined() -> None:
    """Whoever sent it is confused; the message is not touched."""
    world = World()
    id_ = world.retried()
    before = world.row(id_)
    world.apply(world.failure(82, attempt=1, message_id=id_.hex()))
    world.apply(world.failure(81, attempt=1, original_topic="heat-results"))
    assert world.row(id_) == before
    assert len(world.quarantined()) == 2
    assert "another record" in world.reasons()[0]


def test_a_known_id_without_coordinates_continues_its_message() -> None:
    """Origins are compared only where both are given."""
    world = World()
    id_ = world.retried()
    world.fail(attempt=1, original_partition=None, original_offset=None, original_timestamp=None)
    assert world.status(id_) == "pending"


def test_an_event_that_is_too_large_for_its_changelog_is_quarantined() -> None:
    """Nothing of it stays."""
    world = World(row_bytes_max=10_000)
    world.apply(world.failure(1), world.failure(2, value=b"x" * 20_000), world.failure(3))
    assert set(rows_of(world.home)) == {id_of(1), id_of(3)}
    assert len(world.home.rows["attempts"]) == 2
    assert len(world.quarantined()[0].value or b"") == 20_000
    world.check()


def test_an_event_larger_than_quarantine_takes_is_packed() -> None:
    """Brokers limit compressed batches: what unfolds to more than fits is packed again, not a stopped partition."""
    world = World(row_bytes_max=10_000)
    world.home.learn(Destination("dlq-stream-quarantine", 1, record_bytes_max=100_000))
    bad = world.failure(2, value=b"x" * 500_000)
    world.apply(world.failure(1), bad, world.failure(3))
    assert set(rows_of(world.home)) == {id_of(1), id_of(3)}
    [sent] = world.quarantined()
    assert sent.header("dlq-quarantine-encoding") == b"gzip"
    assert (gzip.decompress(sent.value or b""), sent.key) == (bad.value, bad.key)
    assert sent.headers[: len(bad.headers)] == bad.headers
    world.check()


@pytest.mark.parametrize(
    "large",
    [
        {"value": random.Random(1).randbytes(300_000)},
        {"headers": (("large", b"x" * 300_000),)},
        {"event_key": b"x" * 300_000},
    ],
    ids=["value", "headers", "key"],
)
def test_an_event_that_fits_in_no_way_is_cut(large: dict[str, Any]) -> None:
    """Its beginnings are kept, with what it was and where it lies."""
    world = World(row_bytes_max=10_000)
    world.home.learn(Destination("dlq-stream-quarantine", 1, record_bytes_max=100_000))
    bad = world.failure(2, original_topic=None, **large)
    world.apply(world.failure(1), bad, world.failure(3))
    assert set(rows_of(world.home)) == {id_of(1), id_of(3)}
    [sent] = world.quarantined()
    assert (bad.value or b"").startswith(sent.value or b"")
    assert (bad.key or b"").startswith(sent.key or b"")
    assert "headers" in large or b"300000" in (sent.header("dlq-quarantine-cut") or b"")
    assert sent.header("dlq-quarantine-offset") == b"%d" % bad.offset
    assert sent.header("dlq-quarantine-reason")
    world.check()


def test_what_an_unexpected_error_staged_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event alone: a bug that one event meets does not take the others along."""
    world = World()
    change = messages.change

    def broken(tx: Any, id_: bytes, old: Any, new: Any) -> None:
        change(tx, id_, old, new)
        if id_ == id_of(2):
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(messages, "change", broken)
    world.apply(world.failure(1), world.failure(2, error=PERMANENT), world.failure(3), world.failure(2))
    assert set(rows_of(world.home)) == {id_of(1), id_of(3)}
    assert world.dead_letters() == []
    assert world.reasons() == ["ZeroDivisionError: a bug"] * 2
    assert [seen.fault for seen in world.seen_of(events.EventQuarantined)] == ["ZeroDivisionError"] * 2
    assert (world.stats().failures, world.stats().escalated_total) == (2, 0)
    assert world.seen_of(events.MessageEscalated) == []
    world.check()


def test_an_error_without_a_text_is_quarantined_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure path trusts nothing, not even the text of an error."""

    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    def broken(*arguments: Any) -> None:
        raise Unspeakable

    world = World()
    monkeypatch.setattr(messages, "change", broken)
    world.fail()
    assert world.reasons() == ["Unspeakable"]


def test_a_row_that_does_not_decode_quarantines_its_events() -> None:
    """And no others'."""
    world = World()
    id_ = world.fail(1)
    fields = msgspec.msgpack.decode(world.home.rows["messages"][id_][2:])
    fields[messages.Message.__struct_fields__.index("group")] = 5
    world.home.rows["messages"][id_] = b"\x01\x00" + msgspec.msgpack.encode(fields)
    world.apply(world.failure(1), world.failure(2))
    assert world.status(id_of(2)) == "pending"
    assert len(world.quarantined()) == 1


def test_a_row_of_a_newer_major_version_stops_the_worker() -> None:
    """It is too old, and must not touch anything."""
    world = World()
    id_ = world.fail(1)
    world.home.rows["messages"][id_] = b"\x02" + world.home.rows["messages"][id_][1:]
    before = world.state()
    with pytest.raises(UnsupportedFormat):
        world.apply(world.failure(2), world.failure(1))
    assert world.state() == before


def test_a_row_of_a_newer_minor_version_keeps_its_unknown_fields() -> None:
    """Through a transition made by an old worker."""
    world = World()
    id_ = world.retried()
    raw = world.home.rows["messages"][id_]
    fields = msgspec.msgpack.decode(raw[2:])
    world.home.rows["messages"][id_] = b"\x01\x07" + msgspec.msgpack.encode([*fields, "new", {"a": 1}])
    world.fail(attempt=1)
    assert world.status(id_) == "pending"
    stored = world.home.rows["messages"][id_]
    assert stored[:2] == b"\x01\x07"
    assert msgspec.msgpack.decode(stored[2:])[-2:] == ["new", {"a": 1}]


# --------------------------------------------------------------------------------------------------------- bounds


def test_many_small_events_cannot_stage_many_large_dead_letters() -> None:
    """What exceeds the bound is left to the timer, which is bounded too, and is due at once."""
    world = World(dead_letter_bytes_max=25_000, policy=RetryPolicy(max_retries=1))
    for offset in range(4):
        world.fail(offset, value=b"x" * 10_000)
    world.wait(60_000)
    world.emit()
    world.apply(*(world.failure(offset, attempt=1, value=None) for offset in range(4)))
    assert len(world.dead_letters()) == 2
    waiting = [row for row in rows_of(world.home).values() if row.dead_letter is DeadLetter.WAITING]
    assert [(row.dead_letter_reason, row.due_ms) for row in waiting] == [("deferred", world.now)] * 2
    world.check()
    world.emit()
    assert [len(letter.value or b"") for letter in world.dead_letters()] == [10_000] * 4
    world.check()


def test_the_bound_of_dead_letters_is_that_of_a_batch_in_however_many_steps() -> None:
    """The smaller the steps, the more of them: a bound of each would be none of the transaction."""
    world = World(dead_letter_bytes_max=25_000)
    tx = world.home.transaction()
    for offset in range(4):
        apply_failures(tx, [world.failure(offset, error=PERMANENT, value=b"x" * 10_000)], world.engine)
    world.home.commit(tx)
    assert len(world.dead_letters()) == 2
    assert world.stats().escalated == 4
    world.check()


def test_queues_beyond_the_bound_are_booked_as_other() -> None:
    """For as long as their messages live; their policy stays their own."""
    world = World(queues_max=2, policies=Policies(by_queue={"c": RetryPolicy(initial_backoff_ms=5)}))
    for number, queue in enumerate("abcda"):
        world.fail(number, queue=queue)
    assert [world.stats(queue).pending for queue in ("a", "b", "other", "c")] == [2, 1, 2, 0]
    row = world.must(id_of(2))
    assert (row.queue, row.booked_as, row.due_ms) == ("c", "other", NOW + 5)
    world.check()
    world.wait(5)
    world.emit()
    world.fail(2, queue="c", attempt=1)
    world.order(id_of(2), Action.RESOLVE)
    assert (world.stats("other").pending, world.stats("other").resolved) == (1, 1)
    world.check()


def test_an_empty_batch_changes_nothing() -> None:
    """Not even figures."""
    world = World()
    world.run(lambda tx: apply_failures(tx, [], world.engine))
    assert not any(world.home.rows.values())


def test_the_observer_hears_nothing_of_what_is_not_committed() -> None:
    """Only after the commit, in order."""
    world = World()
    tx = world.home.transaction()
    apply_failures(tx, [world.failure(1), world.failure(2)], world.engine)
    assert world.seen == []
    world.home.commit(tx)
    assert [seen.id for seen in world.seen] == [id_of(1), id_of(2)]


def test_a_new_dead_letter_topic_is_awaited() -> None:
    """Nothing is known of it yet: the write is due at once, and the look-up has been asked for."""
    world = World(known=False)
    id_ = world.fail(error=PERMANENT)
    row = world.must(id_)
    assert (row.dead_letter, row.dead_letter_reason, row.due_ms) == (DeadLetter.WAITING, "unknown", NOW)
    assert f"{TOPIC}-dlq" in world.home.asked
    assert world.emit().unknown == {f"{TOPIC}-dlq"}
    world.home.learn(Destination(f"{TOPIC}-dlq", 2))
    world.emit()
    [letter] = world.dead_letters()
    assert letter.partition is None  # there is no partition 3
    assert world.must(id_).dead_letter is DeadLetter.WRITTEN


def test_history_pages_are_attempts_of_one_message() -> None:
    """Rows of neighbours stay out of it."""
    world = World()
    ids = [world.fail(offset) for offset in range(20)]
    assert all(len(attempts.history(world.home.transaction(), id_, 10)) == 1 for id_ in ids)


def test_all_steps_of_a_transaction_decide_by_the_policies_of_its_first() -> None:
    """A worker that learns of other policies in mid-batch takes another engine: they count from the next batch on."""
    world = World(policy=RetryPolicy(max_retries=0))
    later = replace(world.engine, policies=Policies(RetryPolicy(max_retries=3)))

    def in_steps(tx: MemoryTransaction) -> None:
        apply_failures(tx, [world.failure(1)], world.engine)
        apply_failures(tx, [world.failure(2)], later)

    world.run(in_steps)
    assert (world.status(id_of(1)), world.status(id_of(2))) == ("escalated", "escalated")
    world.engine = later
    assert world.status(world.fail(3)) == "pending"
