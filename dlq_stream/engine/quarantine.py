"""Quarantine: an event that cannot be understood is kept whole, with the reason, and never stops its partition.

The quarantine topic takes larger records than the intake topics, so what was received can always be kept.  Should it
not take one after all, the error is let through and the worker stops: dropping the event would be worse.
"""

from __future__ import annotations

from dlq_stream.core.errors import DLQError, MalformedEvent
from dlq_stream.core.events import EventQuarantined
from dlq_stream.core.headers import fault_of
from dlq_stream.core.model import Record
from dlq_stream.core.outgoing import quarantine_headers
from dlq_stream.engine.turn import Turn


def quarantine(turn: Turn, record: Record, error: Exception) -> None:
    """Send the record as it came to the quarantine topic, same partition, because of ``error``."""
    headers = quarantine_headers(record, _reason(error))
    turn.tx.send(turn.engine.quarantine_topic, record.key, record.value, headers, record.partition)
    turn.book.quarantined()
    fault = fault_of(error) if isinstance(error, MalformedEvent) else type(error).__name__
    turn.seen.append(EventQuarantined(record.topic, record.partition, record.offset, fault))


def _reason(error: Exception) -> str:
    if isinstance(error, DLQError):
        return str(error)
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # an error whose text is an error
        return type(error).__name__
