"""A second opinion on intake: what each failure event and command has to do, one after the other, by the lifecycle.

Written from the lifecycle's table and its words, not from the engine, and much simpler: it knows no batches, no rows to
encode, no destinations.  What it says has to be what was committed: state, attempt and revision of every message, which
events were passed on, and every total of the statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dlq_stream.core.backoff import backoff_ms, chance_of
from dlq_stream.core.commands import Action, Order, Succeeded, parse_command
from dlq_stream.core.errors import MalformedEvent
from dlq_stream.core.headers import FailureEvent, parse_failure
from dlq_stream.core.ids import message_id
from dlq_stream.core.lifecycle import LIFECYCLE, Event, Ignored, State
from dlq_stream.core.model import Origin
from dlq_stream.core.policy import Policies
from dlq_stream.engine.purge import PURGE_ORDERED_MS
from dlq_stream.tables.messages import DeadLetter, Message, state_of
from dlq_stream.tables.stats import PARTITION_QUEUE
from tests.simulation.broker import Entry
from tests.simulation.fold import Change, Fold, Parts, id_of
from tests.simulation.names import COMMANDS, home_of
from tests.simulation.outcome import Cell

FAILED, SUCCEEDED = "failed", "succeeded"
"""Causes of cells that are not events of the lifecycle: what is heard of a delivery, before it is known to be news."""

PERMANENT = "ValidationError"
"""The error type that agents report of what no retry cures."""


class Scribe(Protocol):
    """Hears what happened, and what should not have."""

    def violated(self, text: str) -> None: ...

    def cell(self, cell: Cell) -> None: ...

    def count(self, figure: str) -> None: ...


@dataclass(slots=True)
class View:
    """A message as the lifecycle sees it; ``doomed``: an operator purged it, and retention has yet to delete it."""

    state: State
    attempt: int
    base: int
    revision: int
    group: str
    origin: Origin
    booked: str
    written: bool
    doomed: bool = False

    @classmethod
    def of(cls, row: Message | None) -> View | None:
        """The view of a row."""
        if row is None:
            return None
        return cls(
            state_of(row),
            row.attempt,
            row.attempt_base,
            row.revision,
            row.group,
            row.origin,
            row.booked,
            written=row.dead_letter is DeadLetter.WRITTEN,
            doomed=row.closed_ms == PURGE_ORDERED_MS,
        )

    def same(self, row: Message | None) -> bool:
        """Whether a row says the same."""
        found = View.of(row)
        if found is None:
            return self.doomed
        mine = self.state, self.attempt, self.base, self.revision, self.doomed
        return mine == (found.state, found.attempt, found.base, found.revision, found.doomed)


class Intake:
    """What one transaction has to have made of the events that it consumed."""

    def __init__(
        self,
        number: int,
        fold: Fold,
        before: dict[bytes, Change],
        parts: Parts,
        scribe: Scribe,
        policies: Policies,
    ) -> None:
        self._number = number
        self._fold = fold
        self._changes = before
        self._known_before = False
        self._scribe = scribe
        self._policies = policies
        self._views: dict[bytes, View | None] = {}
        self._moved: set[bytes] = set()
        self._retry_after: dict[bytes, int | None] = {}
        self._forwarded = 0
        self._parts = parts
        self._dead_letters = {id_of(entry) for entry in parts.dead_letters}

    def consume(self, record: Entry, *, known_before: bool) -> None:
        """One event that did not go to quarantine; ``known_before``: it was consumed once, and is replayed."""
        self._known_before = known_before
        try:
            if record.topic == COMMANDS:
                self._command(record, parse_command(record.value))
            else:
                self._failure(record, parse_failure(record))
        except MalformedEvent as error:
            self._scribe.violated(f"not in quarantine, though {error}: {record}")

    def compare(self) -> frozenset[bytes]:
        """The rows that were committed, with what they should be; returns which should have changed."""
        for id_ in sorted(self._moved):
            change, view = self._changes.get(id_), self._views.get(id_)
            what = f"{id_.hex()[:8]} was {shown(change.old)} and is {shown(change.new)}" if change else id_.hex()[:8]
            if change is None:
                self._scribe.violated(f"{what}: {view}")
            elif view is None or not view.same(change.new):
                self._scribe.violated(f"{what}, but should be {view}")
            elif id_ in self._retry_after and change.new is not None and view.state is State.PENDING:
                wrong_due(id_, change.new, self._retry_after[id_], self._policies, self._scribe)
        if self._forwarded != len(self._parts.forwarded):
            self._scribe.violated(f"{len(self._parts.forwarded)} events were passed on, {self._forwarded} should be")
        return frozenset(self._moved)

    # --- failures -----------------------------------------------------------------------------------------------

    def _failure(self, record: Entry, event: FailureEvent) -> None:
        id_, attempt = event.id, event.kind.attempt
        if self._passed_on(id_):
            return
        view = self._view(id_)
        if view is not None and view.group != event.kind.group:
            self._scribe.count("failures of another group's retry")
            if self._fold.lives[id_]:  # it was of our group, and taken over by the other's failure
                self._fold.unsure.add(own_id(event, record, view.origin))
            id_, attempt = own_id(event, record, view.origin), 0
            if self._passed_on(id_):
                return
            view = self._view(id_)
        self._heard(id_, attempt)
        if view is not None and view.doomed and self._purged_at_once(id_):
            self._fold.lives[id_] += 1
            self._fold.truth.happened(view.booked, Event.PURGED, presumed=False, escalates=False)
            view = None
        final = PERMANENT in event.kind.error_types
        if view is None:
            self._born(record, id_, event, attempt, final=final)
        elif attempt == view.attempt and view.state in (State.RETRYING, State.PRESUMED):
            spent = attempt - view.base + 1 > self._policies.for_queue(self._queue(id_)).max_retries
            self._retry_after[id_] = event.retry_after_ms
            self._move(record, id_, view, Event.FAILED_FINALLY if final or spent else Event.FAILED_AGAIN)
        else:
            self._ignore(id_, view, FAILED, Ignored.AHEAD if attempt > view.attempt else Ignored.DUPLICATE)

    def _born(self, record: Entry, id_: bytes, event: FailureEvent, attempt: int, *, final: bool) -> None:
        """A message without a row: new, or purged; then it goes on where it was."""
        if attempt:
            self._scribe.count("messages that go on after they were purged")
        change = self._changes.get(id_)
        booked = event.kind.queue if change is None or change.new is None else change.new.booked
        self._views[id_] = view = View(State.ABSENT, attempt, attempt, 0, event.kind.group, event.origin, booked, False)
        spent = self._policies.for_queue(event.kind.queue).max_retries == 0
        self._retry_after[id_] = event.retry_after_ms
        self._move(record, id_, view, Event.FAILED_FINALLY if final or spent else Event.FAILED_AGAIN)

    # --- commands -----------------------------------------------------------------------------------------------

    def _command(self, record: Entry, command: Succeeded | Order) -> None:
        id_ = command.id
        if self._passed_on(id_):
            return
        view = self._view(id_)
        if view is not None and view.doomed:
            view = None  # to commands it is gone
        if isinstance(command, Order):
            self._order(record, command, view)
            return
        self._heard(id_, command.attempt)
        if view is None:
            self._ignore(id_, None, SUCCEEDED, Ignored.ABSENT)
        elif command.attempt > view.attempt:
            self._ignore(id_, view, SUCCEEDED, Ignored.AHEAD)
        elif Event.SUCCEEDED in LIFECYCLE[view.state]:
            self._move(record, id_, view, Event.SUCCEEDED)
        else:
            self._ignore(id_, view, SUCCEEDED, Ignored.STATUS)

    def _order(self, record: Entry, order: Order, view: View | None) -> None:
        id_, event = order.id, order.action.event
        if view is None:
            self._ignore(id_, None, event.value, Ignored.ABSENT)
        elif order.revision != view.revision:
            self._ignore(id_, view, event.value, Ignored.REVISION)
        elif event not in LIFECYCLE[view.state]:
            self._ignore(id_, view, event.value, Ignored.STATUS)
        elif event is Event.PURGED and view.state is State.ESCALATED and not view.written:
            self._ignore(id_, view, event.value, Ignored.UNWRITTEN)
            self._fold.unsure.add(id_)  # once it is written, at the same revision, a replay of the order has an effect
        else:
            self._retry_after.pop(id_, None)  # what is due now goes by the order
            at_once = order.action is Action.RETRY  # the timer emits, at once: there is one way to emit
            self._move(record, id_, view, event, State.PENDING if at_once else None)

    # --- what follows -------------------------------------------------------------------------------------------

    def _view(self, id_: bytes) -> View | None:
        if id_ not in self._views:
            change = self._changes.get(id_)
            self._views[id_] = View.of(self._fold.messages.get(id_) if change is None else change.old)
        return self._views[id_]

    def _queue(self, id_: bytes) -> str:
        change = self._changes.get(id_)
        row = self._fold.messages.get(id_) if change is None else change.new or change.old
        return "" if row is None else row.queue

    def _purged_at_once(self, id_: bytes) -> bool:
        """Whether an order to purge, earlier in this transaction, left no row behind for a timer to delete."""
        change = self._changes.get(id_)
        if change is None or change.old is None or change.new is None:
            return False
        return PURGE_ORDERED_MS not in (change.old.closed_ms, change.new.closed_ms)

    def _heard(self, id_: bytes, attempt: int) -> None:
        if (id_, attempt) in self._fold.timed_out:
            self._scribe.count("outcomes heard after their time-out")

    def _passed_on(self, id_: bytes) -> bool:
        """Whether the event belongs elsewhere, and was sent there."""
        if home_of(id_) == self._number:
            return False
        self._forwarded += 1
        if id_ not in self._parts.forwarded:
            self._scribe.violated(f"consumed at {self._number}, but not passed on: {id_.hex()[:8]}")
        return True

    def _move(self, record: Entry, id_: bytes, view: View, event: Event, target: State | None = None) -> None:
        before, after = view.state, target or LIFECYCLE[view.state][event]
        self._scribe.cell(Cell(before, event, LIFECYCLE[before][event]))
        happened = Event.RESCHEDULED if event is Event.RETRY_NOW else event
        escalates = after is State.ESCALATED
        if after is not State.ABSENT or id_ not in self._fold.messages:  # else it is counted out once it is deleted
            self._fold.truth.happened(view.booked, happened, presumed=before is State.PRESUMED, escalates=escalates)
        self._moved.add(id_)
        if self._known_before and not self._fold.lives[id_] and id_ not in self._fold.unsure:
            self._scribe.violated(f"a replay changed something: {event} of {id_.hex()[:8]} by {record}")
        if after is State.ABSENT:
            view.doomed = True
            return
        view.state, view.doomed = after, False
        view.revision += 1
        if event is Event.REDRIVEN:
            view.base, view.written = view.attempt, False
        elif escalates:
            view.written = id_ in self._dead_letters

    def _ignore(self, id_: bytes, view: View | None, cause: str, why: Ignored) -> None:
        state = State.ABSENT if view is None else view.state
        self._scribe.cell(Cell(state, cause, why))
        self._fold.truth.ignored_event(PARTITION_QUEUE if view is None else view.booked, why)
        presumed = state is State.PRESUMED and cause == SUCCEEDED
        if why is Ignored.AHEAD or presumed:  # not remembered, and a failure may yet reopen what was presumed
            self._fold.unsure.add(id_)


def wrong_due(id_: bytes, row: Message, retry_after_ms: int | None, policies: Policies, scribe: Scribe) -> None:
    """A retry is due after its backoff, or when its reporter asked for it, by the clock of the worker."""
    policy, retry = policies.for_queue(row.queue), row.attempt - row.attempt_base + 1
    wait_ms = backoff_ms(policy, retry, chance_of(id_, row.attempt + 1)) if retry_after_ms is None else retry_after_ms
    if row.due_ms != row.last_failed_ms + wait_ms:
        scribe.violated(f"due {wait_ms} ms after {row.last_failed_ms}, but {id_.hex()[:8]} is {shown(row)}")


def own_id(event: FailureEvent, record: Entry, known: Origin) -> bytes:
    """The id of the reporting group's own message, where the id given is another group's."""
    coordinates = Origin(record.topic, record.partition, record.offset, record.timestamp)
    candidates = (event.origin, known, coordinates)
    return message_id(event.kind.group, next(origin for origin in candidates if origin.partition is not None))


def shown(row: Message | None) -> str:
    """A row in short."""
    if row is None:
        return "nothing"
    closed = "" if row.closed_ms is None else f" closed {row.closed_ms}"
    return f"{state_of(row)} #{row.attempt} r{row.revision} due {row.due_ms}{closed} {row.dead_letter}"
