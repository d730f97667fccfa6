"""A failure report as a record of the failures topic: the original untouched, and what we say in ``dlq-*`` headers.

Pure: record, error, group and time in; key, value and headers out.  It decides which message the failure belongs to.
A retry that was meant for our group continues its message; anything else is a message of its own, whose id follows
from where the record came from and who could not process it, so that reporting it twice makes one message.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dlq_stream.client.delivery import Delivery, delivery_of, id_for, origin_of, own_headers
from dlq_stream.client.description import describe, encodable
from dlq_stream.client.errors import UnusableRecord
from dlq_stream.core import header_values as read
from dlq_stream.core import headers as names
from dlq_stream.core.errors import ConfigurationError, MalformedEvent
from dlq_stream.core.model import ErrorCategory, Headers, Record
from dlq_stream.core.outgoing import Facts, failure_headers
from dlq_stream.core.shown import shown


@dataclass(frozen=True, slots=True)
class Report:
    """What is written; the record's key is the message id."""

    message_id: str
    value: bytes | None
    headers: Headers

    @property
    def key(self) -> bytes:
        """The message id as a record key: Kafka's default partitioner puts it where its state is."""
        return self.message_id.encode()

    def without_stacktrace(self) -> Report:
        """The same report, smaller."""
        return replace(self, headers=tuple(each for each in self.headers if each[0] != names.ERROR_STACKTRACE))


@dataclass(frozen=True, slots=True)
class Reporting:
    """What is the same in all reports of one reporter."""

    group: str
    outcomes: bool

    def report(
        self,
        record: Record,
        error: object,
        *,
        queue: str | None,
        category: ErrorCategory | str | None,
        metadata: Mapping[str, Any] | None,
        now_ms: int,
    ) -> Report:
        """The report of ``record``, which failed with ``error``.

        Raises UnusableRecord where the record's bytes are not to be had, and ConfigurationError for a queue or category
        that the system would not take.  Nothing about ``error`` or ``metadata`` makes it raise.
        """
        user, value, key = _bytes_of(record)
        origin = origin_of(record)
        delivery = delivery_of(record, self.group)
        before: Mapping[str, bytes | None] = {}
        if delivery and delivery.for_this_group:
            before = own_headers(record)
        else:
            delivery = Delivery(id_for(record, origin, self.group), attempt=0, for_this_group=True)
        described = describe(error)
        facts = Facts(
            id=bytes.fromhex(delivery.message_id),
            queue=_named(queue) or _carried_on(before, names.QUEUE, read.queue) or origin.topic,
            attempt=delivery.attempt,
            group=self.group,
            origin=origin,
            error_types=described.types,
            error_message=described.message,
            error_stacktrace=described.stacktrace,
            cause_types=described.causes,
            category=_category(category),
            failed_at=now_ms,
            retry_topic=_carried_on(before, names.RETRY_TOPIC, read.topic),
            metadata=_metadata(metadata),
        )
        headers = failure_headers(user, facts, original_key=key, outcomes_reported=self.outcomes)
        return Report(delivery.message_id, value, headers)


def _carried_on(before: Mapping[str, bytes | None], name: str, check: Callable[[str, bytes], str]) -> str | None:
    """What a message keeps from one delivery to the next: its queue, and a retry topic of its own."""
    if (raw := before.get(name)) is None:
        return None
    try:
        return check(name, raw)
    except MalformedEvent:
        return None


def _bytes_of(record: Record) -> tuple[Headers, bytes | None, bytes | None]:
    """The user's headers, the value and the key, as they were read."""
    found: Iterable[tuple[str, Any]] = record.headers or ()
    user = tuple((name, _raw(value, f"header {name!r}")) for name, value in found if name not in names.OWN_HEADERS)
    return user, _raw(record.value, "value"), _raw(record.key, "key")


def _raw(part: object, what: str) -> bytes | None:
    if part is None or type(part) is bytes:
        return part
    if isinstance(part, bytes | bytearray | memoryview):
        return bytes(part)
    raise UnusableRecord(
        f"the record's {what} is of type {type(part).__name__}, not bytes: report the record as it was read, "
        "from a consumer without deserializers"
    )


def _named(queue: str | None) -> str | None:
    if queue is None:
        return None
    try:
        return read.queue("queue", encodable(queue).encode())
    except MalformedEvent as wrong:
        raise ConfigurationError(str(wrong)) from None


def _category(category: ErrorCategory | str | None) -> ErrorCategory | None:
    if category is None:
        return None
    try:
        return ErrorCategory(category)
    except ValueError:
        raise ConfigurationError(f"category: {shown(category)} is not one of {', '.join(ErrorCategory)}") from None


def _metadata(metadata: Mapping[str, Any] | None) -> bytes | None:
    """JSON; what cannot be written, or is too much, is replaced by a note: the failure counts more than its notes."""
    if metadata is None:
        return None
    try:
        raw = json.dumps(metadata, default=_text, allow_nan=False, skipkeys=True, separators=(",", ":")).encode()
    except Exception as problem:  # a mapping of someone's own, a cycle, a number that JSON has not
        return json.dumps({"dropped": f"metadata is not JSON: {type(problem).__name__}"}).encode()
    if len(raw) > read.metadata_bytes_max:
        note = f"metadata of {len(raw)} bytes, at most {read.metadata_bytes_max} are kept"
        return json.dumps({"dropped": note}).encode()
    return raw


def _text(value: object) -> str:
    return encodable(str(value))
