"""What may be reported: a record of any of the Python consumers, or its seven parts, all made one shape.

* aiokafka's and kafka-python's (2 and 3) records: attributes ``topic``, ``partition``, ``offset``, ``timestamp``,
  ``key``, ``value``, ``headers``; and whatever else has these.
* confluent-kafka's ``Message``: methods of the same names, ``timestamp()`` being a pair of type and milliseconds.
* a tuple of the seven in this order, `PlainRecord` by name, for records that were kept or read by other means.

They are told apart by their shape, so none of the libraries is imported.  What cannot be kept untouched, because a
deserializer has been at it, and what has no coordinates is refused here, naming the part and the fix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

from dlq_stream.client.errors import UnusableRecord
from dlq_stream.core.destinations import is_legal_topic
from dlq_stream.core.headers import number_max, partition_max
from dlq_stream.core.model import Headers, RecordParts
from dlq_stream.core.shown import shown

NO_TIMESTAMP = -1
"""Kafka's own word for a record without a timestamp."""

_PARTS = 7
_TIMESTAMP_NOT_AVAILABLE = 0  # the type that confluent-kafka gives it


class PlainRecord(NamedTuple):
    """A record's parts.  ``timestamp``: epoch ms, -1 where there is none.  ``headers``: in order, repeats kept.

    Whoever makes one by hand may give headers as any iterable of pairs, None for none, and text for their values.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class ConsumedRecord(RecordParts, Protocol):
    """A record as aiokafka, kafka-python and most others have it: see `dlq_stream.core.model.Record`."""

    @property
    def headers(self) -> Iterable[tuple[str, bytes | None]] | None:
        """Headers in order, repeats kept."""
        ...


class ConfluentMessage(Protocol):
    """A record as confluent-kafka has it."""

    def topic(self) -> str | None:
        """Name of the topic."""
        ...

    def partition(self) -> int | None:
        """Partition, from 0."""
        ...

    def offset(self) -> int | None:
        """Offset, from 0."""
        ...

    def timestamp(self) -> tuple[int, int]:
        """Type of the timestamp (0: there is none), and epoch milliseconds."""
        ...

    def key(self) -> Any:
        """Key, or None."""
        ...

    def value(self) -> Any:
        """Value, or None (a tombstone)."""
        ...

    def headers(self) -> Any:
        """Pairs of name and value, or None."""
        ...

    def error(self) -> Any:
        """What this is instead of a record, or None."""
        ...


Parts: TypeAlias = tuple[
    str, int, int, int, bytes | None, bytes | None, Iterable[tuple[str, bytes | str | None]] | None
]
"""Topic, partition, offset, timestamp, key, value, headers."""

AnyRecord: TypeAlias = ConsumedRecord | ConfluentMessage | Parts
"""What a reporter takes."""


def plain_record(given: AnyRecord) -> PlainRecord:
    """The record in one shape.  Raises UnusableRecord, naming the part that is wrong and the fix, and nothing else."""
    topic, partition, offset, timestamp, key, value, headers = _parts_of(given)
    if not isinstance(topic, str) or not is_legal_topic(topic):
        raise UnusableRecord(f"the record's topic is {shown(topic)}, which is not the name of one")
    return PlainRecord(
        topic,
        _number(partition, "partition", 0, partition_max),
        _number(offset, "offset", 0, number_max),
        _timestamp(timestamp),
        _raw(key, "key"),
        _raw(value, "value"),
        _headers(headers),
    )


def _parts_of(given: Any) -> Iterable[Any]:
    topic = getattr(given, "topic", None)
    if callable(topic):
        return _confluent_parts(given)
    try:
        if topic is not None:
            return (
                topic,
                given.partition,
                given.offset,
                given.timestamp,
                given.key,
                given.value,
                given.headers,
            )
    except AttributeError as missing:
        raise UnusableRecord(f"a {type(given).__name__} is no record: {missing}") from None
    if isinstance(given, tuple | list) and len(given) == _PARTS:
        return given
    raise UnusableRecord(
        f"a {type(given).__name__} is no record: give the record as it was read (aiokafka, kafka-python or "
        "confluent-kafka), or a PlainRecord(topic, partition, offset, timestamp, key, value, headers)"
    )


def _confluent_parts(message: Any) -> Iterable[Any]:
    if (error := message.error()) is not None:
        raise UnusableRecord(
            f"the message is no record but an event of the consumer ({shown(str(error))}): look at message.error() "
            "first, and handle no such message"
        )
    kind, timestamp = message.timestamp()
    return (
        message.topic(),
        message.partition(),
        message.offset(),
        NO_TIMESTAMP if kind == _TIMESTAMP_NOT_AVAILABLE else timestamp,
        message.key(),
        message.value(),
        message.headers(),
    )


def _number(value: object, what: str, least: int, most: int) -> int:
    if isinstance(value, int) and least <= value <= most:
        return value
    hint = " (epoch milliseconds, -1 for none)" if what == "timestamp" else ""
    raise UnusableRecord(f"the record's {what} is {shown(value)}, not a whole number from {least} on{hint}")


def _timestamp(value: object) -> int:
    """Brokers take any number, and instants before 1970 exist; the contract has none, and the failure counts more."""
    if value is None or (isinstance(value, int) and value < 0):
        return NO_TIMESTAMP
    return _number(value, "timestamp", NO_TIMESTAMP, number_max)


def _headers(headers: Any) -> Headers:
    if headers is None:
        return ()
    try:
        pairs = [(name, value) for name, value in (headers.items() if isinstance(headers, Mapping) else headers)]
    except (TypeError, ValueError):
        raise UnusableRecord(
            f"the record's headers, of type {type(headers).__name__}, are not pairs of name and value"
        ) from None
    return tuple([pair if _is_plain(pair) else (_name(pair[0]), _header_value(*pair)) for pair in pairs])


def _is_plain(pair: tuple[object, object]) -> bool:
    name, value = pair
    return type(name) is str and (name.isascii() or name == _name(name)) and (type(value) is bytes or value is None)


def _name(name: object) -> str:
    """Names travel as UTF-8; of one that is not, what cannot travel is written out: it must not cost the record."""
    if isinstance(name, bytes):
        return name.decode("utf-8", "backslashreplace")
    if isinstance(name, str):
        return str.encode(name, "utf-8", "backslashreplace").decode()
    raise UnusableRecord(f"the name {shown(name)} of a header is of type {type(name).__name__}, not text")


def _header_value(name: object, value: object) -> bytes | None:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else _raw(value, f"header {shown(name)}")


def _raw(part: object, what: str) -> bytes | None:
    if part is None or type(part) is bytes:
        return part
    if isinstance(part, bytes | bytearray | memoryview):
        return bytes(part)
    raise UnusableRecord(
        f"the record's {what} is of type {type(part).__name__}, not bytes: report the record as it was read, "
        "from a consumer without deserializers"
    )
