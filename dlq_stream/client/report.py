"""A failure report as a record of the failures topic: the original untouched, and what we say in ``dlq-*`` headers.

Pure: record, error, group and time in; key, value and headers out.  It decides which message the failure belongs to.
A retry that was meant for our group continues its message; anything else is a message of its own, whose id follows
from where the record came from and who could not process it, so that reporting it twice makes one message.

Where masking is configured, "untouched" ends there: what is hidden never leaves the process, and no retry has it.  The
report says so (`dlq_stream.core.headers.MASKED`), and the error's texts do not tell what was hidden.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from dlq_stream.client.delivery import Delivery, delivery_of, id_for, origin_of, own_headers
from dlq_stream.client.description import describe, encodable
from dlq_stream.client.errors import Permanent, RetryAfter, UnusableRecord
from dlq_stream.client.records import AnyRecord, PlainRecord, plain_record
from dlq_stream.core import header_values as read
from dlq_stream.core import headers as names
from dlq_stream.core.errors import ConfigurationError, MalformedEvent
from dlq_stream.core.masking import NO_MASKING, Masking, Secrets
from dlq_stream.core.model import ErrorCategory, Headers, Origin
from dlq_stream.core.outgoing import Facts, failure_headers
from dlq_stream.core.shown import shown

PARTS = ("headers", "value")
"""What of a record may be masked, as the header `dlq_stream.core.headers.MASKED` names it."""


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
    masking: Masking = NO_MASKING

    def report(
        self,
        record: AnyRecord,
        error: object,
        *,
        queue: str | None,
        category: ErrorCategory | str | None,
        metadata: Mapping[str, Any] | None,
        now_ms: int,
        current: AnyRecord | None = None,
    ) -> Report:
        """The report of ``record``, which failed with ``error``; ``current`` is what the handler around it was given.

        Raises UnusableRecord where the record's bytes are not to be had, and ConfigurationError for a queue or category
        that the system would not take.  Nothing about ``error`` or ``metadata`` makes it raise.
        """
        plain = plain_record(record)
        if current is not None and current is not record:
            with suppress(UnusableRecord):  # it was changed on its way to the handler; this report is not about it
                plain = continued(plain, plain_record(current))
        origin, delivery = self._delivery_of(plain)
        before = own_headers(plain) if delivery.attempt else {}
        user, value, secrets = self._masked(plain)
        described = describe(error, secrets)
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
            category=_category(category, error),
            failed_at=now_ms,
            retry_topic=_carried_on(before, names.RETRY_TOPIC, read.topic),
            metadata=_metadata(metadata, secrets),
        )
        headers = failure_headers(
            user,
            facts,
            original_key=plain.key,
            outcomes_reported=self.outcomes,
            retry_after_ms=_retry_after_ms(error),
        )
        return Report(delivery.message_id, value, headers)

    def message_of(self, record: AnyRecord) -> str:
        """The id of the message that a report of the record belongs to.  Raises UnusableRecord."""
        return self._delivery_of(plain_record(record))[1].message_id

    def _delivery_of(self, record: PlainRecord) -> tuple[Origin, Delivery]:
        """Where the record comes from, and which delivery of its message it is for our group: 0 for the first."""
        origin = origin_of(record)
        delivery = delivery_of(record, self.group)
        if delivery is None or not delivery.for_this_group:
            delivery = Delivery(id_for(record, origin, self.group), attempt=0, for_this_group=True)
        return origin, delivery

    def _masked(self, record: PlainRecord) -> tuple[Headers, bytes | None, Secrets]:
        """The user's headers and the value as they may leave the process; a header says so where they are not whole."""
        user = tuple([header for header in record.headers if header[0] not in names.OWN_HEADERS])
        headers, value, parts, secrets = self.masking.apply(user, record.value)
        if parts:
            said = (raw or b"" for name, raw in user if name == names.MASKED)
            before = {part for raw in said for part in raw.decode("ascii", "replace").split(",") if part in PARTS}
            kept = tuple(header for header in headers if header[0] != names.MASKED)
            headers = (*kept, (names.MASKED, ",".join(sorted(before.union(parts))).encode()))
        return headers, value, secrets


def continued(record: PlainRecord, current: PlainRecord) -> PlainRecord:
    """``record``, as a part of the handling of ``current``: the same delivery where both are the same record.

    They are the same where ``record``, which is no retry by its own headers, names the place that ``current`` was read
    from, or the one that it came from in the first place: a record that a handler put together by hand, or kept from
    an earlier delivery.  Any other record is reported on purpose, for itself.
    """
    if delivery_of(record, "") is not None:
        return record
    origin = origin_of(current)
    places = ((current.topic, current.partition, current.offset), (origin.topic, origin.partition, origin.offset))
    if (record.topic, record.partition, record.offset) not in places:
        return record
    ours = tuple(header for header in current.headers if header[0] in names.OWN_HEADERS)
    theirs = tuple(header for header in record.headers if header[0] not in names.OWN_HEADERS)
    return PlainRecord(*current[:4], record.key, record.value, (*theirs, *ours))


def _carried_on(before: Mapping[str, bytes | None], name: str, check: Callable[[str, bytes], str]) -> str | None:
    """What a message keeps from one delivery to the next: its queue, and a retry topic of its own."""
    if (raw := before.get(name)) is None:
        return None
    try:
        return check(name, raw)
    except MalformedEvent:
        return None


def _named(queue: str | None) -> str | None:
    if queue is None:
        return None
    try:
        return read.queue("queue", encodable(queue).encode())
    except MalformedEvent as wrong:
        raise ConfigurationError(str(wrong)) from None


def _category(category: ErrorCategory | str | None, error: object) -> ErrorCategory | None:
    """What the caller says of the error; else what the error says of itself."""
    if category is None:
        if issubclass(type(error), Permanent):
            return ErrorCategory.PERMANENT
        # Else the type of the error behind it could be one that is never retried.
        return ErrorCategory.TRANSIENT if issubclass(type(error), RetryAfter) else None
    try:
        return ErrorCategory(category)
    except ValueError:
        raise ConfigurationError(f"category: {shown(category)} is not one of {', '.join(ErrorCategory)}") from None


def _retry_after_ms(error: Any) -> int | None:
    """The wait that the error asks for, cut to the longest that there is: a mistake in it must not cost the report."""
    if not issubclass(type(error), RetryAfter):
        return None
    try:
        wanted: int = math.ceil(error.seconds * 1000)
    except Exception:  # a subclass of someone's own
        return None
    return min(max(wanted, 0), names.retry_after_ms_max)


def _metadata(metadata: Mapping[str, Any] | None, secrets: Secrets) -> bytes | None:
    """JSON; what cannot be written, or is too much, is replaced by a note: the failure counts more than its notes."""
    if metadata is None:
        return None
    try:
        raw = json.dumps(metadata, default=_text, allow_nan=False, skipkeys=True, separators=(",", ":")).encode()
        raw = secrets.hide_in_json(raw)
    except Exception as problem:  # a mapping of someone's own, a cycle, a number that JSON has not
        return json.dumps({"dropped": f"metadata is not JSON: {type(problem).__name__}"}).encode()
    if len(raw) > read.metadata_bytes_max:
        note = f"metadata of {len(raw)} bytes, at most {read.metadata_bytes_max} are kept"
        return json.dumps({"dropped": note}).encode()
    return raw


def _text(value: object) -> str:
    return encodable(str(value))
