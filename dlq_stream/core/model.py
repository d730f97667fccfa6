"""The words of the system as types: statuses, categories, records, origins, failure events.

Everything here is a value.  The types know no Kafka client, no clock and no storage; whoever reads a record from
somewhere hands it over as something that looks like `Record`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol

Headers = tuple[tuple[str, bytes | None], ...]
"""Headers of a record, in order, repeats kept."""

RECORD_OVERHEAD_BYTES = 100
"""What a record takes beside its contents."""


class DLQMessageStatus(StrEnum):
    """Where a message stands.

    * ``PENDING``: failed, waits for its next retry.
    * ``RETRYING``: emitted to its source (or retry) topic, the outcome is not known yet.
    * ``RESOLVED``: succeeded, resolved by an operator, or presumed so because its consumer reports no outcomes.
    * ``ESCALATED``: given up; it goes to ``{original_topic}-dlq`` and waits for a person.
    * ``PURGED``: removed after retention; no row exists any more, only the count.
    """

    PENDING = "pending"
    RETRYING = "retrying"
    RESOLVED = "resolved"
    ESCALATED = "escalated"
    PURGED = "purged"


class ErrorCategory(StrEnum):
    """What classification says of an error: worth a retry, hopeless, or not known (which is retried)."""

    TRANSIENT = "transient"
    PERMANENT = "permanent"
    UNKNOWN = "unknown"


class RecordParts(Protocol):
    """What every consumer's record type of the Python world calls alike; headers come in different shapes."""

    @property
    def topic(self) -> str:
        """Name of the topic."""
        ...

    @property
    def partition(self) -> int:
        """Partition, from 0."""
        ...

    @property
    def offset(self) -> int:
        """Offset, from 0."""
        ...

    @property
    def timestamp(self) -> int:
        """Epoch milliseconds; -1 where there is none."""
        ...

    @property
    def key(self) -> bytes | None:
        """Key, or None."""
        ...

    @property
    def value(self) -> bytes | None:
        """Value, or None (a tombstone)."""
        ...


class Record(RecordParts, Protocol):
    """A Kafka record as read (timestamps in epoch ms)."""

    @property
    def headers(self) -> Headers:
        """Headers in order, repeats kept."""
        ...


def size_of(record: Record) -> int:
    """About how many bytes a record takes."""
    size = len(record.key or b"") + len(record.value or b"") + RECORD_OVERHEAD_BYTES
    for name, value in record.headers:
        size += len(name) + len(value or b"")
    return size


class Origin(NamedTuple):
    """Coordinates of the record that failed first.  All three numbers are given, or none."""

    topic: str
    partition: int | None = None
    offset: int | None = None
    timestamp: int | None = None
