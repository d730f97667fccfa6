"""The life of a message as one table: the only place where a status changes.

The table is total: every state is listed with every event that leads out of it, and what a state does not list is
ignored and counted by reason (`why_ignored`), never an error.  Delivery is at least once and out of order, so a
repeated or late event is daily business.  What makes a repetition harmless is the attempt: `standing` compares the
event's with the row's before the table is asked.  Operators' commands are guarded by the row's revision instead.

The module knows no rows, clocks or policies.  Whether retries are left is `dlq_stream.core.decide`'s question; its
answer arrives here as one of two events.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from dlq_stream.core.model import DLQMessageStatus


class State(StrEnum):
    """Where a message stands, as the table sees it: a status, with the two kinds of RESOLVED told apart.

    * ``ABSENT``: no row: never seen, or purged.
    * ``PENDING``: waits for its next retry.
    * ``RETRYING``: emitted, outcome not known.
    * ``PRESUMED``: RESOLVED because nothing was heard in time from a consumer that reports no outcomes; a failure of
      that same delivery reopens it.
    * ``RESOLVED``: known to have succeeded, or resolved by an operator.
    * ``ESCALATED``: given up.
    """

    ABSENT = "absent"
    PENDING = "pending"
    RETRYING = "retrying"
    PRESUMED = "presumed"
    RESOLVED = "resolved"
    ESCALATED = "escalated"

    @property
    def status(self) -> DLQMessageStatus:
        """The public status; an absent row is a purged one."""
        return _STATUS[self]


class Event(StrEnum):
    """What can happen to a message; the value is how the diagram words it.

    ``RETRY_NOW`` is an operator's order, which this table allows or ignores like any other.  It is carried out as
    ``RESCHEDULED``, to now, and then ``DUE``, in the timer's next tick: emitting is the timer's alone.
    """

    FAILED_AGAIN = "failed, worth a retry"
    FAILED_FINALLY = "failed, permanent or no retries left"
    DUE = "due"
    RETRY_NOW = "retry now"
    RESCHEDULED = "rescheduled"
    SUCCEEDED = "succeeded"
    RESOLVED_BY_OPERATOR = "resolved by an operator"
    GIVEN_UP = "given up by an operator"
    TIMED_OUT_AGAIN = "no outcome in time, retries left"
    TIMED_OUT_FINALLY = "no outcome in time, no retries left"
    PRESUMED_RESOLVED = "no outcome in time, consumer is silent"
    REFUSED = "destination unusable"
    REDRIVEN = "redriven"
    PURGED = "retention passed or purged"


class Standing(StrEnum):
    """How the attempt that an event tells of stands to the row's.

    * ``CURRENT``: it tells of the latest delivery; the table decides.
    * ``DUPLICATE``: this was heard before; ignored.
    * ``AHEAD``: of a delivery that was never committed: its reader reads uncommitted emissions; ignored.
    """

    CURRENT = "current"
    DUPLICATE = "duplicate"
    AHEAD = "ahead"


class Ignored(StrEnum):
    """Why an event had no effect; statistics count by it.

    * ``DUPLICATE`` and ``AHEAD``: see `Standing`.
    * ``ABSENT``: a command for a message that has no row.
    * ``STATUS``: the message's status does not list this event.
    * ``REVISION``: an operator's command names a revision that is not the row's.
    * ``UNWRITTEN``: purging an ESCALATED message that is not in its ``-dlq`` topic yet.
    """

    DUPLICATE = "duplicate"
    AHEAD = "ahead"
    ABSENT = "absent"
    STATUS = "status"
    REVISION = "revision"
    UNWRITTEN = "unwritten"


_STATUS: Mapping[State, DLQMessageStatus] = {
    State.ABSENT: DLQMessageStatus.PURGED,
    State.PENDING: DLQMessageStatus.PENDING,
    State.RETRYING: DLQMessageStatus.RETRYING,
    State.PRESUMED: DLQMessageStatus.RESOLVED,
    State.RESOLVED: DLQMessageStatus.RESOLVED,
    State.ESCALATED: DLQMessageStatus.ESCALATED,
}

_TABLE: dict[State, dict[Event, State]] = {
    State.ABSENT: {
        Event.FAILED_AGAIN: State.PENDING,
        Event.FAILED_FINALLY: State.ESCALATED,
    },
    State.PENDING: {
        Event.DUE: State.RETRYING,
        Event.RETRY_NOW: State.RETRYING,
        Event.RESCHEDULED: State.PENDING,
        Event.SUCCEEDED: State.RESOLVED,
        Event.RESOLVED_BY_OPERATOR: State.RESOLVED,
        Event.GIVEN_UP: State.ESCALATED,
        Event.REFUSED: State.ESCALATED,
    },
    State.RETRYING: {
        Event.FAILED_AGAIN: State.PENDING,
        Event.FAILED_FINALLY: State.ESCALATED,
        Event.TIMED_OUT_AGAIN: State.PENDING,
        Event.TIMED_OUT_FINALLY: State.ESCALATED,
        Event.PRESUMED_RESOLVED: State.PRESUMED,
        Event.SUCCEEDED: State.RESOLVED,
        Event.RESOLVED_BY_OPERATOR: State.RESOLVED,
        Event.GIVEN_UP: State.ESCALATED,
    },
    State.PRESUMED: {
        Event.FAILED_AGAIN: State.PENDING,
        Event.FAILED_FINALLY: State.ESCALATED,
        Event.PURGED: State.ABSENT,
    },
    State.RESOLVED: {
        Event.PURGED: State.ABSENT,
    },
    State.ESCALATED: {
        Event.SUCCEEDED: State.RESOLVED,
        Event.RESOLVED_BY_OPERATOR: State.RESOLVED,
        Event.REDRIVEN: State.PENDING,
        Event.PURGED: State.ABSENT,
    },
}

LIFECYCLE: Mapping[State, Mapping[Event, State]] = MappingProxyType(
    {state: MappingProxyType(arrows) for state, arrows in _TABLE.items()}
)
"""From each state, where each event leads; an event that a state does not list is ignored."""


def next_state(state: State, event: Event) -> State | None:
    """The state after ``event``, or None where the event means nothing in this state and is ignored."""
    return LIFECYCLE[state].get(event)


def why_ignored(state: State) -> Ignored:
    """The reason to count by where `next_state` says None."""
    return Ignored.ABSENT if state is State.ABSENT else Ignored.STATUS


def standing(state: State, row_attempt: int, event_attempt: int) -> Standing:
    """How a failure of delivery ``event_attempt`` stands to a row whose latest delivery is ``row_attempt``.

    A failure of the latest delivery is news only while its outcome is open: RETRYING, or presumed.  Without a row
    every failure is news, whatever its number (its row was purged).
    """
    if state is State.ABSENT:
        return Standing.CURRENT
    if event_attempt > row_attempt:
        return Standing.AHEAD
    if event_attempt == row_attempt and state in (State.RETRYING, State.PRESUMED):
        return Standing.CURRENT
    return Standing.DUPLICATE


def standing_of_success(row_attempt: int, event_attempt: int) -> Standing:
    """How a success of delivery ``event_attempt`` stands to a row: a success of any delivery so far settles it.

    Whether the row is still open to be settled is the table's answer, so a repeated success is ignored there.
    """
    return Standing.CURRENT if event_attempt <= row_attempt else Standing.AHEAD


def diagram() -> str:
    """The table as a Mermaid ``stateDiagram-v2``; README holds this text and a test compares the two."""
    lines = ["stateDiagram-v2", '    state "RESOLVED (presumed)" as PRESUMED']
    for state, arrows in LIFECYCLE.items():
        source = "[*]" if state is State.ABSENT else state.name
        for target in State:
            events = [event.value for event, to in arrows.items() if to is target]
            if events:
                name = DLQMessageStatus.PURGED.name if target is State.ABSENT else target.name
                lines.append(f"    {source} --> {name}: {' / '.join(events)}")
    lines.append(f"    {DLQMessageStatus.PURGED.name} --> [*]")
    return "\n".join(lines) + "\n"
