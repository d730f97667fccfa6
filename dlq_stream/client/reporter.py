"""`FailureReporter`: hand a failure over in one call and go on.

It keeps no state between calls but a connection: which message a failure belongs to is read from the record (see
`dlq_stream.client.report`), so reporters of one group may come and go, and work side by side.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from zlib import crc32

from dlq_stream.client.current import current_handling
from dlq_stream.client.delivery import Delivery, delivery_of
from dlq_stream.client.errors import NotStarted, UnusableRecord
from dlq_stream.client.producer import AcknowledgedProducer
from dlq_stream.client.records import AnyRecord, plain_record
from dlq_stream.client.report import Report, Reporting
from dlq_stream.client.targets import Targets, look_at_topics
from dlq_stream.core.commands import Succeeded, Traffic, encode_command
from dlq_stream.core.connection import Brokers, Security, connection_to
from dlq_stream.core.errors import ConfigurationError, TooLarge
from dlq_stream.core.header_values import group_bytes_max
from dlq_stream.core.headers import record_size
from dlq_stream.core.masking import NO_MASKING, Masking
from dlq_stream.core.model import ErrorCategory
from dlq_stream.core.shown import shown
from dlq_stream.kafka import wait_for_brokers
from dlq_stream.settings.masking import masking_in_force


class FailureReporter:
    """Reports failures and outcomes of one consumer group to the system; an async context manager.

    * ``brokers``: ``host:port``, several separated by commas or as a list.  ``group``: the consumer group whose
      failures these are; its retries come back to it.  ``app_id``: whose failures topic.
    * ``outcomes``: this group also says when a retry succeeded (`succeeded`).  The system then takes silence for a
      failure; with False it takes silence for success, after ``outcome_timeout_seconds``.
    * ``linger_ms``: how long a report waits for others to share its batch.  With 0, those share one that come while the
      one before is under way: as many a second when they come by the hundred, and five times as many one by one.
    * ``record_bytes_max``: what the failures topic takes; None asks the brokers at the start.
    * ``timeout_seconds``: how long each of start, report, succeeded and stop may take.
    * ``security``: how the brokers let us in; ``brokers`` may also be a `Connection`, which says both.
    * ``mask_headers`` (patterns of names) and ``mask_pointers`` (JSON pointers): what of a record is hidden before a
      report leaves this process, see `dlq_stream.core.masking`.  A retry is what was reported: what is hidden is gone
      for the handler as well, `Delivery.masked` and the header ``dlq-masked`` say so, and other groups of the source
      topic see it.  None takes DLQ_MASK_HEADERS and DLQ_MASK_POINTERS (or the settings file), by default nothing.

    Raises ConfigurationError for a group or a mask that is none, and for brokers and security that do not fit.
    """

    def __init__(
        self,
        brokers: Brokers,
        group: str,
        *,
        outcomes: bool = True,
        app_id: str = "dlq-stream",
        linger_ms: int = 0,
        record_bytes_max: int | None = None,
        timeout_seconds: float = 30.0,
        security: Security | None = None,
        mask_headers: Sequence[str] | None = None,
        mask_pointers: Sequence[str] | None = None,
    ) -> None:
        self.group = _checked_group(group)
        self.outcomes = outcomes
        self.app_id = app_id
        self._brokers = connection_to(brokers, security)
        self._linger_ms = linger_ms
        self._record_bytes_max = record_bytes_max
        self._timeout_seconds = timeout_seconds
        self._reporting = Reporting(group, outcomes, _masking(mask_headers, mask_pointers))
        self._targets = Targets(f"{app_id}-failures", f"{app_id}-commands" if outcomes else None)
        self._limit = 0
        self._producer: AcknowledgedProducer | None = None
        self._starting = asyncio.Lock()

    @property
    def is_started(self) -> bool:
        """Whether it can report."""
        return self._producer is not None

    async def start(self) -> None:
        """Connect and look at the topics; once started, this does nothing.

        Raises BrokersUnavailable, and ConfigurationError where a topic is missing or may not be seen.
        """
        async with self._starting:
            if self._producer is None:
                self._producer = await self._connected()

    async def _connected(self) -> AcknowledgedProducer:
        await wait_for_brokers(self._brokers, self._timeout_seconds)
        limit = await look_at_topics(self._brokers, self._targets)
        self._limit = self._record_bytes_max or limit
        producer = AcknowledgedProducer(
            self._brokers,
            client_id=f"dlq-stream-reporter-{self.group}",
            linger_ms=self._linger_ms,
            record_bytes_max=self._limit,
            timeout_seconds=self._timeout_seconds,
        )
        await producer.start()
        return producer

    async def stop(self) -> None:
        """Wait for what is being reported, within the time-out, and disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def report(
        self,
        record: AnyRecord,
        error: BaseException,
        *,
        queue: str | None = None,
        category: ErrorCategory | str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Hand over ``record``, which failed with ``error``; returns the message id once the brokers have it all.

        * ``record``: as a consumer of bytes read it (aiokafka, kafka-python, confluent-kafka), or a `PlainRecord`; its
          key, value and headers are kept untouched, unless masking is configured.
        * ``error``: `Permanent` and `RetryAfter` overrule policy, if they are the error itself and not its cause; they
          are described by the error that they were raised from, if any.
        * ``queue``: whose policy applies; the original topic unless named.
        * ``category``: overrules classification, and the error's own `Permanent` or `RetryAfter` where they differ.
        * ``metadata``: anything JSON can say, kept with the attempt for people.

        Within a handler (see `dlq_stream.client.current`) the report of the record that is being handled, whichever way
        it is given, continues its message; that of any other record is about that one.

        Whatever is wrong with ``error`` (its text, its causes, its traceback), it is reported.  When this raises, the
        failure is not handed over, and the record's offset must not be committed: NotStarted, UnusableRecord,
        ConfigurationError (queue, category, rights), TooLarge (also without the stack trace the report exceeds what
        the failures topic takes), BrokersUnavailable (not acknowledged in time), Refused.
        """
        return await self.send(self.prepare(record, error, queue=queue, category=category, metadata=metadata))

    def prepare(
        self,
        record: AnyRecord,
        error: BaseException,
        *,
        queue: str | None = None,
        category: ErrorCategory | str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Report:
        """The report that `report` would send: all that depends on the caller's thread and on the error's frames.

        Raises as `report` does, but for what only brokers can tell.
        """
        self._started()
        handled = current_handling()
        report = self._reporting.report(
            record,
            error,
            queue=queue,
            category=category,
            metadata=metadata,
            now_ms=int(time.time() * 1000),
            current=None if handled is None else handled.record,
        )
        return report if _size(report) <= self._limit else self._smaller(report)

    async def send(self, report: Report) -> str:
        """Write what `prepare` made; returns the message id once the brokers have it.  Raises as `report` does."""
        producer = self._started()
        try:
            await self._write(producer, report)
        except TooLarge:  # the topic takes less than we were told
            smaller = report.without_stacktrace()
            if smaller == report:
                raise
            await self._write(producer, smaller)
        self._note(report.message_id)
        return report.message_id

    def delivery(self, record: AnyRecord) -> Delivery | None:
        """What retry the record is; None for a first delivery.  Raises UnusableRecord.

        A retry that is ``for_another_group`` of the topic is to be skipped.
        """
        return delivery_of(plain_record(record), self.group)

    async def succeeded(self, record: AnyRecord) -> None:
        """Say that processing ``record`` succeeded; returns once the brokers have it.

        Nothing happens where there is nothing to say: the record is no retry, the retry was meant for another group,
        or this reporter does not report outcomes.  Raises as `report` does.
        """
        producer = self._started()
        outcome = self.outcome(record)
        if outcome is not None and self._targets.commands is not None:
            await producer.write(self._targets.commands, outcome.id.hex().encode(), encode_command(outcome), ())

    def outcome(self, record: AnyRecord) -> Succeeded | None:
        """What `succeeded` says of the record; None where that is nothing."""
        delivery = self.delivery(record) if self.outcomes else None
        if delivery is None or not delivery.for_this_group:
            return None
        return Succeeded(bytes.fromhex(delivery.message_id), delivery.attempt)

    async def traffic(self, report: Traffic) -> None:
        """Say how many records were processed and how many of them failed, for the rates that people see.

        Nothing happens where this reporter does not report outcomes.  Raises as `report` does.
        """
        producer = self._started()
        if self._targets.commands is None:
            return
        # Reports of one group and queue belong into one partition; which, does not matter.
        home = crc32(f"{report.group}\0{report.queue}".encode()) % await producer.partitions_of(self._targets.commands)
        await producer.write(self._targets.commands, None, encode_command(report), (), home)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _started(self) -> AcknowledgedProducer:
        if self._producer is None:
            raise NotStarted("the reporter is not started: use it inside `async with`, or call start() first")
        return self._producer

    async def _write(self, producer: AcknowledgedProducer, report: Report) -> None:
        await producer.write(self._targets.failures, report.key, report.value, report.headers)

    def _note(self, message_id: str) -> None:
        """Let whoever called the handler around us know that the record that it handles is reported."""
        handled = current_handling()
        if handled is not None:
            with suppress(UnusableRecord):
                handled.reported |= self._reporting.message_of(handled.record) == message_id

    def _smaller(self, report: Report) -> Report:
        smaller = report.without_stacktrace()
        if (size := _size(smaller)) > self._limit:
            raise TooLarge(
                f"the report of message {report.message_id} has {size} bytes even without its stack trace; "
                f"{self._targets.failures} takes {self._limit} (its max.message.bytes): raise record_bytes_max and run "
                "`dlq-stream init`, or report a record that refers to the payload instead"
            )
        return smaller


def _size(report: Report) -> int:
    return record_size(report.key, report.value, report.headers)


def _checked_group(group: str) -> str:
    try:
        raw = group.encode()
    except (AttributeError, UnicodeEncodeError):
        raise ConfigurationError(f"group: {shown(group)} is not the name of a consumer group") from None
    if not 0 < len(raw) <= group_bytes_max:
        raise ConfigurationError(f"group: {shown(group)} is empty or has more than {group_bytes_max} bytes")
    return group


def _masking(headers: Sequence[str] | None, pointers: Sequence[str] | None) -> Masking:
    in_force = NO_MASKING if headers is not None and pointers is not None else masking_in_force()
    return Masking(
        in_force.header_patterns if headers is None else _several("mask_headers", headers),
        in_force.pointers if pointers is None else _several("mask_pointers", pointers),
    )


def _several(name: str, texts: Sequence[str]) -> tuple[str, ...]:
    if isinstance(texts, str):
        raise ConfigurationError(f"{name}: {shown(texts)} is one text, not a list of texts: write [{texts!r}]")
    return tuple(texts)
