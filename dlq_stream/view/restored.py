"""A record in quarantine, read back: what was received, where it came from, and whether it can be sent there again.

Pure.  Records in quarantine are never changed or deleted, so one may be sent again as often as one likes.  That is
harmless: an order counts at its revision only, and a failure event is the same message each time.  The only event for
which it would not be, a failure event that names neither an id nor all of its origin, gets an id that is derived from
its place in quarantine.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NamedTuple

from dlq_stream.core import header_values as read
from dlq_stream.core import headers as names
from dlq_stream.core.errors import MalformedEvent
from dlq_stream.core.ids import message_id
from dlq_stream.core.model import Headers, Origin, Record
from dlq_stream.engine.quarantine import PACKED_BYTES_MAX


class Place(NamedTuple):
    """Partition and offset in the quarantine topic: how one names a record there, written ``3-1042``."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}-{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """The place that ``text`` names; raises ValueError."""
        partition, _, offset = text.partition("-")
        try:
            return cls(
                read.number("", partition.encode(), names.partition_max),
                read.number("", offset.encode(), names.number_max),
            )
        except (MalformedEvent, UnicodeEncodeError):
            raise ValueError(f"{text[:80]!r} is no record in quarantine (partition-offset, like 3-1042)") from None


@dataclass(frozen=True, slots=True)
class Held:
    """What there is to know of a record in quarantine without its content."""

    place: Place
    timestamp_ms: int
    """When it was put there, by the brokers' clock."""
    topic: str
    """Where it came from, with ``partition`` and ``offset``; empty where the headers do not say."""
    partition: int | None
    offset: int | None
    reason: str
    key_bytes: int | None
    value_bytes: int | None
    """As it lies there: of a packed value, packed.  None for null."""
    headers: int
    """How many it had when it was received."""
    packed: bool
    cut: str
    """What the record was, where only its beginnings were kept; empty where it is whole."""


class Returning(NamedTuple):
    """A record on its way back to the topic it came from."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def held(record: Record) -> Held:
    """What the record's own headers say of it; they are the workers', but nothing is taken for granted."""
    own = {name: value or b"" for name, value in record.headers if name in names.QUARANTINE_HEADERS}
    return Held(
        place=Place(record.partition, record.offset),
        timestamp_ms=record.timestamp,
        topic=own.get(names.QUARANTINE_TOPIC, b"").decode("utf-8", "replace"),
        partition=_number(own.get(names.QUARANTINE_PARTITION), names.partition_max),
        offset=_number(own.get(names.QUARANTINE_OFFSET), names.number_max),
        reason=own.get(names.QUARANTINE_REASON, b"").decode("utf-8", "replace"),
        key_bytes=None if record.key is None else len(record.key),
        value_bytes=None if record.value is None else len(record.value),
        headers=len(received_headers(record)),
        packed=names.QUARANTINE_ENCODING in own,
        cut=own.get(names.QUARANTINE_CUT, b"").decode("utf-8", "replace"),
    )


def received_headers(record: Record) -> Headers:
    """The headers without those of quarantine."""
    return tuple(header for header in record.headers if header[0] not in names.QUARANTINE_HEADERS)


def received_value(record: Record) -> bytes | None:
    """The value as it was received.  Raises ValueError where it is packed in a way that we do not know."""
    encoding = dict(record.headers).get(names.QUARANTINE_ENCODING)
    if encoding is None or record.value is None:
        return record.value
    if encoding != names.GZIP:
        raise ValueError(f"its value is packed as {encoding!r}, which this version does not know")
    unpacking = zlib.decompressobj(wbits=31)
    try:
        value = unpacking.decompress(record.value, PACKED_BYTES_MAX)
    except zlib.error as error:
        raise ValueError(f"its value cannot be unpacked: {error}") from None
    if not unpacking.eof:
        raise ValueError(f"its value cannot be unpacked: it is cut, or has more than {PACKED_BYTES_MAX} bytes")
    return value


def returning(record: Record, intake: tuple[str, ...], failures: str, partitions: int) -> Returning:
    """The record as it was received, for the topic and partition it came from.

    Raises ValueError, in words, where it came from none of the topics ``intake`` or is not whole.
    """
    told = held(record)
    if told.topic not in intake or told.partition is None or told.offset is None:
        raise ValueError(f"it came from {told.topic or 'nowhere'!r}, which is none of {', '.join(intake)}")
    if told.cut:
        raise ValueError(
            f"only its beginnings are here ({told.cut}); the whole of it is record {told.offset} of"
            f" partition {told.partition} of {told.topic}, as long as that is kept"
        )
    if told.partition >= partitions:
        raise ValueError(f"it came from partition {told.partition}, and {told.topic} has {partitions}")
    headers = received_headers(record)
    if told.topic == failures:
        headers += _id_of(record, told, headers)
    return Returning(told.topic, told.partition, record.key, received_value(record), headers)


def _id_of(record: Record, told: Held, headers: Headers) -> Headers:
    """An id for a failure event that has none and no origin to derive it from; nothing where it has."""
    own = dict(headers)
    if own.get(names.MESSAGE_ID) is not None or own.get(names.ORIGINAL_PARTITION) is not None:
        return ()
    try:
        group = read.group(names.GROUP, own.get(names.GROUP) or b"")
    except MalformedEvent:
        return ()  # it will come back for that
    id_ = message_id(group, Origin(told.topic, told.partition, told.offset, record.timestamp))
    return ((names.MESSAGE_ID, id_.hex().encode()),)


def _number(raw: bytes | None, most: int) -> int | None:
    try:
        return None if raw is None else read.number("", raw, most)
    except MalformedEvent:
        return None
