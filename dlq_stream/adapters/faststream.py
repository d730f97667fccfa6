"""Failures of FastStream's handlers of Kafka records: a middleware that reports what raises, and lets FastStream go on.

    from faststream import AckPolicy, FastStream
    from faststream.kafka import KafkaBroker
    from dlq_stream import FailureReporter
    from dlq_stream.adapters.faststream import FailureReports

    reporter = FailureReporter("localhost:9092", group="heat-agents")
    broker = KafkaBroker("localhost:9092", middlewares=[FailureReports(reporter)])
    app = FastStream(broker, on_startup=[reporter.start], after_shutdown=[reporter.stop])

    @broker.subscriber(
        "heat-processing", group_id="heat-agents", ack_policy=AckPolicy.ACK, auto_offset_reset="earliest"
    )
    async def handle(reading: dict):
        bake(reading)

* The ack policy has to be ACK (or NACK_ON_ERROR, or MANUAL).  FastStream's default, ACK_FIRST, commits offsets while
  handlers run: whatever a crash interrupts is lost.  A subscriber with it, or with another ``group_id`` than the
  reporter's, is stopped at its first record, before that is committed, and says why.
* What fails is the whole of it: parsing, validation, the handler, publishing its result.  ``RejectMessage`` counts as a
  permanent failure, ``AckMessage`` as a success; ``NackMessage`` and others of FastStream's own are left to it.
* Retries that are meant for another consumer group are acknowledged and not handled; those for this one are followed by
  a report of their outcome.
* While a report is not acknowledged, the subscriber waits with its record, and says so in the log.  After
  ``max_poll_interval_ms`` Kafka gives its partitions to somebody else, who reads the record again.
* A batch that fails is reported record by record.  A batch handler sees retries that are meant for others, unless the
  whole batch is; `Delivery.for_another_group` tells.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from aiokafka import TopicPartition

from dlq_stream.adapters.holding import is_failure, until_acknowledged
from dlq_stream.client.current import Handling, handling
from dlq_stream.client.errors import Permanent
from dlq_stream.client.reporter import FailureReporter

try:
    from faststream import AckPolicy, BaseMiddleware
    from faststream.exceptions import AckMessage, IgnoredException, RejectMessage
except ImportError as missing:
    raise ImportError(
        "dlq_stream.adapters.faststream needs FastStream, which is not installed: pip install 'dlq-stream[faststream]'"
    ) from missing

log = logging.getLogger(__name__)


class FailureReports:
    """What goes into a `KafkaBroker`'s ``middlewares``.  The reporter is started and stopped by the app, see above."""

    def __init__(self, reporter: FailureReporter) -> None:
        self.reporter = reporter

    def __call__(self, msg: Any, /, *, context: Any) -> BaseMiddleware[Any, Any]:
        """FastStream makes a middleware for each record (or batch, a tuple of records)."""
        return _OfOne(msg, context, self.reporter)


class _NotForUs(Exception):
    """Raised instead of calling the handler, and caught before anybody else sees it."""


class _OfOne(BaseMiddleware[Any, Any]):
    def __init__(self, msg: Any, context: Any, reporter: FailureReporter) -> None:
        super().__init__(msg, context=context)
        self._reporter = reporter
        self._records: tuple[Any, ...] = () if msg is None else msg if isinstance(msg, tuple) else (msg,)
        self._handled: Handling | None = None

    async def on_receive(self) -> None:
        """Refuse a subscriber that would lose records, with its place in the topic set back to this one."""
        subscriber = self.context.get("handler_")
        if subscriber is None or not self._records:
            return
        problem = _problem_of(subscriber, self._reporter.group)
        if problem:
            log.critical("%s: stopped at its first record, which is not committed", problem)
            for record in reversed(self._records):
                consumer = getattr(record, "consumer", subscriber.consumer)  # its own, where a subscriber has several
                consumer.seek(TopicPartition(record.topic, record.partition), record.offset)
            if (app := self.context.get("app")) is not None:
                app.exit()  # FastStream itself does not get so far: stopping a subscriber cancels whoever stops it
            raise SystemExit(problem)

    async def consume_scope(self, call_next: Callable[[Any], Awaitable[Any]], msg: Any) -> Any:
        """Call the handler, which knows then what it handles; but not for what is meant for others."""
        if self._records and not self._ours():
            raise _NotForUs
        if len(self._records) != 1:
            return await call_next(msg)
        with handling(self._records[0]) as self._handled:
            return await call_next(msg)

    async def after_processed(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> bool:
        """Report what became of the records; True where that settles the exception."""
        match exc_val:
            case _NotForUs():
                return True
            case None | AckMessage():
                await self._succeeded()
                return False
            case RejectMessage():
                await self._failed(Permanent("rejected by its handler"))
                return True
            case IgnoredException():
                return False
        if not is_failure(exc_val):
            return False
        await self._failed(exc_val)
        return True

    def _ours(self) -> list[Any]:
        deliveries = [(record, self._reporter.delivery(record)) for record in self._records]
        return [record for record, delivery in deliveries if delivery is None or not delivery.for_another_group]

    async def _succeeded(self) -> None:
        if self._handled is not None and self._handled.reported:
            return  # by the handler itself
        for record in self._records:
            if self._reporter.outcome(record) is not None:
                await until_acknowledged(lambda record=record: self._reporter.succeeded(record))  # type: ignore[misc]

    async def _failed(self, error: BaseException) -> None:
        for record in self._ours():
            await until_acknowledged(lambda record=record: self._reporter.report(record, error))  # type: ignore[misc]


def _problem_of(subscriber: Any, group: str) -> str:
    """Why records of this subscriber would be lost; empty where they would not."""
    name = f"subscriber {subscriber.specification.call_name}"
    if subscriber.ack_policy is AckPolicy.ACK_FIRST:
        return (
            f"{name}: its ack_policy, ACK_FIRST (FastStream's default), commits records before they are handled: set "
            "ack_policy=AckPolicy.ACK"
        )
    if subscriber.group_id != group:
        return (
            f"{name}: its group_id is {subscriber.group_id!r} and the reporter's group {group!r}: retries would be "
            "meant for somebody else"
        )
    return ""
