"""The `-dlq` record: written with the escalation, or awaited, or impossible; never dropped."""

from __future__ import annotations

import pytest

from dlq_stream.core import events
from dlq_stream.core.commands import Action
from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.core.policy import RetryPolicy
from dlq_stream.core.transaction import Destination
from dlq_stream.engine import dead_letters
from dlq_stream.tables.messages import DeadLetter
from tests.engine.world import NOW, PERMANENT, RETENTION_MS, TOPIC, World

DLQ = f"{TOPIC}-dlq"


@pytest.mark.parametrize("refusal", ["missing", "not-authorised"])
def test_a_topic_that_refuses_is_tried_again_with_backoff(refusal: str) -> None:
    """For as long as it takes; the reason is visible, and retention does not touch the message."""
    world = World()
    world.home.learn(Destination(DLQ, refusal=refusal))
    id_ = world.fail(error=PERMANENT)
    revision = world.must(id_).revision
    waited = []
    for tries in range(1, 12):
        row = world.must(id_)
        assert (row.status, row.dead_letter, row.dead_letter_reason, row.dead_letter_tries, row.closed_ms) == (
            DLQMessageStatus.ESCALATED,
            DeadLetter.WAITING,
            refusal,
            tries,
            None,
        )
        assert row.due_ms is not None
        waited.append(row.due_ms - world.now)
        world.wait(waited[-1] - 1)
        assert world.emit().handled == 0
        world.wait(1)
        assert world.emit().handled == 1
        world.check()
    assert waited == [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000, 300_000]
    world.wait(2 * RETENTION_MS)
    assert world.retain() is None
    assert (world.stats().unwritten, world.stats().unwritten_reasons) == (1, {refusal: 1})
    world.home.learn(Destination(DLQ, 8))
    world.emit()
    row = world.must(id_)
    assert (row.dead_letter, row.dead_letter_reason, row.due_ms, row.closed_ms) == ("written", "", None, world.now)
    assert row.revision == revision
    assert len(world.dead_letters()) == 1
    assert (world.stats().unwritten, world.stats().unwritten_reasons, world.stats().escalated_total) == (0, {}, 1)
    seen = world.seen_of(events.DeadLetterDelayed)[0]
    assert (seen.reason, seen.retry_ms) == (refusal, NOW + 1_000)
    assert len(world.seen_of(events.DeadLetterWritten)) == 1
    world.check()
    world.wait(RETENTION_MS)
    world.retain()
    assert world.row(id_) is None


def test_backoff_is_bounded_for_ever() -> None:
    """Whatever the number of tries."""
    assert dead_letters.backoff_ms(10**9) == dead_letters.BACKOFF_MS_MAX


@pytest.mark.parametrize("how", ["too large", "refused", "refused by size"])
def test_a_record_that_can_never_be_written_stays(how: str) -> None:
    """Escalated, with the reason, until an operator closes it."""
    world = World()
    value = b"x" * 5_000
    if how == "too large":
        world.home.learn(Destination(DLQ, 8, record_bytes_max=5_000))
    elif how == "refused":
        world.home.refused[DLQ, b"furnace-7", value] = "invalid record"
    id_ = world.fail(error=PERMANENT, value=value) if how != "refused by size" else _just_too_large(world, value)
    row = world.must(id_)
    assert (row.status, row.dead_letter, row.due_ms, row.closed_ms) == (
        DLQMessageStatus.ESCALATED,
        DeadLetter.IMPOSSIBLE,
        None,
        None,
    )
    assert ("invalid record" if how == "refused" else "too-large") in row.dead_letter_reason
    assert world.dead_letters() == []
    reason = "other" if how == "refused" else "too-large"
    assert (world.stats().unwritten, world.stats().unwritten_reasons) == (1, {reason: 1})
    seen = world.seen_of(events.DeadLetterDelayed)[0]
    assert (seen.reason, seen.retry_ms) == (reason, None)
    world.wait(2 * RETENTION_MS)
    world.retain()
    world.order(id_, Action.PURGE)
    assert world.row(id_) == row
    assert world.stats().ignored == {"unwritten": 1}
    world.check()
    world.order(id_, Action.RESOLVE)
    world.order(id_, Action.PURGE)
    assert world.row(id_) is None
    world.check()


def _just_too_large(world: World, value: bytes) -> bytes:
    """The transaction knows better than the headers' arithmetic."""
    from dlq_stream.core.errors import TooLarge
    from dlq_stream.engine import apply_failures

    record = world.failure(error=PERMANENT, value=value)
    tx = world.home.transaction()

    def refusing(*arguments: object) -> None:
        raise TooLarge("by one byte")

    tx.send = refusing  # type: ignore[method-assign]
    apply_failures(tx, [record], world.engine)
    world.home.commit(tx)
    return bytes.fromhex((dict(record.headers)["dlq-message-id"] or b"").decode())


def test_a_topic_name_that_is_too_long_is_impossible() -> None:
    """The original's just fits."""
    topic = "t" * 247
    world = World()
    id_ = world.fail(error=PERMANENT, original_topic=topic, queue="q")
    row = world.must(id_)
    assert (row.dead_letter, row.dead_letter_reason) == ("impossible", "invalid-name")


def test_headers_make_way_in_a_dead_letter_too() -> None:
    """What describes goes before what identifies."""
    world = World()
    world.home.learn(Destination(DLQ, 8, record_bytes_max=5_700))
    world.fail(error=PERMANENT, value=b"x" * 5_000, error_stacktrace="y" * 8_000)
    [letter] = world.dead_letters()
    assert letter.header("dlq-error-stacktrace") is None
    assert letter.header("dlq-escalation-reason") == b"permanent"


def test_a_name_that_settings_forbid_now_is_waited_for() -> None:
    """Settings may change again."""
    world = World()
    world.home.learn(Destination(DLQ, refusal="missing"))
    id_ = world.fail(error=PERMANENT)
    world.engine = type(world.engine)(
        app_id="dlq-stream",
        policies=world.engine.policies,
        classifier_for=world.engine.classifier_for,
        observe=world.engine.observe,
        allowed_topics=["billing"],
    )
    world.wait(1_000)
    assert world.emit().unknown == frozenset()
    assert world.must(id_).dead_letter_reason == "forbidden"


def test_a_waiting_message_can_be_resolved_or_redriven() -> None:
    """Then there is nothing to write any more."""
    world = World()
    world.home.learn(Destination(DLQ, refusal="missing"))
    resolved, redriven = world.fail(1, error=PERMANENT), world.fail(2, error=PERMANENT)
    world.succeed(resolved, 0)
    world.order(redriven, Action.REDRIVE)
    row = world.must(redriven)
    assert (row.dead_letter, row.dead_letter_tries, row.dead_letter_reason) == ("none", 0, "")
    world.home.learn(Destination(DLQ, 8))
    world.wait(10_000_000)
    world.emit()
    assert world.dead_letters() == []
    assert (world.status(resolved), world.status(redriven)) == ("resolved", "retrying")
    world.check()


def test_the_dead_letter_of_an_unreported_delivery_tells_of_the_latest_known_failure() -> None:
    """An operator gave it up while its outcome was open."""
    world = World()
    id_ = world.retried(times=2)
    world.order(id_, Action.ESCALATE, reason="enough", by="ada")
    [letter] = world.dead_letters()
    assert (letter.header("dlq-attempt"), letter.header("dlq-escalation-reason")) == (b"2", b"operator")
    assert letter.header("dlq-error-message") == b"no answer in 30 s"
    assert world.must(id_).detail == "enough (ada)"


def test_a_message_escalates_again_after_a_redrive() -> None:
    """And is written again."""
    world = World(policy=RetryPolicy(max_retries=1, initial_backoff_ms=10))
    id_ = world.retried()
    world.fail(attempt=1)
    world.order(id_, Action.REDRIVE)
    world.emit()
    world.fail(attempt=2)
    assert [letter.header("dlq-attempt") for letter in world.dead_letters()] == [b"1", b"2"]
    assert world.stats().escalated_total == 2
    world.check()
