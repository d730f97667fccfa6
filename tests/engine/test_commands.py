"""Commands of consumers and operators."""

from __future__ import annotations

from typing import Any

import pytest

from dlq_stream.core import events
from dlq_stream.core.commands import Action, Order, Succeeded, Traffic, encode_command
from dlq_stream.core.errors import UnsupportedFormat
from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.core.policy import RetryPolicy
from dlq_stream.core.transaction import Destination
from dlq_stream.engine import apply_commands, turn
from dlq_stream.tables import messages
from dlq_stream.tables.messages import DeadLetter
from tests.engine.world import NOW, PERMANENT, RETENTION_MS, TOPIC, TRANSIENT, World, id_of, offset_on
from tests.memory import FakeRecord

UNKNOWN_ID = bytes(16)


def apply(world: World, *records: FakeRecord) -> None:
    world.run(lambda tx: apply_commands(tx, records, world.engine))


# -------------------------------------------------------------------------------------------------------- successes


def test_a_success_resolves() -> None:
    """The history stays until retention."""
    world = World()
    id_ = world.retried()
    world.succeed(id_, 1)
    row = world.must(id_)
    assert (row.status, row.due_ms, row.closed_ms, row.presumed) == (
        DLQMessageStatus.RESOLVED,
        None,
        world.now,
        False,
    )
    assert (world.stats().succeeded, world.stats().resolved, world.stats().oldest_open_ms) == (1, 1, None)
    assert len(world.history(id_)) == 1
    assert world.seen_of(events.MessageResolved)[0].how == "succeeded"
    world.check()


@pytest.mark.parametrize("attempt", [0, 1, 2])
def test_a_late_success_of_any_delivery_settles_it(attempt: int) -> None:
    """Also before the next retry, and after an earlier one."""
    world = World()
    id_ = world.retried(times=2)
    world.succeed(id_, attempt)
    assert world.status(id_) == "resolved"


def test_a_success_of_a_delivery_that_never_was_is_ahead() -> None:
    """Its consumer reads uncommitted emissions."""
    world = World()
    id_ = world.fail()
    world.succeed(id_, 1)
    assert world.status(id_) == "pending"
    assert world.stats().ignored == {"ahead": 1}


def test_a_repeated_success_does_nothing() -> None:
    """In one batch or two."""
    world = World()
    id_ = world.retried()
    world.tell(Succeeded(id_, 1), Succeeded(id_, 1))
    row = world.row(id_)
    world.wait(10)
    world.succeed(id_, 1)
    assert world.row(id_) == row
    assert world.stats().ignored == {"status": 2}


def test_a_success_of_an_escalated_message_resolves_it() -> None:
    """Somebody consumed the dead letter, or the last retry after all; what was written stays written."""
    world = World()
    id_ = world.fail(error=PERMANENT)
    world.succeed(id_, 0)
    assert (world.status(id_), world.must(id_).dead_letter) == ("resolved", "written")
    world.check()


def test_a_success_of_an_unknown_message_is_counted() -> None:
    """With what belongs to no queue."""
    world = World()
    world.succeed(UNKNOWN_ID, 0)
    assert world.own_stats().ignored == {"absent": 1}
    [seen] = world.seen
    assert (seen.id, seen.queue, seen.kind) == (UNKNOWN_ID, "", "command")
    world.check()


# ----------------------------------------------------------------------------------------------------------- orders


def test_retry_now() -> None:
    """The timer emits it at once; the schedule goes on from there."""
    world = World()
    id_ = world.fail()
    world.order(id_, Action.RETRY, by="ada")
    assert (world.must(id_).due_ms, world.must(id_).revision) == (NOW, 2)
    assert world.emit().emitted == 1
    assert world.seen_of(events.MessageRescheduled)[0].by == "ada"
    world.check()


@pytest.mark.parametrize("delta", [-1_000_000_000, 123_456])
def test_reschedule(delta: int) -> None:
    """To any time; one in the past is due at once."""
    world = World()
    id_ = world.fail()
    world.order(id_, Action.RESCHEDULE, due_at=NOW + delta)
    assert world.must(id_).due_ms == NOW + delta
    assert world.emit().emitted == (delta < 0)
    world.check()


@pytest.mark.parametrize("state", ["pending", "retrying", "escalated"])
def test_resolve(state: str) -> None:
    """With who said so, and why."""
    world = World()
    id_ = {"pending": world.fail, "retrying": world.retried, "escalated": lambda: world.fail(error=PERMANENT)}[state]()
    world.order(id_, Action.RESOLVE, reason="fixed by hand", by="ada")
    row = world.must(id_)
    assert (row.status, row.reason, row.detail, row.closed_ms) == (
        DLQMessageStatus.RESOLVED,
        "operator",
        "fixed by hand (ada)",
        world.now,
    )
    assert world.stats().resolved_by_operator == 1
    world.check()


def test_escalate() -> None:
    """The dead letter goes out at once."""
    world = World()
    id_ = world.fail()
    world.order(id_, Action.ESCALATE, reason="hopeless")
    row = world.must(id_)
    assert (row.status, row.reason, row.detail, row.due_ms) == (
        DLQMessageStatus.ESCALATED,
        "operator",
        "hopeless",
        None,
    )
    assert len(world.dead_letters()) == 1
    world.check()


def test_many_orders_cannot_stage_many_large_dead_letters() -> None:
    """The rest is left to the timer."""
    world = World(dead_letter_bytes_max=10)
    ids = [world.fail(offset) for offset in range(3)]
    world.tell(*(Order(id_, Action.ESCALATE, 1) for id_ in ids))
    assert len(world.dead_letters()) == 1
    world.emit()
    assert len(world.dead_letters()) == 3
    world.check()


def test_redrive_gives_a_fresh_allowance() -> None:
    """Deliveries go on counting, retries and budget begin anew."""
    world = World(policy=RetryPolicy(max_retries=2, budget_ms=1_000_000))
    id_ = world.retried(times=2)
    world.fail(attempt=2)
    assert world.status(id_) == "escalated"
    world.wait(5_000_000)
    world.order(id_, Action.REDRIVE, by="ada")
    row = world.must(id_)
    assert (row.status, row.due_ms, row.attempt, row.attempt_base) == (DLQMessageStatus.PENDING, world.now, 2, 2)
    assert (row.closed_ms, row.reason, row.dead_letter, row.allowance_from_ms) == (
        None,
        "",
        DeadLetter.NONE,
        world.now,
    )
    world.check()
    world.emit()
    world.fail(attempt=3)
    assert world.must(id_).due_ms == world.now + 300_000
    world.wait(300_000)
    world.emit()
    world.fail(attempt=4)
    assert world.must(id_).reason == "retries-exhausted"
    assert (world.stats().redriven, world.stats().escalated_total) == (1, 2)


def test_purge() -> None:
    """Row, attempts and index entries are gone, and counted."""
    world = World()
    id_ = world.retried(times=3)
    world.succeed(id_, 3)
    world.order(id_, Action.PURGE)
    assert world.row(id_) is None
    assert not any(world.home.rows[name] for name in ("messages", "attempts", "due", "status", "closed"))
    assert (world.stats().purged, world.stats().resolved) == (1, 0)
    assert world.seen_of(events.MessagePurged)[0].how == "operator"
    world.check()


def test_a_replay_brings_back_what_an_operator_purged() -> None:
    """Nothing is left that could tell: it is a new message.  What is only closed is known, and stays as it is."""
    world = World()
    purged, closed = [world.fail(offset, error=PERMANENT) for offset in range(2)]
    world.order(purged, Action.PURGE)
    row = world.must(closed)
    world.apply(*(world.failure(offset, error=PERMANENT) for offset in range(2)))
    assert (world.status(purged), world.must(purged).revision) == ("escalated", 1)
    assert world.row(closed) == row
    assert len(world.dead_letters()) == 3
    world.check()


@pytest.mark.parametrize("bound", ["bytes", "messages"])
def test_many_purges_are_left_to_retention(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what one transaction should read and delete; it takes them next, before what is older."""
    if bound == "messages":
        monkeypatch.setattr(turn, "PURGES_PER_BATCH_MAX", 2)
    world = World(**({"purge_bytes_max": 250_000} if bound == "bytes" else {}))
    older = world.fail(99, error=PERMANENT)
    world.wait(1)
    ids = [world.fail(offset, error=PERMANENT, value=bytes(100_000)) for offset in range(5)]
    world.tell(*(Order(id_, Action.PURGE, 1) for id_ in ids))
    assert [world.status(id_) for id_ in ids] == ["absent"] * 2 + ["escalated"] * 3
    world.check()
    while (next_ms := world.retain(steps_max=2)) == 0:
        world.check()
    assert next_ms == NOW + RETENTION_MS
    assert world.home.rows["messages"].keys() == {older}
    assert len(world.home.rows["attempts"]) == 1
    purged = [(seen.id, seen.how) for seen in world.seen_of(events.MessagePurged)]
    assert sorted(purged) == sorted((id_, "operator") for id_ in ids)
    assert (world.stats().purged, world.stats().escalated) == (5, 1)
    world.check()


@pytest.mark.parametrize("bound", [{"purge_bytes_max": 250_000}, {"dead_letter_bytes_max": 250_000}])
def test_bounds_are_those_of_a_batch_in_however_many_steps(bound: dict[str, int]) -> None:
    """Each order is a step of its own here."""
    world = World(**bound)
    world.home.learn(Destination(f"{TOPIC}-dlq", 8, record_bytes_max=200_000))
    purges = "purge_bytes_max" in bound
    error = PERMANENT if purges else TRANSIENT
    ids = [world.fail(offset, error=error, value=bytes(100_000)) for offset in range(5)]
    tx = world.home.transaction()
    for id_ in ids:
        order = Order(id_, Action.PURGE if purges else Action.ESCALATE, 1)
        apply_commands(tx, [world.command(order)], world.engine)
    world.home.commit(tx)
    assert len(world.home.rows["attempts"]) == (3 if purges else 5)
    assert len(world.dead_letters()) == (5 if purges else 2)
    world.check()


@pytest.mark.parametrize("action", Action)
def test_what_was_purged_is_gone_for_later_commands(action: Action) -> None:
    """Also where retention has not come to it yet; in the same batch or another."""
    world = World(purge_bytes_max=1)
    ids = [world.fail(offset, error=PERMANENT) for offset in range(2)]
    orders = [Order(id_, Action.PURGE, 1) for id_ in ids]
    again = Order(ids[1], action, 1, due_at=NOW if action is Action.RESCHEDULE else None)
    world.tell(*orders, again, Succeeded(ids[1], 0))
    world.tell(*orders, again, Succeeded(ids[1], 0))
    assert world.status(ids[1]) == "escalated"
    assert world.own_stats().ignored == {"absent": 6}
    assert world.retain() is None
    assert world.status(ids[1]) == "absent"
    world.check()


def test_the_number_of_attempts_is_kept_where_a_delivery_was_never_reported() -> None:
    """An operator gave it up while it was on its way, and had it redriven: it counts as one of the latest."""
    world = World(policy=RetryPolicy(max_retries=10), attempts_kept_max=3)
    id_ = world.retried(times=1)
    for attempt in range(1, 9):
        if attempt == 4:
            world.order(id_, Action.ESCALATE)
            world.order(id_, Action.REDRIVE)
        else:
            world.fail(attempt=attempt)
        assert len(world.history(id_)) <= 3
        world.to_next_due()
        world.emit()
    assert [number for number, _ in world.history(id_)] == [0, 7, 8]


@pytest.mark.parametrize("action", Action)
def test_an_order_at_another_revision_does_nothing(action: Action) -> None:
    """So a repeated, replayed or late one does not either."""
    world = World()
    id_ = world.retried()
    before = world.row(id_)
    due_at = NOW if action is Action.RESCHEDULE else None
    for revision in (0, 1, 3):
        world.order(id_, action, revision=revision, due_at=due_at)
    assert world.row(id_) == before
    assert world.stats().ignored == {"revision": 3}
    world.order(UNKNOWN_ID, action, revision=1, due_at=due_at)
    assert world.own_stats().ignored == {"absent": 1}


def test_orders_of_one_batch_see_each_other() -> None:
    """The second of two at the same revision is too late; one that follows the revision is not."""
    world = World()
    id_ = world.fail()
    world.tell(
        Order(id_, Action.RESCHEDULE, 1, due_at=NOW + 5),
        Order(id_, Action.RESOLVE, 1),
        Order(id_, Action.ESCALATE, 2),
        Order(id_, Action.REDRIVE, 3),
        Order(id_, Action.RESOLVE, 4),
        Order(id_, Action.PURGE, 5),
        Order(id_, Action.PURGE, 5),
    )
    assert world.row(id_) is None
    assert (world.stats().ignored, world.own_stats().ignored) == ({"revision": 1}, {"absent": 1})
    world.check()


# ------------------------------------------------------------------------------------------- misplaced and malformed


def test_a_misplaced_command_is_forwarded() -> None:
    """Whatever its key was; its value and other headers stay."""
    world = World(partition=1, partitions=4)
    id_ = id_of(offset_on(3, 4))
    value = encode_command(Succeeded(id_, 1))
    apply(world, world.record("dlq-stream-commands", None, value, (("trace", b"1"), ("dlq-forwarded", b"0"))))
    [sent] = world.home.sent("dlq-stream-commands")
    assert (sent.partition, sent.key, sent.value) == (3, id_.hex().encode(), value)
    assert sent.headers == (("trace", b"1"), ("dlq-message-id", id_.hex().encode()), ("dlq-forwarded", b"1"))
    assert world.own_stats().forwarded == 1
    assert world.seen[0].kind == "command"
    apply(world, world.record(sent.topic, sent.key, sent.value, sent.headers))
    assert "wrong partition" in world.reasons()[0]


def test_traffic_is_understood_wherever_it_is_and_changes_nothing() -> None:
    """It is about no message: never misplaced, ignored or quarantined; what stands beside it counts."""
    world = World()
    id_ = world.retried()
    before = world.own_stats()
    said = encode_command(Traffic("ovens", "agents", 7, 2, NOW - 10_000, NOW))
    apply(world, world.record("dlq-stream-commands", None, said), world.command(Succeeded(id_, 1)))
    assert world.status(id_) == "resolved"
    assert (world.quarantined(), world.seen_of(events.EventIgnored), world.own_stats()) == ([], [], before)


@pytest.mark.parametrize(
    "value",
    [None, b"", b"{", b"[]", b'{"type": "unheard of"}', b'{"type": "succeeded", "message_id": "00"}', b"\xff"],
)
def test_a_malformed_command_is_quarantined_alone(value: bytes | None) -> None:
    """Whole, with its reason; the others of the batch take effect."""
    world = World()
    id_ = world.retried()
    bad = world.record("dlq-stream-commands", b"key", value, (("h", b"1"),))
    apply(world, bad, world.command(Succeeded(id_, 1)))
    assert world.status(id_) == "resolved"
    [sent] = world.quarantined()
    assert (sent.key, sent.value, sent.headers[0]) == (b"key", value, ("h", b"1"))
    assert sent.header("dlq-quarantine-topic") == b"dlq-stream-commands"
    assert world.own_stats().quarantined == 1


def test_what_an_unexpected_error_staged_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command alone."""
    world = World()
    first, second = world.fail(1), world.fail(2)
    change = messages.change

    def broken(tx: Any, id_: bytes, old: Any, new: Any) -> None:
        change(tx, id_, old, new)
        if id_ == first:
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(messages, "change", broken)
    world.tell(Order(first, Action.ESCALATE, 1), Order(second, Action.ESCALATE, 1))
    assert (world.status(first), world.status(second)) == ("pending", "escalated")
    assert len(world.dead_letters()) == 1
    assert world.reasons() == ["ZeroDivisionError: a bug"]
    world.check()


def test_a_row_of_a_newer_major_version_stops_the_worker() -> None:
    """It must not touch anything."""
    world = World()
    id_ = world.fail()
    world.home.rows["messages"][id_] = b"\x02" + world.home.rows["messages"][id_][1:]
    with pytest.raises(UnsupportedFormat):
        world.tell(Succeeded(id_, 0))


def test_figures_name_the_queue() -> None:
    """What is ignored counts for the queue of its message."""
    world = World()
    id_ = world.fail(queue="ovens")
    world.order(id_, Action.PURGE)
    assert world.stats("ovens").ignored == {"status": 1}
    assert world.stats(TOPIC).ignored == {}
