"""The timer's work: whatever the due index says is due.

Three kinds of rows are in it: PENDING ones, whose retry is emitted; RETRYING ones, whose outcome did not come in time;
and ESCALATED ones that are not in their ``-dlq`` topic yet.  Sending and changing the row are one transaction.

Nothing that one row needs may hold up the others: a destination that nothing is known of is passed over, an unusable
one escalates its message, what is for one that does not answer is put off, what exceeds its queue's limit is given a
later slot, and a row that cannot be processed at all leaves the index with a ``stuck_reason``.
"""

from __future__ import annotations

from msgspec.structs import replace

from dlq_stream.core.backoff import chance_of
from dlq_stream.core.decide import Escalate, EscalationReason, Retry, decide
from dlq_stream.core.errors import DLQError, Refused, TooLarge, UnsupportedFormat
from dlq_stream.core.events import (
    MessageEscalated,
    MessageResolved,
    OutcomeTimedOut,
    RetryEmitted,
    RetryPaced,
    RetryPutOff,
    RowStuck,
)
from dlq_stream.core.lifecycle import Event
from dlq_stream.core.model import DLQMessageStatus, ErrorCategory
from dlq_stream.core.outgoing import Facts, emission_headers
from dlq_stream.core.policy import RetryPolicy
from dlq_stream.core.reasons import StuckReason
from dlq_stream.core.transaction import Transaction
from dlq_stream.engine.context import EmitResult, Engine
from dlq_stream.engine.dead_letters import deliver, topic_of
from dlq_stream.engine.fingerprint import fingerprint
from dlq_stream.engine.pacing import Pacing
from dlq_stream.engine.routes import Route, Routes
from dlq_stream.engine.sending import send_original
from dlq_stream.engine.turn import Budget, Turn, advance
from dlq_stream.tables import attempts, messages
from dlq_stream.tables.attempts import Attempt, attempt_key
from dlq_stream.tables.codec import UndecodableRow
from dlq_stream.tables.messages import Message
from dlq_stream.tables.spec import index_key

TIMEOUT_ERROR_TYPE = "OutcomeTimeout"
"""The error type of the attempt that stands for an outcome that did not come."""

PAGE_ROWS_MAX = 1_024
"""Index entries read at a time."""

LOOKS_PER_RECORD_MAX = 8
"""Entries looked at per call, as a multiple of the records that may be sent: how many can be passed over."""

UNKNOWN_RETRY_MS = 50
"""How soon rows are looked at again whose destination was not known."""

UNKNOWN_POSTPONED_MS = 1_000
"""How far rows with unknown destinations are put off where they are so many that they hide what stands behind them."""

UNAVAILABLE_PUT_OFF_MS = 30_000
"""How far a retry is put off whose destination does not answer; it costs none of its chances."""

STUCK_REASON_CHARS_MAX = 500
"""A longer text is cut; it begins with a `StuckReason`, which figures go by."""

_PENDING, _RETRYING = DLQMessageStatus.PENDING, DLQMessageStatus.RETRYING
_DUE = Event.DUE
"""Asked for once: naming a member of an enumeration takes ten times as long as comparing with it."""


def emit_due(tx: Transaction, engine: Engine, *, records_max: int, bytes_max: int) -> EmitResult:
    """Deal with what is due by ``tx.now_ms``, earliest first: at most ``records_max`` rows, ``bytes_max`` of records.

    The first record goes out whatever its size.  Nothing is emitted before it is due.
    """
    run = _Run(Turn(tx, engine), records_max, Budget(bytes_max))
    run.look()
    run.finish()
    return EmitResult(run.emitted, run.handled, run.next_due_ms(), run.more, frozenset(run.unknown))


class RecordMissing(DLQError):
    """The first attempt, which holds the original record, is not there."""


class _Run:
    """One look at the due index.

    Messages that input of the same transaction has changed are the next tick's: what comes in and what falls due do not
    both move a message at once, so that each transaction can be checked by its rows before and after.
    ``full``: a bound was reached with work left.  ``due_again``: a row that was dealt with is due again at once, such
    as a timed-out one without backoff, or an escalated one whose topic has to be looked up.  ``left``: something is due
    that is the next tick's.
    """

    def __init__(self, turn: Turn, records_max: int, budget: Budget) -> None:
        self.turn = turn
        self.emitted = 0
        self.handled = 0
        self.full = False
        self.due_again = False
        self.left = False
        self.unknown: set[str] = set()
        self._taken_in = turn.tx.written("messages")
        self._records_max = records_max
        self._budget = budget
        self._looks_left = LOOKS_PER_RECORD_MAX * records_max
        self._passed_over: list[tuple[bytes, Message]] = []
        self._routes = Routes(turn)
        self._pacing = Pacing(turn)

    @property
    def more(self) -> bool:
        """Whether there is more to do at once."""
        return self.full or self.due_again

    def next_due_ms(self) -> int | None:
        """When to look again; at once where something is left, which spares looking for what comes after it."""
        now_ms = self.turn.now_ms
        if self.more or self.left:
            return now_ms
        next_due_ms = messages.next_due_ms(self.turn.tx, now_ms)
        if self.unknown:
            soon = now_ms + UNKNOWN_RETRY_MS
            return soon if next_due_ms is None else min(next_due_ms, soon)
        return next_due_ms

    def look(self) -> None:
        """Page through what is due until it ends or a bound is reached."""
        after = b""
        while not self.full:
            # One more than may be handled tells that there is more.
            limit = min(PAGE_ROWS_MAX, self._looks_left, self._records_max - self.handled + 1)
            page = messages.due_until(self.turn.tx, self.turn.now_ms, limit, after)
            self._page(page)
            if len(page) < limit:
                break
            after = index_key(b"", *page[-1])
            self._looks_left -= len(page)
            if self._looks_left <= 0:
                self._postpone()
                break

    def finish(self) -> None:
        """Write the figures, last."""
        self._pacing.save()
        self.turn.finish()

    def _page(self, page: list[tuple[int, bytes]]) -> None:
        """Choose what the bounds allow, read the records of all that in one call, then deal with each row."""
        tx = self.turn.tx
        stored = tx.get_many("messages", [message_id for _, message_id in page])
        chosen: list[tuple[bytes, Message, bytes]] = []
        for due_ms, message_id in page:
            if message_id in self._taken_in:
                self.left = True
                continue
            row = self._row(message_id, due_ms, stored[message_id])
            if row is None or self._must_wait(message_id, row):
                continue
            if self.handled + len(chosen) >= self._records_max:
                self.full = True
                break
            needed = _may_need_record(row)
            if needed and not self._budget.affords(row.record_bytes):
                self.full = True
                break
            if self._is_paced(message_id, row):
                continue
            if needed:
                self._budget.spend(row.record_bytes)
            chosen.append((message_id, row, attempt_key(message_id, row.first_attempt)))
        records = tx.get_many("attempts", [key for _, row, key in chosen if row.status is _PENDING])
        for message_id, row, key in chosen:
            self._handle(message_id, row, records.get(key))

    def _row(self, message_id: bytes, due_ms: int, raw: bytes | None) -> Message | None:
        """The row that an index entry stands for, if it still says so and can be read."""
        if raw is None:
            return None
        try:
            row = messages.codec.decode(raw)
        except UndecodableRow as error:
            self._stick(message_id, messages.salvage(raw), error)
            return None
        return row if row.due_ms == due_ms else None

    def _must_wait(self, message_id: bytes, row: Message) -> bool:
        """Whether the row's destination has to be looked up first."""
        if row.status is _PENDING:
            route = self._routes.of(row)
            if route.destination is not None or route.unusable is not None:
                return False
            topic = route.target
        elif row.status is _RETRYING:
            return False
        else:
            dead_letters = topic_of(row, self.turn.engine)
            if dead_letters is None or self.turn.tx.destination(dead_letters) is not None:
                return False
            topic = dead_letters
        self.unknown.add(topic)
        self._passed_over.append((message_id, row))
        return True

    def _is_paced(self, message_id: bytes, row: Message) -> bool:
        """Whether the row is a retry that its queue's limit holds back; it then has its slot."""
        if row.status is not _PENDING:
            return False
        route = self._routes.of(row)
        slot_ms = self._pacing.slot_ms(row, route.policy) if route.open else None
        if slot_ms is None:
            return False
        self.handled += 1
        self._write(message_id, row, replace(row, due_ms=slot_ms, slot_ms=slot_ms), None)
        self.turn.seen.append(RetryPaced(message_id, row.queue, slot_ms))
        return True

    def _postpone(self) -> None:
        """Put off the rows passed over, so that those behind them get their turn."""
        self.full = bool(self._passed_over)
        for message_id, row in self._passed_over:
            later = replace(row, due_ms=self.turn.now_ms + UNKNOWN_POSTPONED_MS)
            messages.change(self.turn.tx, message_id, row, later)

    def _policy(self, row: Message) -> RetryPolicy:
        return self.turn.engine.policies.for_queue(row.queue)

    # --- one row ----------------------------------------------------------------------------------------------------

    def _handle(self, message_id: bytes, row: Message, raw: bytes | None) -> None:
        turn = self.turn
        mark, seen = turn.tx.mark(), len(turn.seen)
        self.handled += 1
        try:
            if row.status is _PENDING:
                self._emit(message_id, row, raw)
            elif row.status is _RETRYING:
                self._time_out(message_id, row)
            else:
                self._write(message_id, row, deliver(turn, message_id, row), None)
        except UnsupportedFormat:
            raise
        except Exception as error:
            turn.tx.rollback(mark)
            del turn.seen[seen:]
            self._stick(message_id, row, error)

    def _stick(self, message_id: bytes, row: Message, error: Exception) -> None:
        """Take the row out of the due index, with its status; an operator's command brings it back."""
        name, reason = type(error).__name__, _why_stuck(error)
        text = f"{reason}: {name}: {error}"[:STUCK_REASON_CHARS_MAX]
        self._write(message_id, row, replace(row, due_ms=None, stuck_reason=text), None)
        self.turn.seen.append(RowStuck(message_id, row.queue, reason, name))

    def _write(self, message_id: bytes, old: Message, new: Message, event: Event | None) -> None:
        messages.change(self.turn.tx, message_id, old, new)
        self.turn.book.changed(old, new, event)
        if new.due_ms is not None and new.due_ms <= self.turn.now_ms:
            self.due_again = True

    def _emit(self, message_id: bytes, row: Message, raw: bytes | None) -> None:
        """PENDING and due: write the original record to its target, or give the message up where that is unusable."""
        if raw is None:
            raise RecordMissing("the first attempt, which holds the original record, is missing")
        first = attempts.codec.decode(raw)
        route = self._routes.of(row)
        if route.away:
            self._put_off(message_id, row, route.target)
            return
        unusable = route.unusable or self._send(message_id, row, first, route)
        if unusable is not None:
            self._give_up(message_id, row, row, Event.REFUSED, *unusable)
            return
        now = self.turn.now_ms
        new = advance(row, _DUE, attempt=row.attempt + 1, due_ms=now + route.policy.outcome_timeout_ms)
        self._write(message_id, row, new, _DUE)
        self.emitted += 1
        late_ms = now - (row.due_ms or now)
        self.turn.seen.append(RetryEmitted(message_id, row.queue, new.attempt, route.target, late_ms))

    def _put_off(self, message_id: bytes, row: Message, target: str) -> None:
        due_ms = self.turn.now_ms + UNAVAILABLE_PUT_OFF_MS
        self._write(message_id, row, replace(row, due_ms=due_ms), None)
        self.turn.seen.append(RetryPutOff(message_id, row.queue, target, due_ms))

    def _send(
        self, message_id: bytes, row: Message, first: Attempt, route: Route
    ) -> tuple[EscalationReason, str] | None:
        """Stage the retry; returns why the target is unusable where it is."""
        assert route.destination is not None, "rows whose destination is not known are passed over"
        headers = emission_headers(first.headers, _facts(message_id, row))
        try:
            send_original(self.turn.tx, route.destination, row, first, headers)
        except TooLarge as error:
            return EscalationReason.TOO_LARGE, str(error)
        except Refused as error:
            return EscalationReason.RECORD_REFUSED, str(error)
        return None

    def _time_out(self, message_id: bytes, row: Message) -> None:
        """RETRYING past its deadline: a failure where the consumer would have said so, else a success."""
        turn = self.turn
        if not row.outcomes_reported:
            event = Event.PRESUMED_RESOLVED
            self._write(message_id, row, advance(row, event, due_ms=None, closed_ms=turn.now_ms), event)
            turn.seen.append(MessageResolved(message_id, row.queue, row.attempt, "presumed"))
            return
        text = "no outcome was reported in time"
        attempt = Attempt((TIMEOUT_ERROR_TYPE,), text, ErrorCategory.TRANSIENT, "", turn.now_ms, group=row.group)
        attempts.put(turn.tx, message_id, row.attempt, attempt)
        attempts.trim(turn.tx, message_id, row.first_attempt, row.attempt, turn.engine.attempts_kept_max)
        turn.seen.append(OutcomeTimedOut(message_id, row.queue, row.attempt))
        outcome = self._decide_time_out(message_id, row)
        failed = replace(
            row,
            category=ErrorCategory.TRANSIENT,
            error_type=TIMEOUT_ERROR_TYPE,
            fingerprint=fingerprint(TIMEOUT_ERROR_TYPE, text),
            last_failed_ms=turn.now_ms,
        )
        if isinstance(outcome, Retry):
            new = advance(failed, Event.TIMED_OUT_AGAIN, due_ms=outcome.due_ms)
            self._write(message_id, row, new, Event.TIMED_OUT_AGAIN)
        else:
            self._give_up(message_id, row, failed, Event.TIMED_OUT_FINALLY, outcome.reason, "")

    def _decide_time_out(self, message_id: bytes, row: Message) -> Retry | Escalate:
        return decide(
            self._policy(row),
            ErrorCategory.TRANSIENT,
            attempt=row.attempt,
            attempt_base=row.attempt_base,
            now_ms=self.turn.now_ms,
            since_ms=row.allowance_from_ms,
            chance=chance_of(message_id, row.attempt + 1),
            error_types=(TIMEOUT_ERROR_TYPE,),
        )

    def _give_up(
        self,
        message_id: bytes,
        old: Message,
        row: Message,
        event: Event,
        reason: EscalationReason,
        detail: str,
    ) -> None:
        self.turn.seen.append(MessageEscalated(message_id, row.queue, row.attempt, reason, detail))
        new = advance(row, event, due_ms=None, reason=reason.value, detail=detail)
        self._write(message_id, old, deliver(self.turn, message_id, new), event)


def _why_stuck(error: Exception) -> StuckReason:
    if isinstance(error, RecordMissing):
        return StuckReason.RECORD_MISSING
    return StuckReason.UNDECODABLE if isinstance(error, UndecodableRow) else StuckReason.UNEXPECTED


def _may_need_record(row: Message) -> bool:
    """Whether dealing with the row may take its original record: all but the time-out of a silent consumer."""
    return row.status is not _RETRYING or row.outcomes_reported


def _facts(message_id: bytes, row: Message) -> Facts:
    """What a retry says of itself.  The category stays out: it would come back as the reporter's own word."""
    return Facts(
        id=message_id,
        queue=row.queue,
        attempt=row.attempt + 1,
        group=row.group,
        origin=row.origin,
        error_types=(row.error_type,) if row.error_type else (),
        first_failed_at=row.created_ms,
        due_at=row.due_ms,
        retry_topic=row.retry_topic or None,
    )
