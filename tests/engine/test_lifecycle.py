"""Every cell of the lifecycle table, through the engine: what is listed happens, what is not is counted and ignored."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dlq_stream.core.commands import Action
from dlq_stream.core.lifecycle import LIFECYCLE, Event, State
from dlq_stream.core.policy import RetryPolicy
from dlq_stream.core.transaction import Destination
from dlq_stream.tables.messages import state_of
from tests.engine.world import PERMANENT, TOPIC, World, id_of

ID = id_of(81)


def pending(world: World) -> None:
    world.fail()


def retrying(world: World) -> None:
    world.retried(outcomes="reported")


def silently_retrying(world: World) -> None:
    world.retried()


def presumed(world: World) -> None:
    world.retried()
    world.to_next_due()
    world.emit()


def resolved(world: World) -> None:
    world.fail()
    world.succeed(ID, 0)


def escalated(world: World) -> None:
    world.fail(error=PERMANENT)


ARRANGED: dict[State, Callable[[World], None]] = {
    State.ABSENT: lambda world: None,
    State.PENDING: pending,
    State.RETRYING: retrying,
    State.PRESUMED: presumed,
    State.RESOLVED: resolved,
    State.ESCALATED: escalated,
}


def attempt_of(world: World) -> int:
    row = world.row(ID)
    return 0 if row is None else row.attempt


TRIGGERS: dict[Event, Callable[[World], None]] = {
    Event.FAILED_AGAIN: lambda world: world.apply(world.failure(attempt=attempt_of(world))),
    Event.FAILED_FINALLY: lambda world: world.apply(world.failure(attempt=attempt_of(world), error=PERMANENT)),
    Event.SUCCEEDED: lambda world: world.succeed(ID, attempt_of(world)),
    Event.RETRY_NOW: lambda world: world.order(ID, Action.RETRY),
    Event.RESCHEDULED: lambda world: world.order(ID, Action.RESCHEDULE, due_at=world.now + 5),
    Event.RESOLVED_BY_OPERATOR: lambda world: world.order(ID, Action.RESOLVE),
    Event.GIVEN_UP: lambda world: world.order(ID, Action.ESCALATE),
    Event.REDRIVEN: lambda world: world.order(ID, Action.REDRIVE),
    Event.PURGED: lambda world: world.order(ID, Action.PURGE),
}


@pytest.mark.parametrize("event", TRIGGERS)
@pytest.mark.parametrize("state", State)
def test_reports_and_orders(state: State, event: Event) -> None:
    """Each of them in each state: the table's next state, or nothing but a count."""
    world = World()
    ARRANGED[state](world)
    before = world.row(ID)
    assert state_of(before) is state
    rows, sent = {**world.home.rows["messages"]}, len(world.home.outbox)
    TRIGGERS[event](world)
    after = world.row(ID)
    if event in LIFECYCLE[state]:
        expected = LIFECYCLE[state][event]
        if event is Event.RETRY_NOW:  # it is due at once, and the timer emits
            assert state_of(after) is State.PENDING
            world.emit()
            after = world.row(ID)
        assert state_of(after) is expected
        if before is not None and after is not None:
            assert after.revision > before.revision
    else:
        assert world.home.rows["messages"] == rows
        assert len(world.home.outbox) == sent
        counted = world.stats() if before is not None else world.own_stats()
        assert sum(counted.ignored.values()) == 1
    world.check()


@pytest.mark.parametrize("state", State)
def test_time_passing(state: State) -> None:
    """A day of looks at the due index: only PENDING and RETRYING messages move."""
    world = World()
    ARRANGED[state](world)
    before = world.row(ID)
    world.wait(59_999)
    assert world.emit().handled == 0
    world.wait(86_400_000)
    world.emit()
    after = world.row(ID)
    moves = {State.PENDING: State.RETRYING, State.RETRYING: State.PENDING}
    assert state_of(after) is moves.get(state, state)
    assert (after == before) == (state not in moves)
    world.check()


def test_time_out_of_a_reporting_consumer_with_retries_left() -> None:
    """It counts as a failure; the backoff starts when the time-out is noticed."""
    world = World()
    retrying(world)
    world.wait(3_600_000)
    world.emit()
    row = world.must(ID)
    assert state_of(row) is LIFECYCLE[State.RETRYING][Event.TIMED_OUT_AGAIN]
    assert row.due_ms == world.now + 300_000
    assert row.attempt == 1
    assert world.stats().timed_out == 1
    world.wait(300_000)
    world.emit()
    assert [sent.header("dlq-attempt") for sent in world.emissions()] == [b"1", b"2"]


def test_time_out_of_a_reporting_consumer_without_retries_left() -> None:
    """It is given up."""
    world = World(policy=RetryPolicy(max_retries=1))
    retrying(world)
    world.wait(3_600_000)
    world.emit()
    assert state_of(world.row(ID)) is LIFECYCLE[State.RETRYING][Event.TIMED_OUT_FINALLY]
    assert world.must(ID).reason == "retries-exhausted"
    assert len(world.dead_letters()) == 1
    world.check()


def test_time_out_of_a_silent_consumer() -> None:
    """It is presumed to have succeeded, and counted apart."""
    world = World()
    silently_retrying(world)
    world.wait(3_600_000)
    world.emit()
    assert state_of(world.row(ID)) is LIFECYCLE[State.RETRYING][Event.PRESUMED_RESOLVED]
    assert (world.stats().presumed, world.stats().succeeded, world.stats().resolved) == (1, 0, 1)


def test_unusable_destination() -> None:
    """A retry that can not be emitted is given up."""
    world = World()
    pending(world)
    world.home.learn(Destination(TOPIC, refusal="missing"))
    world.wait(60_000)
    world.emit()
    assert state_of(world.row(ID)) is LIFECYCLE[State.PENDING][Event.REFUSED]
