"""The headers of what we write: retries, dead letters, failure events, and events passed on or put into quarantine.

The user's headers come first, as they came; ours follow.  Ours are replaced at each hop, never appended, so that a
message that went round ten times carries each of them once.  Where a record would grow beyond what its target takes,
`fit` drops what only describes before what identifies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from dlq_stream.core import headers as names
from dlq_stream.core.headers import FORWARDED_YES, OUTCOMES_REPORTED, OWN_HEADERS, FailureEvent, record_size
from dlq_stream.core.model import ErrorCategory, Headers, Origin, Record

quarantine_reason_chars_max = 1_000
"""A longer reason is cut."""

names_cached_max = 1_024
"""So many names of queues, groups and topics are remembered encoded."""

DESCRIPTIVE: tuple[tuple[str, ...], ...] = (
    (names.ERROR_STACKTRACE,),
    (names.METADATA,),
    (names.ERROR_MESSAGE,),
    (names.ERROR_CAUSE_TYPE,),
    (names.ERROR_TYPE,),
    (names.FAILED_AT, names.FIRST_FAILED_AT, names.DUE_AT),
    (names.CATEGORY,),
)
"""Headers that may be missing anywhere, in the order in which they are dropped; what is in one line goes together."""

OPTIONAL: tuple[tuple[str, ...], ...] = (
    *DESCRIPTIVE,
    (names.ESCALATION_REASON,),
    (names.RETRY_TOPIC,),
    # A partial origin would be malformed when it comes back with the next failure.
    (names.ORIGINAL_PARTITION, names.ORIGINAL_OFFSET, names.ORIGINAL_TIMESTAMP),
    (names.ORIGINAL_TOPIC,),
)
"""The same for retries and dead letters, which need no more than id, attempt, group and queue."""

_FIXED_BY_FORWARDING = frozenset((names.MESSAGE_ID, names.ORIGINAL_KEY, names.FORWARDED))


class Facts(NamedTuple):
    """What our headers say of a message.  What is None or empty is left out, except the group.

    ``attempt`` is the delivery that the record is (a retry) or was (a failure, a dead letter).  Times are epoch
    milliseconds.
    """

    id: bytes
    queue: str
    attempt: int
    group: str
    origin: Origin
    error_types: Sequence[str] = ()
    error_message: str = ""
    error_stacktrace: bytes = b""
    cause_types: Sequence[str] = ()
    category: ErrorCategory | None = None
    failed_at: int | None = None
    first_failed_at: int | None = None
    due_at: int | None = None
    retry_topic: str | None = None
    metadata: bytes | None = None


def emission_headers(user: Headers, facts: Facts) -> Headers:
    """The headers of a retry: the original record's and ours."""
    return (*_foreign(user), *_of(facts))


def dead_letter_headers(user: Headers, facts: Facts, reason: str) -> Headers:
    """The headers of a ``-dlq`` record: those of a retry, and why the message was given up."""
    return (*_foreign(user), *_of(facts), (names.ESCALATION_REASON, _encoded(reason)))


def failure_headers(
    user: Headers,
    facts: Facts,
    *,
    original_key: bytes | None,
    outcomes_reported: bool = False,
    retry_after_ms: int | None = None,
) -> Headers:
    """The headers of a failure event, which `dlq_stream.core.headers.parse_failure` reads back."""
    ours = _of(facts)
    ours.append((names.ORIGINAL_KEY, original_key))
    if outcomes_reported:
        ours.append((names.OUTCOMES, OUTCOMES_REPORTED))
    if retry_after_ms is not None:
        ours.append((names.RETRY_AFTER_MS, b"%d" % retry_after_ms))
    return (*_foreign(user), *ours)


def fixed_for_forwarding(record: Record, event: FailureEvent) -> Headers:
    """The headers of an event that is passed on to its own partition: as received, with its id and key written down.

    Both could otherwise be derived differently there: the key of the record that is passed on is the id.
    """
    kept = (header for header in record.headers if header[0] not in _FIXED_BY_FORWARDING)
    return (
        *kept,
        (names.MESSAGE_ID, event.id.hex().encode()),
        (names.ORIGINAL_KEY, event.key),
        (names.FORWARDED, FORWARDED_YES),
    )


def quarantine_headers(record: Record, reason: str) -> Headers:
    """The headers of a record in quarantine: all as received, then why it is there and where it came from."""
    kept = (header for header in record.headers if header[0] not in names.QUARANTINE_HEADERS)
    return (
        *kept,
        (names.QUARANTINE_REASON, _encoded(reason[:quarantine_reason_chars_max])),
        (names.QUARANTINE_TOPIC, _encoded(record.topic)),
        (names.QUARANTINE_PARTITION, b"%d" % record.partition),
        (names.QUARANTINE_OFFSET, b"%d" % record.offset),
    )


def fit(
    headers: Headers,
    key: bytes | None,
    value: bytes | None,
    record_bytes_max: int,
    *,
    droppable: Sequence[tuple[str, ...]] = OPTIONAL,
) -> Headers | None:
    """The headers without as many of ours, in the order of ``droppable``, as it takes for the record to fit.

    None where it does not fit without all of these either.  The user's headers are never dropped.
    """
    excess = record_size(key, value, headers) - record_bytes_max
    for dropped in droppable:
        if excess <= 0:
            break
        shorter = tuple(header for header in headers if header[0] not in dropped)
        if len(shorter) < len(headers):
            headers = shorter
            excess = record_size(key, value, headers) - record_bytes_max
    return headers if excess <= 0 else None


def _foreign(user: Headers) -> list[tuple[str, bytes | None]]:
    return [header for header in user if header[0] not in OWN_HEADERS]


def _of(facts: Facts) -> list[tuple[str, bytes | None]]:
    origin = facts.origin
    ours: list[tuple[str, bytes | None]] = [
        (names.MESSAGE_ID, facts.id.hex().encode()),
        (names.QUEUE, _encoded_once(facts.queue)),
        (names.ATTEMPT, b"%d" % facts.attempt),
        (names.GROUP, _encoded_once(facts.group)),
        (names.ORIGINAL_TOPIC, _encoded_once(origin.topic)),
    ]
    for name, number in (
        (names.ORIGINAL_PARTITION, origin.partition),
        (names.ORIGINAL_OFFSET, origin.offset),
        (names.ORIGINAL_TIMESTAMP, origin.timestamp),
        (names.FAILED_AT, facts.failed_at),
        (names.FIRST_FAILED_AT, facts.first_failed_at),
        (names.DUE_AT, facts.due_at),
    ):
        if number is not None:
            ours.append((name, b"%d" % number))
    for name, text in (
        (names.CATEGORY, facts.category),
        (names.RETRY_TOPIC, facts.retry_topic),
        (names.ERROR_TYPE, ",".join(facts.error_types)),
        (names.ERROR_CAUSE_TYPE, ",".join(facts.cause_types)),
        (names.ERROR_MESSAGE, facts.error_message),
    ):
        if text:
            ours.append((name, _encoded(text)))
    for name, raw in ((names.ERROR_STACKTRACE, facts.error_stacktrace), (names.METADATA, facts.metadata)):
        if raw:
            ours.append((name, raw))
    return ours


def _encoded(text: str) -> bytes:
    # A lone surrogate in an error's text must not become an error of ours.
    return text.encode("utf-8", "backslashreplace")


_encoded_once = lru_cache(names_cached_max)(_encoded)
