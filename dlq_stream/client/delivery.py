"""Which delivery of which message a record is, read from its headers.

A retried record carries its message's id, the number of the attempt and the group that it is meant for.  Anybody who
may write to the topic may write such headers, so what does not make sense counts as not there: the record is then
what it would be without them, a first delivery at its own coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlq_stream.core import header_values as read
from dlq_stream.core import headers as names
from dlq_stream.core.errors import MalformedEvent
from dlq_stream.core.ids import message_id, parse_id
from dlq_stream.core.model import Origin, Record


@dataclass(frozen=True, slots=True)
class Delivery:
    """A retry: of which message (32 hex digits), the how-maniest (1 is the first), and whether our group is meant.

    ``for_another_group``: somebody else is meant, so skip it.  A retry whose failure was reported without a group is
    meant for nobody: neither is True, and whoever reads it may handle it as a record of his own.
    ``masked``: parts of the record were masked when its failure was reported; it is not the original to the letter.
    """

    message_id: str
    attempt: int
    for_this_group: bool
    masked: bool = False
    for_another_group: bool = False


def delivery_of(record: Record, group: str) -> Delivery | None:
    """What retry the record is for a consumer of ``group``; None for a first delivery."""
    own = own_headers(record)
    if names.MESSAGE_ID not in own:
        return None
    try:
        id_ = parse_id(own[names.MESSAGE_ID] or b"")
        attempt = read.number(names.ATTEMPT, own.get(names.ATTEMPT) or b"", names.attempt_max)
    except MalformedEvent:
        return None
    if attempt < 1:
        return None
    masked = any(name == names.MASKED for name, _ in record.headers)
    meant_for = own.get(names.GROUP) or b""
    ours = meant_for == group.encode()
    return Delivery(id_.hex(), attempt, ours, masked, for_another_group=bool(meant_for) and not ours)


def own_headers(record: Record) -> dict[str, bytes | None]:
    """The ``dlq-*`` headers by name, the last of repeated ones."""
    return {name: value for name, value in record.headers if name in names.OWN_HEADERS}


def origin_of(record: Record) -> Origin:
    """Where the record comes from in the first place: its ``dlq-original-*`` headers where they are whole, else itself.

    The numbers are missing where the headers name a topic but the failure was reported without coordinates, and of a
    retry that had no room for them: its own coordinates are not the origin's.
    """
    own = own_headers(record)
    itself = Origin(record.topic, record.partition, record.offset, record.timestamp)
    if not own:
        return itself
    if names.ORIGINAL_TOPIC not in own and delivery_of(record, "") is not None:
        return Origin(record.topic)
    try:
        topic = read.topic(names.ORIGINAL_TOPIC, own.get(names.ORIGINAL_TOPIC) or b"")
        partition, offset, timestamp = (
            own.get(name) for name in (names.ORIGINAL_PARTITION, names.ORIGINAL_OFFSET, names.ORIGINAL_TIMESTAMP)
        )
        if partition is None and offset is None and timestamp is None:
            return Origin(topic)
        return Origin(
            topic,
            read.number(names.ORIGINAL_PARTITION, partition or b"", names.partition_max),
            read.number(names.ORIGINAL_OFFSET, offset or b"", names.number_max),
            -1 if timestamp == b"-1" else read.number(names.ORIGINAL_TIMESTAMP, timestamp or b"", names.number_max),
        )
    except MalformedEvent:
        return itself


def id_for(record: Record, origin: Origin, group: str) -> str:
    """The id of what ``group`` could not process; of an origin without numbers, by the record's own coordinates."""
    if origin.partition is None:
        origin = Origin(record.topic, record.partition, record.offset, record.timestamp)
    return message_id(group, origin).hex()
