"""Messages as commands show them: a line for people, an object for programs; and of which moment an answer is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from dlq_stream.cli.layout import age_seconds, aligned, duration, in_one_line, instant
from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.tables.messages import Message
from dlq_stream.view.app import AsOf, now_ms
from dlq_stream.view.selection import OPEN

NAME_CHARS_MAX: Final = 40
"""Longer names of queues and error types are cut in tables; JSON has them whole."""

HEADER: Final = ("ID", "QUEUE", "STATUS", "ERROR TYPE", "ATTEMPT", "AGE", "DUE")


def as_table(rows: Iterable[tuple[bytes, Message]], as_of_ms: int) -> list[str]:
    """A header, and a line for each message."""
    return aligned([HEADER, *(_cells(id_, row, as_of_ms) for id_, row in rows)], right=(4, 5))


def _cells(message_id: bytes, row: Message, as_of_ms: int) -> tuple[str, ...]:
    return (
        message_id.hex(),
        in_one_line(row.queue, NAME_CHARS_MAX),
        status_of(row),
        in_one_line(row.error_type, NAME_CHARS_MAX) or "-",
        str(row.attempt),
        duration(age_seconds(row.created_ms, as_of_ms) or 0),
        due_of(row, as_of_ms),
    )


def status_of(row: Message) -> str:
    """The status, and what there is to know beside it."""
    notes = []
    if row.presumed:
        notes.append("presumed")
    if row.stuck_reason:
        notes.append("stuck")
    if row.dead_letter in ("waiting", "impossible"):
        notes.append("not in -dlq")
    return f"{row.status} ({', '.join(notes)})" if notes else str(row.status)


def due_of(row: Message, as_of_ms: int) -> str:
    """When a retry is due, or by when an outcome; ``-`` where nothing is waited for."""
    if row.due_ms is None or row.status not in OPEN:
        return "-"
    return f"{'outcome ' if row.status is DLQMessageStatus.RETRYING else ''}{away(row.due_ms, as_of_ms)}"


def away(instant_ms: int, as_of_ms: int) -> str:
    """``in 3m05s``, ``now``, ``2h10m ago``."""
    seconds = (instant_ms - as_of_ms) / 1000
    if abs(seconds) < 1:
        return "now"
    return f"in {duration(seconds)}" if seconds > 0 else f"{duration(-seconds)} ago"


def as_object(message_id: bytes, row: Message, as_of_ms: int) -> dict[str, Any]:
    """A message as JSON shows it.  Names and units are a contract: fields are added, never renamed.

    Instants are the workers', in epoch milliseconds.  ``due_ms`` is the next retry (pending), the latest time for an
    outcome (retrying) or the next try to write the ``-dlq`` record (escalated).
    """
    return {
        "message_id": message_id.hex(),
        "queue": row.queue,
        "status": row.status,
        "presumed": row.presumed,
        "attempt": row.attempt,
        "revision": row.revision,
        "group": row.group,
        "category": row.category,
        "error_type": row.error_type,
        "fingerprint": row.fingerprint.hex(),
        "due_ms": row.due_ms,
        "created_ms": row.created_ms,
        "age_seconds": age_seconds(row.created_ms, as_of_ms),
        "last_failed_ms": row.last_failed_ms or None,
        "closed_ms": row.closed_ms,
        "original": {
            "topic": row.origin_topic,
            "partition": row.origin_partition,
            "offset": row.origin_offset,
            "timestamp_ms": row.origin_timestamp,
        },
        "retry_topic": row.retry_topic or None,
        "outcomes_reported": row.outcomes_reported,
        "record_bytes": row.record_bytes,
        "reason": row.reason or None,
        "detail": row.detail or None,
        "dead_letter": row.dead_letter,
        "dead_letter_reason": row.dead_letter_reason or None,
        "stuck_reason": row.stuck_reason or None,
    }


def as_of_object(app_id: str, as_of: AsOf) -> dict[str, Any]:
    """The first fields of every JSON answer.

    ``as_of_ms``: nothing that came later is in the answer; ``age_seconds``: how long ago that was when this was
    written; ``updated_ms``: the latest change in it, by the brokers' clock; ``lag``: records that the workers had not
    processed, whose effects are not in it.
    """
    return {
        "app_id": app_id,
        "as_of_ms": as_of.as_of_ms,
        "age_seconds": age_seconds(as_of.as_of_ms, now_ms()),
        "updated_ms": as_of.updated_ms,
        "lag": dict(as_of.lag),
    }


def as_of_line(app_id: str, as_of: AsOf) -> str:
    """``dlq-stream, as of 2026-11-24T19:58:03Z (0.4 s ago); not yet processed: failures 0, commands 0``."""
    age = age_seconds(as_of.as_of_ms, now_ms()) or 0
    lag = ", ".join(f"{name} {count}" for name, count in as_of.lag.items())
    return f"{app_id}, as of {instant(as_of.as_of_ms)} ({age:.1f} s ago); not yet processed: {lag}"
