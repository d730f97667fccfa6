"""Quarantine: an event that cannot be understood is kept whole, with the reason, and never stops its partition.

The quarantine topic takes larger records than the intake topics, so an event goes there as it was received, unless its
batch was compressed: brokers limit the compressed size, and a megabyte may unfold to a thousand.  Such a value is
packed, `QUARANTINE_ENCODING` says how.  What does not fit like that either is cut to its beginnings: `QUARANTINE_CUT`
says how large it was, and the other headers where the whole of it lies for as long as its topic keeps it.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from typing import TypeVar

from dlq_stream.core.errors import DLQError, MalformedEvent, TooLarge, UnsupportedFormat
from dlq_stream.core.events import EventQuarantined
from dlq_stream.core.headers import GZIP, QUARANTINE_CUT, QUARANTINE_ENCODING, QUARANTINE_HEADERS, fault_of
from dlq_stream.core.model import Headers, Record
from dlq_stream.core.outgoing import quarantine_headers
from dlq_stream.engine.turn import Turn

EventT = TypeVar("EventT")

PACKED_BYTES_MAX = 64 << 20
"""A larger value is cut without trying to pack it, which takes a second for each hundred megabytes."""

CUT_KEY_BYTES_MAX = 1_024
CUT_VALUE_BYTES_MAX = 64 << 10
"""So much is kept of the key and the value of an event that is cut; any quarantine topic takes that."""


def quarantine(turn: Turn, record: Record, error: Exception) -> None:
    """Send the record as it came to the quarantine topic, same partition, because of ``error``."""
    headers = quarantine_headers(record, _reason(error))
    if not (_sent(turn, record, record.key, record.value, headers) or _sent_packed(turn, record, headers)):
        _send_cut(turn, record, headers)
    turn.book.quarantined()
    fault = fault_of(error) if isinstance(error, MalformedEvent) else type(error).__name__
    turn.seen.append(EventQuarantined(record.topic, record.partition, record.offset, fault))


def understood(turn: Turn, records: Iterable[Record], read: Callable[[Record], EventT]) -> list[tuple[Record, EventT]]:
    """What the records say; those that make ``read`` raise are quarantined."""
    events: list[tuple[Record, EventT]] = []
    for record in records:
        try:
            events.append((record, read(record)))
        except Exception as error:
            quarantine(turn, record, error)
    return events


def each_or_quarantine(
    turn: Turn, ours: Iterable[tuple[Record, EventT]], apply: Callable[[Record, EventT], None]
) -> None:
    """Apply each event behind a mark: whatever one raises, it alone is rolled back and quarantined.

    `UnsupportedFormat` gets through: this worker is too old, and no event is to blame.
    """
    for record, event in ours:
        mark, seen = turn.tx.mark(), len(turn.seen)
        try:
            apply(record, event)
        except UnsupportedFormat:
            raise
        except Exception as error:
            turn.tx.rollback(mark)
            del turn.seen[seen:]
            quarantine(turn, record, error)


def _sent(turn: Turn, record: Record, key: bytes | None, value: bytes | None, headers: Headers) -> bool:
    """Whether quarantine takes this."""
    try:
        turn.tx.send(turn.engine.quarantine_topic, key, value, headers, record.partition)
    except TooLarge:
        return False
    return True


def _sent_packed(turn: Turn, record: Record, headers: Headers) -> bool:
    if not record.value or len(record.value) > PACKED_BYTES_MAX:
        return False
    packed = gzip.compress(record.value, mtime=0)  # the same each time it is staged
    return _sent(turn, record, record.key, packed, (*headers, (QUARANTINE_ENCODING, GZIP)))


def _send_cut(turn: Turn, record: Record, headers: Headers) -> None:
    key, value = record.key, record.value
    was = f"key of {len(key or b'')} bytes, value of {len(value or b'')}, {len(record.headers)} headers"
    ours = tuple(header for header in headers if header[0] in QUARANTINE_HEADERS)
    turn.tx.send(
        turn.engine.quarantine_topic,
        key and key[:CUT_KEY_BYTES_MAX],
        value and value[:CUT_VALUE_BYTES_MAX],
        (*ours, (QUARANTINE_CUT, was.encode())),
        record.partition,
    )


def _reason(error: Exception) -> str:
    if isinstance(error, DLQError):
        return str(error)
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # an error whose text is an error
        return type(error).__name__
