"""Commands: what consumers and operators say about messages of one partition.

A success settles its message if the delivery it tells of was ever made; it may come twice, late, or before the failure
it overtook.  An operator's order counts only at the revision that the operator saw, so one that is repeated, replayed
or too late does nothing.  What does nothing is counted by reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dlq_stream.core.commands import Action, Command, MessageCommand, Order, Succeeded, Traffic, parse_command
from dlq_stream.core.decide import EscalationReason
from dlq_stream.core.events import (
    EventIgnored,
    MessageEscalated,
    MessageRedriven,
    MessageRescheduled,
    MessageResolved,
)
from dlq_stream.core.lifecycle import Event, Ignored, Standing, next_state, standing_of_success, why_ignored
from dlq_stream.core.model import DLQMessageStatus, Record
from dlq_stream.core.transaction import Transaction
from dlq_stream.engine.context import Engine
from dlq_stream.engine.dead_letters import escalate
from dlq_stream.engine.forwarding import forward_command, ours_of
from dlq_stream.engine.purge import PURGE_ORDERED_MS, purge_or_leave
from dlq_stream.engine.quarantine import each_or_quarantine, understood
from dlq_stream.engine.turn import Turn, advance
from dlq_stream.tables import attempts, messages
from dlq_stream.tables.messages import DeadLetter, Message, state_of

OPERATOR = "operator"
"""`Message.reason` of what an operator resolved or gave up."""


def apply_commands(tx: Transaction, records: Sequence[Record], engine: Engine) -> None:
    """Stage what these commands change, on the partition that they arrived on.

    Raises nothing that a command is to blame for.  `UnsupportedFormat` (this worker is too old) gets through.
    """
    turn = Turn.of(tx, engine)
    said = understood(turn, records, lambda record: parse_command(record.value))
    ours = ours_of(turn, _of_messages(said), forward_command)
    desk = _Desk(turn, {command.id for _, command in ours})
    each_or_quarantine(turn, ours, desk.apply)


def _of_messages(said: Iterable[tuple[Record, Command]]) -> list[tuple[Record, MessageCommand]]:
    """Without reports of traffic: they are about no message, and belong to whatever partition they are in.

    They change no state.
    """
    return [(record, command) for record, command in said if not isinstance(command, Traffic)]


class _Desk:
    """The commands of one step that belong here."""

    def __init__(self, turn: Turn, ids: Iterable[bytes]) -> None:
        self._turn = turn
        self._stored = turn.tx.get_many("messages", list(ids))
        self._rows: dict[bytes, Message | None] = {}

    def apply(self, record: Record, command: MessageCommand) -> None:
        id_ = command.id
        row = self._row(id_)
        why = why_not(command, row)
        if row is None or why is not None:
            self._ignore(id_, row, why or Ignored.ABSENT)
        elif isinstance(command, Succeeded):
            self._close(id_, row, Event.SUCCEEDED, "succeeded")
        else:
            self._obey(command, row)

    def _row(self, id_: bytes) -> Message | None:
        if id_ in self._rows:
            return self._rows[id_]
        raw = self._stored[id_]
        row = None if raw is None else messages.codec.decode(raw)
        return None if row is None or row.closed_ms == PURGE_ORDERED_MS else row

    def _ignore(self, id_: bytes, row: Message | None, why: Ignored) -> None:
        self._turn.book.ignored(row, why)
        self._turn.seen.append(EventIgnored(id_, "" if row is None else row.queue, "command", why))

    def _obey(self, order: Order, row: Message) -> None:
        match order.action:
            case Action.RETRY:
                self._schedule(order, row, self._turn.now_ms)
            case Action.RESCHEDULE:
                self._schedule(order, row, order.due_at or 0)
            case Action.RESOLVE:
                said = {"reason": OPERATOR, "detail": said_by(order)}
                self._close(order.id, row, Event.RESOLVED_BY_OPERATOR, "operator", **said)
            case Action.ESCALATE:
                self._give_up(order, row)
            case Action.REDRIVE:
                self._redrive(order, row)
            case Action.PURGE:
                purge_or_leave(self._turn, order.id, row)
                self._rows[order.id] = None

    def _close(self, id_: bytes, row: Message, event: Event, how: Any, **changes: Any) -> None:
        turn = self._turn
        written = row.dead_letter is DeadLetter.WRITTEN
        new = advance(
            row,
            event,
            due_ms=None,
            closed_ms=turn.now_ms,
            dead_letter=DeadLetter.WRITTEN if written else DeadLetter.NONE,
            dead_letter_reason="",
            **changes,
        )
        self._store(id_, row, new, event)
        turn.seen.append(MessageResolved(id_, row.queue, row.attempt, how))

    def _schedule(self, order: Order, row: Message, due_ms: int) -> None:
        """Retry now is a new due time, too: the timer emits, and it goes first, so there is one way to emit."""
        new = advance(row, Event.RESCHEDULED, due_ms=due_ms)
        self._store(order.id, row, new, Event.RESCHEDULED)
        self._turn.seen.append(MessageRescheduled(order.id, row.queue, due_ms, order.by))

    def _give_up(self, order: Order, row: Message) -> None:
        turn, reason, detail = self._turn, EscalationReason.OPERATOR, said_by(order)
        if row.status is DLQMessageStatus.RETRYING:  # this delivery is over, and its outcome will not count any more
            attempts.trim(turn.tx, order.id, row.first_attempt, row.attempt, turn.engine.attempts_kept_max)
        turn.seen.append(MessageEscalated(order.id, row.queue, row.attempt, reason, detail))
        new = advance(row, Event.GIVEN_UP, due_ms=None, reason=reason.value, detail=detail)
        self._store(order.id, row, escalate(turn, order.id, new), Event.GIVEN_UP)

    def _redrive(self, order: Order, row: Message) -> None:
        now = self._turn.now_ms
        new = advance(
            row,
            Event.REDRIVEN,
            due_ms=now,
            closed_ms=None,
            attempt_base=row.attempt,
            allowance_from_ms=now,
            reason="",
            detail="",
            dead_letter=DeadLetter.NONE,
            dead_letter_tries=0,
            dead_letter_reason="",
        )
        self._store(order.id, row, new, Event.REDRIVEN)
        self._turn.seen.append(MessageRedriven(order.id, row.queue, now, order.by))

    def _store(self, id_: bytes, old: Message, new: Message, event: Event) -> None:
        messages.change(self._turn.tx, id_, old, new)
        self._rows[id_] = new
        self._turn.book.changed(old, new, event)


def why_not(command: MessageCommand, row: Message | None) -> Ignored | None:
    """Why the command has no effect on this row; None where it has."""
    if row is None:
        return Ignored.ABSENT
    state = state_of(row)
    if isinstance(command, Succeeded):
        if standing_of_success(row.attempt, command.attempt) is not Standing.CURRENT:
            return Ignored.AHEAD
        return None if next_state(state, Event.SUCCEEDED) else why_ignored(state)
    if command.revision != row.revision:
        return Ignored.REVISION
    if next_state(state, command.action.event) is None:
        return why_ignored(state)
    escalated = row.status is DLQMessageStatus.ESCALATED
    if command.action is Action.PURGE and escalated and row.dead_letter is not DeadLetter.WRITTEN:
        return Ignored.UNWRITTEN
    return None


def said_by(order: Order) -> str:
    """What `Message.detail` keeps of an order: its reason, and who gave it."""
    return f"{order.reason} ({order.by})" if order.by else order.reason
