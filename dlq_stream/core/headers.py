"""The header contract: the names of our headers, and what a failure event says.

Everything that we tell each other about a record travels in its ``dlq-*`` headers, as UTF-8 text, decimal numbers and
epoch milliseconds; key, value and the user's own headers stay untouched.  The sender may be anybody, in any language,
with any bug: `parse_failure` makes a checked value of a record or raises `MalformedEvent`, and nothing else, whatever
the bytes.  It runs once per event: what repeats from event to event is read once (`FailureKind`).

What we write is built in `dlq_stream.core.outgoing`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from dlq_stream.core import header_values as read
from dlq_stream.core.errors import MalformedEvent
from dlq_stream.core.ids import message_id, parse_id
from dlq_stream.core.model import ErrorCategory, Headers, Origin, Record
from dlq_stream.core.shown import shown

MESSAGE_ID = "dlq-message-id"
QUEUE = "dlq-queue"
ATTEMPT = "dlq-attempt"
ORIGINAL_TOPIC = "dlq-original-topic"
ORIGINAL_PARTITION = "dlq-original-partition"
ORIGINAL_OFFSET = "dlq-original-offset"
ORIGINAL_TIMESTAMP = "dlq-original-timestamp"
ORIGINAL_KEY = "dlq-original-key"
GROUP = "dlq-group"
ERROR_TYPE = "dlq-error-type"
ERROR_MESSAGE = "dlq-error-message"
ERROR_STACKTRACE = "dlq-error-stacktrace"
ERROR_CAUSE_TYPE = "dlq-error-cause-type"
CATEGORY = "dlq-category"
FAILED_AT = "dlq-failed-at"
FIRST_FAILED_AT = "dlq-first-failed-at"
DUE_AT = "dlq-due-at"
OUTCOMES = "dlq-outcomes"
RETRY_TOPIC = "dlq-retry-topic"
RETRY_AFTER_MS = "dlq-retry-after-ms"
FORWARDED = "dlq-forwarded"
METADATA = "dlq-metadata"
ESCALATION_REASON = "dlq-escalation-reason"
UNDECODABLE = "dlq-undecodable"  # said by our consumer of a record with a header name that is not UTF-8
QUARANTINE_REASON = "dlq-quarantine-reason"
QUARANTINE_TOPIC = "dlq-quarantine-topic"
QUARANTINE_PARTITION = "dlq-quarantine-partition"
QUARANTINE_OFFSET = "dlq-quarantine-offset"
QUARANTINE_ENCODING = "dlq-quarantine-encoding"  # how the value is packed, where it had to be: GZIP
QUARANTINE_CUT = "dlq-quarantine-cut"  # what the record was, where not even that was enough

GZIP = b"gzip"

QUARANTINE_HEADERS = frozenset(
    (
        QUARANTINE_REASON,
        QUARANTINE_TOPIC,
        QUARANTINE_PARTITION,
        QUARANTINE_OFFSET,
        QUARANTINE_ENCODING,
        QUARANTINE_CUT,
    )
)
"""What quarantine adds to a record that is otherwise kept as it came."""

OWN_HEADERS = QUARANTINE_HEADERS | {
    MESSAGE_ID,
    QUEUE,
    ATTEMPT,
    ORIGINAL_TOPIC,
    ORIGINAL_PARTITION,
    ORIGINAL_OFFSET,
    ORIGINAL_TIMESTAMP,
    ORIGINAL_KEY,
    GROUP,
    ERROR_TYPE,
    ERROR_MESSAGE,
    ERROR_STACKTRACE,
    ERROR_CAUSE_TYPE,
    CATEGORY,
    FAILED_AT,
    FIRST_FAILED_AT,
    DUE_AT,
    OUTCOMES,
    RETRY_TOPIC,
    RETRY_AFTER_MS,
    FORWARDED,
    METADATA,
    ESCALATION_REASON,
    UNDECODABLE,
}
"""Every name of the contract; replaced at each hop.  Any other header, whatever it starts with, is the user's."""

MASKED = "dlq-masked"
"""Says of the record itself that parts of it (``headers``, ``value``, separated by commas) were masked when its failure
was reported.  It is not one of ours in the sense of `OWN_HEADERS`: it stays with the record, like the user's headers,
through retries and into the ``-dlq`` topic."""

OUTCOMES_REPORTED = b"reported"
"""The value of `OUTCOMES`, from a sender that reports successes, too."""

FORWARDED_YES = b"1"
"""The value of `FORWARDED`."""

attempt_max = 1_000_000_000
"""A higher attempt is malformed: no message gets there, and the next one must fit 32 bits."""

partition_max = (1 << 31) - 1
"""A partition beyond this is malformed; Kafka has none."""

number_max = (1 << 63) - 1
"""An offset or a record's timestamp beyond this is malformed; Kafka has none."""

time_ms_max = 253_402_300_799_999
"""The end of the year 9999: an instant beyond it is malformed, dates could not show it."""

retry_after_ms_max = 366 * 86_400_000
"""A longer wait than a year is malformed: most likely a mistake in units."""

kinds_cached_max = 1_024
"""So many kinds of failures are remembered; at the bound the least recently used is read again."""

_NO_TIMESTAMP = b"-1"

# Record format v2 (org.apache.kafka.common.record.DefaultRecordBatch, DefaultRecord): a batch's own 61 bytes; a
# record's attributes byte, two deltas of a lone record, and the lengths of record, key, value and header list.
_BATCH_BYTES = 61
_RECORD_BYTES_MAX = 1 + 2 + 4 * 5
# Lengths are zigzag varints: two bytes hold 13 bits.
_SMALL = 1 << 13
_LENGTH_BYTES_SMALL = 2
_LENGTH_BYTES_MAX = 5


class FailureKind(NamedTuple):
    """What failures of a kind have in common: whose they are, which delivery it was, and what went wrong."""

    topic: str
    queue: str
    group: str
    attempt: int
    error_types: tuple[str, ...]
    cause_types: tuple[str, ...]
    category: ErrorCategory | None
    outcomes_reported: bool
    retry_topic: str | None
    forwarded: bool

    @property
    def cause_type(self) -> str | None:
        """What people see of the error's cause."""
        return self.cause_types[0] if self.cause_types else None

    @property
    def types_and_cause(self) -> tuple[str, ...]:
        """The names that classification goes by: the error's own and its bases', then its cause's."""
        return self.error_types + self.cause_types if self.cause_types else self.error_types


class FailureEvent(NamedTuple):
    """What a failure event says, checked.  A named tuple, which costs a third of a frozen dataclass.

    ``key`` and ``headers`` are the original record's.  ``origin`` has its numbers only where the event gave them.
    ``metadata`` is bytes as received, supposedly JSON: whoever shows it parses it and copes.
    """

    id: bytes
    kind: FailureKind
    origin: Origin
    key: bytes | None
    value: bytes | None
    headers: Headers
    error_message: str
    error_stacktrace: bytes
    failed_at: int | None
    retry_after_ms: int | None
    metadata: bytes | None


def parse_failure(record: Record) -> FailureEvent:
    """What the record reports.  Raises `MalformedEvent`, naming the header and its value, and nothing else.

    A header given more than once counts as its last; one with a null value counts as not given (except the original
    key, where it means a null key).  Without an id the id is derived from the origin, or where that has no numbers
    from the record's own coordinates.
    """
    headers = record.headers
    own = dict(headers)  # and the user's, which nobody asks for: sorting them out would cost more
    if UNDECODABLE in own:
        raise MalformedEvent(f"{UNDECODABLE}: a header name that is not UTF-8: {shown(own[UNDECODABLE])}")
    given = own.get
    kind = _kind(
        given(ORIGINAL_TOPIC),
        given(QUEUE),
        given(GROUP),
        given(ATTEMPT),
        (given(ERROR_TYPE) or b"")[: read.error_types_bytes_max],
        (given(ERROR_CAUSE_TYPE) or b"")[: read.error_types_bytes_max],
        given(CATEGORY),
        given(OUTCOMES),
        given(RETRY_TOPIC),
        given(FORWARDED),
    )
    origin = _origin(kind.topic, given(ORIGINAL_PARTITION), given(ORIGINAL_OFFSET), given(ORIGINAL_TIMESTAMP))
    told_id = given(MESSAGE_ID)
    id_ = _id(told_id, kind.group, origin, record)
    message, stacktrace = given(ERROR_MESSAGE), given(ERROR_STACKTRACE)
    failed_at, retry_after, metadata = given(FAILED_AT), given(RETRY_AFTER_MS), given(METADATA)
    return FailureEvent(  # by position: by name it takes half as long again
        id_,
        kind,
        origin,
        own[ORIGINAL_KEY] if ORIGINAL_KEY in own else _key_unless_id(record.key, told_id, id_),
        record.value,
        tuple([header for header in headers if header[0] not in OWN_HEADERS]),
        read.error_message(message) if message else "",
        read.cap_stacktrace(stacktrace) if stacktrace else b"",
        None if failed_at is None else read.number(FAILED_AT, failed_at, time_ms_max),
        None if retry_after is None else read.number(RETRY_AFTER_MS, retry_after, retry_after_ms_max),
        None if metadata is None else read.metadata(METADATA, metadata),
    )


@lru_cache(kinds_cached_max)
def _kind(
    topic: bytes | None,
    queue: bytes | None,
    group: bytes | None,
    attempt: bytes | None,
    error_type: bytes,
    cause_type: bytes,
    category: bytes | None,
    outcomes: bytes | None,
    retry_topic: bytes | None,
    forwarded: bytes | None,
) -> FailureKind:
    """What these headers say; remembered, since most failures of a batch are of a few kinds."""
    if topic is None:
        raise MalformedEvent(f"{ORIGINAL_TOPIC}: missing, the only header that is required")
    topic_name = read.topic(ORIGINAL_TOPIC, topic)
    return FailureKind(
        topic=topic_name,
        queue=topic_name if queue is None else read.queue(QUEUE, queue),
        group=read.group(GROUP, group or b""),
        attempt=0 if attempt is None else read.number(ATTEMPT, attempt, attempt_max),
        error_types=read.type_names(error_type),
        cause_types=read.type_names(cause_type),
        category=None if category is None else read.category(CATEGORY, category),
        outcomes_reported=read.flag(OUTCOMES, outcomes, OUTCOMES_REPORTED),
        retry_topic=None if retry_topic is None else read.topic(RETRY_TOPIC, retry_topic),
        forwarded=read.flag(FORWARDED, forwarded, FORWARDED_YES),
    )


def record_size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """At most so many bytes the record takes as a batch of its own, which is what ``max.message.bytes`` limits."""
    size = _BATCH_BYTES + _RECORD_BYTES_MAX + (len(key) if key else 0) + (len(value) if value else 0)
    names = "".join([name for name, _ in headers])
    contents = sum([len(content) for _, content in headers if content])
    if names.isascii() and len(names) + contents < _SMALL:  # so every part of it is
        return size + len(names) + contents + 2 * _LENGTH_BYTES_SMALL * len(headers)
    return size + sum(_header_size(name, content) for name, content in headers)


def _header_size(name: str, content: bytes | None) -> int:
    size = 0
    for part in (name.encode("utf-8", "surrogatepass"), content or b""):
        size += len(part) + (_LENGTH_BYTES_SMALL if len(part) < _SMALL else _LENGTH_BYTES_MAX)
    return size


def fault_of(error: MalformedEvent) -> str:
    """Which header or field was at fault, without its value: values are never logged."""
    return str(error).partition(":")[0]


_origin_of_topic = lru_cache(kinds_cached_max)(Origin)


def _origin(topic: str, partition: bytes | None, offset: bytes | None, timestamp: bytes | None) -> Origin:
    if partition is None and offset is None and timestamp is None:
        return _origin_of_topic(topic)
    if partition is None or offset is None or timestamp is None:
        missing = ORIGINAL_PARTITION if partition is None else ORIGINAL_OFFSET if offset is None else ORIGINAL_TIMESTAMP
        raise MalformedEvent(f"{missing}: missing; original partition, offset and timestamp are given all or none")
    return Origin(
        topic,
        read.number(ORIGINAL_PARTITION, partition, partition_max),
        read.number(ORIGINAL_OFFSET, offset, number_max),
        # Kafka's own "no timestamp".
        -1 if timestamp == _NO_TIMESTAMP else read.number(ORIGINAL_TIMESTAMP, timestamp, number_max),
    )


def _id(raw: bytes | None, group: str, origin: Origin, record: Record) -> bytes:
    if raw is None:
        if origin.partition is None:
            origin = Origin(record.topic, record.partition, record.offset, record.timestamp)
        return message_id(group, origin)
    try:
        return parse_id(raw)
    except MalformedEvent as wrong:
        raise MalformedEvent(f"{MESSAGE_ID}: {wrong}") from None


def _key_unless_id(key: bytes | None, told_id: bytes | None, id_: bytes) -> bytes | None:
    if key is None or key == told_id:
        return None
    if len(key) == 2 * len(id_) and key.lower() == id_.hex().encode():
        return None
    return key
