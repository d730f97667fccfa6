"""What an order would do to a message, and whether it did.  Pure: rows in, answers out."""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never

from dlq_stream.core.commands import Action, Order
from dlq_stream.core.lifecycle import Ignored, State, next_state
from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.engine.commands import OPERATOR, said_by, why_not
from dlq_stream.tables.messages import Message
from dlq_stream.tables.spec import TIME_MS_MAX


class Outcome(StrEnum):
    """What became of an order.

    * ``APPLIED``: the message changed as ordered.
    * ``CHANGED``: it changed otherwise, before the order or in the same moment: it is no longer what was seen.
    * ``NO_EFFECT``: the workers had the order and left the message as it was.
    * ``UNCONFIRMED``: sent, but no worker has had it yet; it will be obeyed, if the message is then as it was seen.
    * ``NOT_APPLICABLE``: not sent, the message's status does not allow it.
    * ``ABSENT``: not sent, there is no such message.
    * ``NOT_SENT``: not sent, told to stop before.
    """

    APPLIED = "applied"
    CHANGED = "changed"
    NO_EFFECT = "no_effect"
    UNCONFIRMED = "unconfirmed"
    NOT_APPLICABLE = "not_applicable"
    ABSENT = "absent"
    NOT_SENT = "not_sent"


def why_not_applicable(order: Order, row: Message) -> str | None:
    """In words, why the order would have no effect on the row that it was made for; None where it would have one."""
    match why_not(order, row):
        case None:
            return None
        case Ignored.UNWRITTEN:
            return f"it is not in its -dlq topic yet{f' ({row.dead_letter_reason})' if row.dead_letter_reason else ''}"
        case _:
            return f"{order.action} is for {', '.join(statuses_for(order.action))} messages, this one is {row.status}"


def statuses_for(action: Action) -> tuple[DLQMessageStatus, ...]:
    """The statuses in which a message can be ordered to do this."""
    found = (state.status for state in State if next_state(state, action.event) is not None)
    return tuple(dict.fromkeys(found))


def did(order: Order, before: Message, after: Message | None) -> bool:
    """Whether ``after``, the first that was seen of the message after ``before``, is what the order makes of it."""
    if order.action is Action.PURGE:
        return after is None
    if after is None or after.revision != before.revision + 1:
        return False
    said = after.reason == OPERATOR and after.detail == said_by(order)
    match order.action:
        case Action.RETRY:
            return after.status is DLQMessageStatus.PENDING
        case Action.RESCHEDULE:
            due_at = min(order.due_at or 0, TIME_MS_MAX)
            return after.status is DLQMessageStatus.PENDING and after.due_ms == due_at
        case Action.RESOLVE:
            return after.status is DLQMessageStatus.RESOLVED and said
        case Action.ESCALATE:
            return after.status is DLQMessageStatus.ESCALATED and said
        case Action.REDRIVE:
            return after.status is DLQMessageStatus.PENDING and after.attempt_base == before.attempt
        case _:
            assert_never(order.action)
