"""`FailureReporter`: hand a failure over in one call and go on.

It keeps no state between calls but a connection: which message a failure belongs to is read from the record (see
`dlq_stream.client.report`), so reporters of one group may come and go, and work side by side.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from dlq_stream.client.delivery import delivery_of
from dlq_stream.client.errors import NotStarted
from dlq_stream.client.producer import AcknowledgedProducer
from dlq_stream.client.report import Report, Reporting
from dlq_stream.client.targets import Targets, look_at_topics
from dlq_stream.core.commands import Succeeded, encode_command
from dlq_stream.core.connection import Brokers, Security, connection_to
from dlq_stream.core.errors import ConfigurationError, TooLarge
from dlq_stream.core.header_values import group_bytes_max
from dlq_stream.core.headers import record_size
from dlq_stream.core.model import ErrorCategory, Record
from dlq_stream.core.shown import shown
from dlq_stream.kafka import wait_for_brokers


class FailureReporter:
    """Reports failures and outcomes of one consumer group to the system; an async context manager.

    * ``brokers``: ``host:port``, several separated by commas or as a list.  ``group``: the consumer group whose
      failures these are; its retries come back to it.  ``app_id``: whose failures topic.
    * ``outcomes``: this group also says when a retry succeeded (`succeeded`).  The system then takes silence for a
      failure; with False it takes silence for success, after ``outcome_timeout_seconds``.
    * ``linger_ms``: how long a report waits for others to share its batch.
    * ``record_bytes_max``: what the failures topic takes; None asks the brokers at the start.
    * ``timeout_seconds``: how long each of start, report, succeeded and stop may take.
    * ``security``: how the brokers let us in; ``brokers`` may also be a `Connection`, which says both.
    """

    def __init__(
        self,
        brokers: Brokers,
        group: str,
        *,
        outcomes: bool = True,
        app_id: str = "dlq-stream",
        linger_ms: int = 5,
        record_bytes_max: int | None = None,
        timeout_seconds: float = 30.0,
        security: Security | None = None,
    ) -> None:
        self.group = _checked_group(group)
        self.outcomes = outcomes
        self.app_id = app_id
        self._brokers = connection_to(brokers, security)
        self._linger_ms = linger_ms
        self._record_bytes_max = record_bytes_max
        self._timeout_seconds = timeout_seconds
        self._reporting = Reporting(group, outcomes)
        self._targets = Targets(f"{app_id}-failures", f"{app_id}-commands" if outcomes else None)
        self._limit = 0
        self._producer: AcknowledgedProducer | None = None

    async def start(self) -> None:
        """Connect and look at the topics; once started, this does nothing.

        Raises BrokersUnavailable, and ConfigurationError where a topic is missing or may not be seen.
        """
        if self._producer is not None:
            return
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
        self._producer = producer

    async def stop(self) -> None:
        """Wait for what is being reported, within the time-out, and disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def report(
        self,
        record: Record,
        error: BaseException,
        *,
        queue: str | None = None,
        category: ErrorCategory | str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Hand over ``record``, which failed with ``error``; returns the message id once the brokers have it all.

        * ``record``: as a consumer of bytes read it; its key, value and headers are kept untouched.
        * ``queue``: whose policy applies; the original topic unless named.  ``category`` overrides classification.
        * ``metadata``: anything JSON can say, kept with the attempt for people.

        Whatever is wrong with ``error`` (its text, its causes, its traceback), it is reported.  When this raises, the
        failure is not handed over, and the record's offset must not be committed: NotStarted, UnusableRecord,
        ConfigurationError (queue, category, rights), TooLarge (also without the stack trace the report exceeds what
        the failures topic takes), BrokersUnavailable (not acknowledged in time), Refused.
        """
        producer = self._started()
        report = self._reporting.report(
            record, error, queue=queue, category=category, metadata=metadata, now_ms=int(time.time() * 1000)
        )
        if _size(report) > self._limit:
            report = self._smaller(report)
        try:
            await self._write(producer, report)
        except TooLarge:  # the topic takes less than we were told
            smaller = report.without_stacktrace()
            if smaller == report:
                raise
            await self._write(producer, smaller)
        return report.message_id

    async def succeeded(self, record: Record) -> None:
        """Say that processing ``record`` succeeded; returns once the brokers have it.

        Nothing happens where there is nothing to say: the record is no retry, the retry was meant for another group,
        or this reporter does not report outcomes.  Raises as `report` does.
        """
        producer = self._started()
        delivery = delivery_of(record, self.group)
        if self._targets.commands is None or delivery is None or not delivery.for_this_group:
            return
        command = encode_command(Succeeded(bytes.fromhex(delivery.message_id), delivery.attempt))
        await producer.write(self._targets.commands, delivery.message_id.encode(), command, ())

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
