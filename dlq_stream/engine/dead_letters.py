"""The ``-dlq`` record of a message that was given up.

It goes out in the transaction that escalates.  Where it cannot, the message waits in the due index for the next try
(`DeadLetter.WAITING`), with the reason in its row; a record that can never be written leaves it ESCALATED for good
(`DeadLetter.IMPOSSIBLE`).  Nothing is dropped, and retention does not take what was not written.  The reason begins
with an `UnwrittenReason`, which figures and logs go by; the brokers' own words follow where there are any.

None of this is a transition: the status is ESCALATED before and after, and the revision stays.
"""

from __future__ import annotations

from msgspec.structs import replace

from dlq_stream.core.destinations import dead_letter_topic, is_legal_topic, refusal_of_name
from dlq_stream.core.errors import Refused, TooLarge
from dlq_stream.core.events import DeadLetterDelayed, DeadLetterWritten
from dlq_stream.core.outgoing import Facts, dead_letter_headers
from dlq_stream.core.reasons import UnwrittenReason
from dlq_stream.core.transaction import Destination
from dlq_stream.engine.context import Engine
from dlq_stream.engine.sending import send_original
from dlq_stream.engine.turn import Turn
from dlq_stream.tables.attempts import Attempt, attempt_key
from dlq_stream.tables.attempts import codec as attempt_codec
from dlq_stream.tables.messages import DeadLetter, Message

BACKOFF_MS_FIRST = 1_000
BACKOFF_MS_MAX = 300_000
"""Pauses between tries to write a ``-dlq`` record: doubling from the first to the last."""

_Outcome = tuple[DeadLetter, str]


def topic_of(row: Message, engine: Engine) -> str | None:
    """The topic of the row's ``-dlq`` record, None where its name alone rules the record out for now."""
    topic = dead_letter_topic(row.origin_topic)
    return None if _refusal_of_name(row, topic, engine) else topic


def escalate(
    turn: Turn,
    message_id: bytes,
    row: Message,
    first: Attempt | None = None,
    latest: Attempt | None = None,
) -> Message:
    """`deliver` if the turn's budget affords it, else leave the record to the timer, at once."""
    if not turn.dead_letters.affords(row.record_bytes):
        return _waiting(row, UnwrittenReason.DEFERRED, turn.now_ms, row.dead_letter_tries)
    row = deliver(turn, message_id, row, first, latest)
    if row.dead_letter is DeadLetter.WRITTEN:
        turn.dead_letters.spend(row.record_bytes)
    return row


def deliver(
    turn: Turn, message_id: bytes, row: Message, first: Attempt | None = None, latest: Attempt | None = None
) -> Message:
    """Try to write the record of an ESCALATED row; returns the row with what became of it.

    ``first`` (which holds the original record) and ``latest`` are the attempts, where the caller has them at hand.
    """
    topic = dead_letter_topic(row.origin_topic)
    outcome, reason = _try(turn, message_id, row, topic, first, latest)
    if outcome is DeadLetter.WRITTEN:
        turn.seen.append(DeadLetterWritten(message_id, row.queue, topic))
        return replace(row, dead_letter=outcome, dead_letter_reason="", due_ms=None, closed_ms=turn.now_ms)
    if outcome is DeadLetter.IMPOSSIBLE:
        turn.seen.append(DeadLetterDelayed(message_id, row.queue, topic, UnwrittenReason.of(reason), None))
        return replace(row, dead_letter=outcome, dead_letter_reason=reason, due_ms=None, closed_ms=None)
    if reason == UnwrittenReason.UNKNOWN:
        return _waiting(row, reason, turn.now_ms, row.dead_letter_tries)
    due_ms = turn.now_ms + backoff_ms(row.dead_letter_tries)
    turn.seen.append(DeadLetterDelayed(message_id, row.queue, topic, UnwrittenReason.of(reason), due_ms))
    return _waiting(row, reason, due_ms, row.dead_letter_tries + 1)


def _waiting(row: Message, reason: str, due_ms: int, tries: int) -> Message:
    return replace(
        row,
        dead_letter=DeadLetter.WAITING,
        dead_letter_reason=reason,
        dead_letter_tries=tries,
        due_ms=due_ms,
        closed_ms=None,
    )


def backoff_ms(tries: int) -> int:
    """How long to wait after the first try (0), the second, and so on."""
    return min(BACKOFF_MS_FIRST << min(tries, 16), BACKOFF_MS_MAX)


def _try(
    turn: Turn, message_id: bytes, row: Message, topic: str, first: Attempt | None, latest: Attempt | None
) -> _Outcome:
    destination = _destination(turn, row, topic)
    if not isinstance(destination, Destination):
        return destination
    if first is None:
        first, latest = _read(turn, message_id, row)
    if first is None or not first.has_record:
        return DeadLetter.IMPOSSIBLE, UnwrittenReason.RECORD_MISSING
    facts = _facts(message_id, row, first if latest is None else latest)
    try:
        send_original(turn.tx, destination, row, first, dead_letter_headers(first.headers, facts, row.reason))
    except TooLarge:
        return DeadLetter.IMPOSSIBLE, UnwrittenReason.TOO_LARGE
    except Refused as error:
        return DeadLetter.IMPOSSIBLE, str(error)
    return DeadLetter.WRITTEN, ""


def _destination(turn: Turn, row: Message, topic: str) -> Destination | _Outcome:
    """Where the record may go now, or what is in the way."""
    refused = _refusal_of_name(row, topic, turn.engine)
    if refused is not None:
        return refused
    destination = turn.tx.destination(topic)
    if destination is None:
        return DeadLetter.WAITING, UnwrittenReason.UNKNOWN
    if destination.refusal is not None:
        return DeadLetter.WAITING, destination.refusal
    return destination


def _refusal_of_name(row: Message, topic: str, engine: Engine) -> _Outcome | None:
    if not is_legal_topic(topic):
        return DeadLetter.IMPOSSIBLE, UnwrittenReason.INVALID_NAME
    if refusal_of_name(row.origin_topic, app_id=engine.app_id, allowed=engine.allowed_topics):
        return DeadLetter.WAITING, UnwrittenReason.FORBIDDEN  # by today's settings
    return None


def _read(turn: Turn, message_id: bytes, row: Message) -> tuple[Attempt | None, Attempt | None]:
    """The first attempt, and the latest that was recorded: an operator may give up a delivery that nobody reported."""
    numbers = (row.first_attempt, row.attempt, max(row.attempt - 1, row.first_attempt))
    keys = [attempt_key(message_id, number) for number in numbers]
    found = turn.tx.get_many("attempts", set(keys))
    first, *latest = (None if (raw := found[key]) is None else attempt_codec.decode(raw) for key in keys)
    return first, next((attempt for attempt in latest if attempt is not None), None)


def _facts(message_id: bytes, row: Message, latest: Attempt) -> Facts:
    return Facts(
        id=message_id,
        queue=row.queue,
        attempt=row.attempt,
        group=row.group,
        origin=row.origin,
        error_types=latest.error_types,
        error_message=latest.error_message,
        error_stacktrace=latest.stacktrace,
        cause_types=latest.cause_types,
        category=latest.category,
        failed_at=latest.failed_at,
        first_failed_at=row.created_ms,
        metadata=latest.metadata,
    )
