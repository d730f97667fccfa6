"""What an order would do, and whether it did: held against the engine that obeys it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dlq_stream.core.commands import Action, Order
from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.engine.purge import PURGE_ORDERED_MS
from dlq_stream.tables.messages import DeadLetter, Message, codec
from dlq_stream.view.messages import present
from dlq_stream.view.orders import did, statuses_for, why_not_applicable

ID = bytes(16)
STATUSES = [status for status in DLQMessageStatus if status is not DLQMessageStatus.PURGED]
ROWS = st.builds(
    Message,
    status=st.sampled_from(STATUSES),
    due_ms=st.none() | st.integers(0, 10**13),
    created_ms=st.just(1),
    closed_ms=st.none(),
    queue=st.just("heat"),
    attempt=st.integers(0, 5),
    revision=st.integers(1, 9),
    dead_letter=st.sampled_from(DeadLetter),
)
ACTIONS = st.sampled_from(Action)


def order(action: Action, row: Message, due_at: int = 7) -> Order:
    return Order(ID, action, row.revision, "why", "ops", due_at if action is Action.RESCHEDULE else None)


@given(ACTIONS, ROWS)
def test_what_applies_is_what_the_lifecycle_lists(action: Action, row: Message) -> None:
    """But for purging what is not in its -dlq topic; every refusal is a sentence that says why."""
    why = why_not_applicable(order(action, row), row)
    listed = row.status in statuses_for(action)
    if action is Action.PURGE and row.status is DLQMessageStatus.ESCALATED:
        assert (why is None) is (row.dead_letter is DeadLetter.WRITTEN)
    else:
        assert (why is None) is listed
    assert why is None or str(row.status) in why or "-dlq" in why


def test_the_statuses_of_each_action() -> None:
    """In the order of the lifecycle, each once."""
    assert {action.value: [str(each) for each in statuses_for(action)] for action in Action} == {
        "retry": ["pending"],
        "reschedule": ["pending"],
        "resolve": ["pending", "retrying", "escalated"],
        "escalate": ["pending", "retrying"],
        "redrive": ["escalated"],
        "purge": ["resolved", "escalated"],
    }


PENDING = Message(DLQMessageStatus.PENDING, 5, 1, None, "heat", attempt=2, revision=3)
ESCALATED = replace(PENDING, status=DLQMessageStatus.ESCALATED, due_ms=None)
SAID = {"revision": 4, "reason": "operator", "detail": "why (ops)"}
APPLIED: Sequence[tuple[Action, Message, dict[str, Any]]] = (
    (Action.RETRY, PENDING, {"revision": 4, "due_ms": 9}),
    (Action.RESCHEDULE, PENDING, {"revision": 4, "due_ms": 7}),
    (Action.RESOLVE, PENDING, {**SAID, "status": DLQMessageStatus.RESOLVED}),
    (Action.ESCALATE, PENDING, {**SAID, "status": DLQMessageStatus.ESCALATED}),
    (Action.REDRIVE, ESCALATED, {"revision": 4, "status": DLQMessageStatus.PENDING, "attempt_base": 2}),
)


@pytest.mark.parametrize(("action", "before", "changes"), APPLIED)
def test_an_order_did_what_it_says_or_something_else_did(
    action: Action, before: Message, changes: dict[str, Any]
) -> None:
    """The next revision, as ordered: any other revision, and any other change, is not the order's doing."""
    after = replace(before, **changes)
    assert did(order(action, before), before, after)
    assert not did(order(action, before), before, replace(after, revision=5))
    assert not did(order(action, before), before, None)
    retried = replace(before, status=DLQMessageStatus.RETRYING, revision=4, attempt=3)
    succeeded = replace(before, status=DLQMessageStatus.RESOLVED, revision=4)
    for other in (retried, succeeded):
        assert not did(order(action, before), before, other)


def test_of_a_reschedule_the_time_counts_and_of_a_resolution_the_words() -> None:
    """Somebody else's order of the same kind is somebody else's."""
    after = replace(PENDING, revision=4, due_ms=8)
    assert not did(order(Action.RESCHEDULE, PENDING), PENDING, after)
    others = replace(PENDING, status=DLQMessageStatus.RESOLVED, revision=4, reason="operator", detail="else (ops)")
    assert not did(order(Action.RESOLVE, PENDING), PENDING, others)


def test_a_message_is_purged_when_it_is_gone() -> None:
    """Or marked for retention to delete, which is as good."""
    resolved = replace(PENDING, status=DLQMessageStatus.RESOLVED)
    marked = present(codec.encode(replace(resolved, closed_ms=PURGE_ORDERED_MS)))
    assert did(order(Action.PURGE, resolved), resolved, None)
    assert did(order(Action.PURGE, resolved), resolved, marked)
    assert not did(order(Action.PURGE, resolved), resolved, replace(resolved, revision=4))
