"""Intake: what a batch of failure events does to the messages of one partition.

Each event is staged behind a mark; whatever it raises, it alone is rolled back and quarantined.  Delivery is at least
once and in any order, so most of this module is about telling news from repetition; what is news is decided by the
policy and written as two rows, the message and the attempt.

This is the hot path: rows of a batch are read in one call, rules and verdicts are looked up once per queue and topic,
rows are decoded only where there are any, and nothing is built that is not written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from dlq_stream.core.classification import Decision
from dlq_stream.core.decide import Escalate, Retry
from dlq_stream.core.destinations import refusal_of_name, refusal_of_retry_topic
from dlq_stream.core.errors import MalformedEvent
from dlq_stream.core.events import EventIgnored, FailureStored, MessageEscalated
from dlq_stream.core.headers import (
    ATTEMPT,
    GROUP,
    MESSAGE_ID,
    ORIGINAL_OFFSET,
    ORIGINAL_PARTITION,
    ORIGINAL_TIMESTAMP,
    ORIGINAL_TOPIC,
    RETRY_TOPIC,
    FailureEvent,
    FailureKind,
    parse_failure,
)
from dlq_stream.core.ids import message_id, origins_agree, partition_of
from dlq_stream.core.lifecycle import LIFECYCLE, Event, Ignored, Standing, State, standing
from dlq_stream.core.model import Headers, Origin, Record
from dlq_stream.core.policy import RetryPolicy
from dlq_stream.core.transaction import Transaction
from dlq_stream.engine.context import Engine
from dlq_stream.engine.dead_letters import escalate
from dlq_stream.engine.fingerprint import fingerprint
from dlq_stream.engine.forwarding import forward_failure, forward_misplaced, ours_of
from dlq_stream.engine.quarantine import each_or_quarantine, understood
from dlq_stream.engine.rules import QueueRules
from dlq_stream.engine.targets import target_of
from dlq_stream.engine.turn import Turn, advance
from dlq_stream.tables import attempts, messages
from dlq_stream.tables.attempts import Attempt, attempt_key
from dlq_stream.tables.messages import Message, state_of

ERROR_TYPE_CHARS_MAX = 200
"""So much of an error type's name is kept in the hot row; the attempt holds all of it."""

_FIRST_PENDING = LIFECYCLE[State.ABSENT][Event.FAILED_AGAIN].status
_FIRST_ESCALATED = LIFECYCLE[State.ABSENT][Event.FAILED_FINALLY].status
_FAILED_AGAIN = Event.FAILED_AGAIN
"""Asked for once: naming a member of an enumeration takes ten times as long as comparing with it."""


def apply_failures(tx: Transaction, records: Sequence[Record], engine: Engine) -> None:
    """Stage what these failure events change, on the partition that they arrived on.

    Called more than once for a transaction, each call is a step.  Raises nothing that an event is to blame for.
    `UnsupportedFormat` (this worker is too old) gets through.
    """
    turn = Turn.of(tx, engine)
    ours = ours_of(turn, understood(turn, records, _reader(engine)), forward_misplaced)
    intake = _Intake(turn, {event.id for _, event in ours})
    each_or_quarantine(turn, ours, intake.apply)


def _reader(engine: Engine) -> Callable[[Record], FailureEvent]:
    """Parses, and checks the names of each kind once."""
    checked: set[FailureKind] = set()

    def read(record: Record) -> FailureEvent:
        event = parse_failure(record)
        if event.kind not in checked:
            _check_names(event.kind, engine)  # before it is passed on: quarantine keeps it as it was received
            checked.add(event.kind)
        return event

    return read


def _check_names(kind: FailureKind, engine: Engine) -> None:
    """Raise `MalformedEvent` where the event names a topic that we do not write to."""
    app_id, allowed = engine.app_id, engine.allowed_topics
    refusal = refusal_of_name(kind.topic, app_id=app_id, allowed=allowed)
    if refusal is not None:
        raise MalformedEvent(f"{ORIGINAL_TOPIC}: {refusal}")
    if kind.retry_topic is not None:
        refusal = refusal_of_retry_topic(kind.retry_topic, kind.topic, app_id=app_id, allowed=allowed)
        if refusal is not None:
            raise MalformedEvent(f"{RETRY_TOPIC}: {refusal}")


class _Firsts(NamedTuple):
    """What first failures of a kind have in common: the rules of their queue, the error, and most of the row.

    ``decision`` is None where the message has a say in it.
    """

    rules: QueueRules
    decision: Decision | None
    error_type: str
    row: Message


class _Intake:
    """The events of one step that belong here.  Its caches hold only what was staged and not rolled back."""

    def __init__(self, turn: Turn, ids: Iterable[bytes]) -> None:
        self._turn = turn
        self._stored = turn.tx.get_many("messages", list(ids))
        self._rows: dict[bytes, Message | None] = {}
        self._rules: dict[str, QueueRules] = {}
        self._firsts: dict[FailureKind, _Firsts] = {}
        self._asked: set[str] = set()

    def apply(self, record: Record, event: FailureEvent) -> None:
        row = self._row(event.id)
        if row is not None:
            if not origins_agree(row.origin, event.origin):
                raise MalformedEvent(f"{MESSAGE_ID}: {event.id.hex()} is the id of another record's failure")
            if row.group != event.kind.group:
                self._other_group(record, event, row)
            else:
                self._again(event, row)
        else:
            self._first(event)

    # --- looking up -------------------------------------------------------------------------------------------------

    def _row(self, id_: bytes) -> Message | None:
        if id_ in self._rows:
            return self._rows[id_]
        if id_ not in self._stored:
            self._stored.update(self._turn.tx.get_many("messages", (id_,)))
        raw = self._stored[id_]
        return None if raw is None else messages.codec.decode(raw)

    def _rules_of(self, queue: str) -> QueueRules:
        rules = self._rules.get(queue)
        if rules is None:
            turn = self._turn
            policy = turn.engine.policies.for_queue(queue)
            rules = QueueRules(policy, turn.engine.classifier_for(policy), turn.book.booked_as(queue), turn.now_ms)
            self._rules[queue] = rules
        return rules

    def _firsts_of(self, kind: FailureKind) -> _Firsts:
        firsts = self._firsts.get(kind)
        if firsts is None:
            rules, error_type, now = self._rules_of(kind.queue), _error_type(kind), self._turn.now_ms
            row = Message(
                status=_FIRST_PENDING,
                due_ms=None,
                created_ms=now,
                closed_ms=None,
                queue=kind.queue,
                booked_as=rules.booked_as,
                group=kind.group,
                origin_topic=kind.topic,
                attempt=kind.attempt,
                attempt_base=kind.attempt,
                first_attempt=kind.attempt,
                error_type=error_type[:ERROR_TYPE_CHARS_MAX],
                last_failed_ms=now,
                allowance_from_ms=now,
                retry_topic=kind.retry_topic or "",
                outcomes_reported=kind.outcomes_reported,
            )
            firsts = self._firsts[kind] = _Firsts(rules, rules.decided(kind), error_type, row)
        return firsts

    # --- the cases --------------------------------------------------------------------------------------------------

    def _other_group(self, record: Record, event: FailureEvent, row: Message) -> None:
        """A group failed on the retry of another group's message: that is a message of its own.

        Its number is 0 whatever delivery this was: deliveries are counted per message, and the other's count says
        nothing about this one.  So the next retries of the other group are repetitions here.
        """
        known_from = next((origin for origin in (event.origin, row.origin) if origin.partition is not None), None)
        coordinates = known_from or Origin(record.topic, record.partition, record.offset, record.timestamp)
        group = event.kind.group
        own = event._replace(
            id=message_id(group, coordinates), kind=event.kind._replace(attempt=0), origin=known_from or event.origin
        )
        target = partition_of(own.id, self._turn.tx.partitions)
        if target != self._turn.tx.partition:
            forward_failure(self._turn, record, own, target, _as_its_own(own))
            return
        known = self._row(own.id)
        if known is None:
            self._first(own)
        elif known.group == group and origins_agree(known.origin, own.origin):
            self._again(own, known)
        else:
            raise MalformedEvent(f"{GROUP}: the id of this group's own message {own.id.hex()} belongs to another one")

    def _first(self, event: FailureEvent) -> None:
        """No row: a new message, or one that was purged; then it goes on with the event's number."""
        turn, origin = self._turn, event.origin
        rules, decided, error_type, row = self._firsts_of(event.kind)
        decision = decided or rules.classify(event)
        outcome = rules.after_first(event, decision.category)
        attempt = _attempt_of(event, decision, turn.now_ms, has_record=True)
        encoded = attempts.codec.encode(attempt)
        retry = isinstance(outcome, Retry)
        row = replace(
            row,
            status=_FIRST_PENDING if retry else _FIRST_ESCALATED,
            due_ms=outcome.due_ms if isinstance(outcome, Retry) else None,
            origin_partition=origin.partition,
            origin_offset=origin.offset,
            origin_timestamp=origin.timestamp,
            category=decision.category,
            fingerprint=fingerprint(error_type, event.error_message),
            record_bytes=len(encoded),
        )
        turn.tx.put("attempts", attempt_key(event.id, row.attempt), encoded)
        self._store(event.id, None, row, attempt, attempt, outcome, rules)

    def _again(self, event: FailureEvent, row: Message) -> None:
        """A row: the failure of its latest delivery is news, any other is counted and ignored."""
        turn, state, kind = self._turn, state_of(row), event.kind
        stands = standing(state, row.attempt, kind.attempt)
        if stands is not Standing.CURRENT:
            why = Ignored(stands.value)
            turn.book.ignored(row, why)
            turn.seen.append(EventIgnored(event.id, row.queue, "failure", why))
            return
        rules, error_type = self._rules_of(row.queue), _error_type(kind)
        decision = rules.classify(event)
        outcome = rules.after_another(event, decision.category, row)
        new = advance(
            row,
            Event.FAILED_AGAIN if isinstance(outcome, Retry) else Event.FAILED_FINALLY,
            due_ms=outcome.due_ms if isinstance(outcome, Retry) else None,
            closed_ms=None,
            category=decision.category,
            error_type=error_type[:ERROR_TYPE_CHARS_MAX],
            fingerprint=fingerprint(error_type, event.error_message),
            last_failed_ms=turn.now_ms,
            retry_topic=kind.retry_topic or row.retry_topic,
            outcomes_reported=kind.outcomes_reported,
        )
        attempt = _attempt_of(event, decision, turn.now_ms, has_record=False)
        attempts.put(turn.tx, event.id, kind.attempt, attempt)
        attempts.trim(turn.tx, event.id, row.first_attempt, kind.attempt, turn.engine.attempts_kept_max)
        self._store(event.id, row, new, None, attempt, outcome, rules)

    # --- deciding and writing ---------------------------------------------------------------------------------------

    def _store(
        self,
        id_: bytes,
        old: Message | None,
        new: Message,
        first: Attempt | None,
        latest: Attempt,
        outcome: Retry | Escalate,
        rules: QueueRules,
    ) -> None:
        """Write the row, after its ``-dlq`` record where it was given up; book it once nothing can fail any more."""
        turn = self._turn
        if isinstance(outcome, Retry):
            event = _FAILED_AGAIN
            self._ask(new, rules.policy)
            reopened = old is not None and old.presumed
            turn.seen.append(
                FailureStored(
                    id_, new.queue, new.attempt, new.error_type, latest.category, latest.rule, outcome.due_ms, reopened
                )
            )
        else:
            event = Event.FAILED_FINALLY
            new = replace(new, reason=outcome.reason.value, detail=latest.rule)
            turn.seen.append(MessageEscalated(id_, new.queue, new.attempt, outcome.reason, latest.rule))
            new = escalate(turn, id_, new, first, latest)
        messages.change(turn.tx, id_, old, new)
        self._rows[id_] = new
        turn.book.changed(old, new, event)

    def _ask(self, row: Message, policy: RetryPolicy) -> None:
        """Have the retry's target looked up now, so that it is known by the time it is needed."""
        target = target_of(row, policy)
        if target not in self._asked:
            self._asked.add(target)
            self._turn.tx.destination(target)


def _error_type(kind: FailureKind) -> str:
    return kind.error_types[0] if kind.error_types else ""


def _attempt_of(event: FailureEvent, decision: Decision, now_ms: int, *, has_record: bool) -> Attempt:
    kind = event.kind
    return Attempt(
        error_types=kind.error_types,
        error_message=event.error_message,
        category=decision.category,
        rule=decision.rule,
        recorded_ms=now_ms,
        failed_at=event.failed_at,
        group=kind.group,
        cause_types=kind.cause_types,
        stacktrace=event.error_stacktrace,
        metadata=event.metadata,
        has_record=has_record,
        key=event.key if has_record else None,
        value=event.value if has_record else None,
        headers=event.headers if has_record else (),
    )


def _as_its_own(event: FailureEvent) -> Headers:
    """The headers by which an event of another group's message says what it is to its own message."""
    origin = event.origin
    numbers = [(ATTEMPT, event.kind.attempt)]
    if origin.partition is not None and origin.offset is not None and origin.timestamp is not None:
        numbers += [
            (ORIGINAL_PARTITION, origin.partition),
            (ORIGINAL_OFFSET, origin.offset),
            (ORIGINAL_TIMESTAMP, origin.timestamp),
        ]
    return tuple((name, b"%d" % number) for name, number in numbers)
