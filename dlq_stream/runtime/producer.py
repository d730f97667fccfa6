"""The transactional producer of a partition, on aiokafka.

Every answer is awaited before the transaction ends, and every wait has a deadline below the transaction time-out:
inside a transaction aiokafka retries an unknown topic (or a broker that is away) for ever.

A transaction that failed is not aborted but its producer replaced: ``InitProducerId`` for the same transactional id
aborts what is open and raises the epoch.  aiokafka cannot go on after a refused batch (the sequence numbers of an
idempotent producer have a hole then, KIP-360), so this is one way for all failures instead of two.

The transaction protocol is the one before KIP-890: brokers report the verification of a partition that was just added
as retriable; ``retry_backoff_ms`` is small so that it costs milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import aiokafka
from aiokafka import errors
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch

from dlq_stream.kafka import no_topic_creation
from dlq_stream.runtime.ports import Batch, Fenced, OutcomeUnknown, Refusal, Unavailable, Written

log = logging.getLogger(__name__)

RETRY_BACKOFF_MS = 10
"""aiokafka's pause before it repeats a retriable request; see the module's text."""

SUSPICION_SECONDS = 0.5
"""A write without answer for this long makes us ask whether its destinations still exist."""

_TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
_WHOLE_DESTINATION: Mapping[type[BaseException], str] = {
    errors.TopicAuthorizationFailedError: "not-authorised",
    errors.InvalidTopicError: "invalid-name",
    errors.PolicyViolationError: "policy-violation",
}
_FENCED = (errors.ProducerFenced, errors.InvalidProducerEpoch)
_AWAY = (
    errors.KafkaConnectionError,
    errors.KafkaTimeoutError,
    errors.RequestTimedOutError,
    errors.NodeNotReadyError,
    errors.UnknownTopicOrPartitionError,
    errors.NotLeaderForPartitionError,
    errors.LeaderNotAvailableError,
    TimeoutError,
    OSError,
)


class KafkaProducer:
    """`dlq_stream.runtime.ports.Producer` for one transactional id.

    ``options`` are those of `aiokafka.AIOKafkaProducer` (addresses, security).  ``missing`` answers whether one of some
    topics does not exist, so that a topic deleted in mid-flight is found out within a second, not at the deadline.
    """

    def __init__(
        self,
        transactional_id: str,
        *,
        group: str,
        partition: int,
        options: Mapping[str, Any],
        transaction_timeout_seconds: float,
        request_bytes_max: int,
        missing: Callable[[Collection[str]], Awaitable[bool]],
    ) -> None:
        self._id = transactional_id
        self._group = group
        self._partition = partition
        self._options = {
            **options,
            "transactional_id": transactional_id,
            "transaction_timeout_ms": int(transaction_timeout_seconds * 1000),
            "request_timeout_ms": int(transaction_timeout_seconds * 500),
            "retry_backoff_ms": RETRY_BACKOFF_MS,
            "max_request_size": request_bytes_max,
            "max_batch_size": request_bytes_max,
        }
        self._deadline_seconds = transaction_timeout_seconds * 0.4
        self._missing = missing
        self._producer: aiokafka.AIOKafkaProducer | None = None

    async def start(self) -> None:
        """See `Producer.start`."""
        await self._discard()
        producer = no_topic_creation(aiokafka.AIOKafkaProducer(**self._options))
        self._producer = producer
        try:
            async with asyncio.timeout(self._deadline_seconds * 2):
                await producer.start()
        except _AWAY as error:
            await self._discard()
            raise Unavailable(f"starting producer {self._id}: {error!r}") from error

    async def stop(self) -> None:
        """See `Producer.stop`."""
        await self._discard()

    async def _discard(self) -> None:
        """End the producer without waiting for what it still wants to send: connections first, then its tasks."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        producer._closed = True
        with contextlib.suppress(Exception):
            async with asyncio.timeout(self._deadline_seconds):
                await producer.client.close()
        task = producer._sender.sender_task
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=self._deadline_seconds)

    # --- one transaction ----------------------------------------------------------------------------------------

    async def write(self, batches: Sequence[Batch], offsets: Mapping[str, int]) -> Written:
        """See `Producer.write`."""
        producer = self._started()
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await producer.begin_transaction()
                return await self._write(producer, batches, offsets)
        except _FENCED as error:
            raise Fenced(f"producer {self._id}: {error!r}") from error
        except errors.TopicAuthorizationFailedError as error:  # said of the transaction, before any batch was sent
            topics = error.args[0] if error.args and isinstance(error.args[0], set | frozenset) else set(error.args)
            return Written(refusals=[Refusal(str(topic), -1, "not-authorised") for topic in topics])
        except _AWAY as error:
            raise Unavailable(f"producer {self._id}: {error!r}") from error

    async def _write(
        self, producer: aiokafka.AIOKafkaProducer, batches: Sequence[Batch], offsets: Mapping[str, int]
    ) -> Written:
        work: list[Awaitable[list[int] | Refusal | None]] = [self._produce(producer, batch) for batch in batches]
        if offsets:
            work.append(self._add_offsets(producer, offsets))
        tasks = [asyncio.ensure_future(step) for step in work]
        transaction_end = producer._txn_manager.wait_for_transaction_end()
        try:
            done = asyncio.gather(*tasks)
            waiting = {asyncio.ensure_future(self._gone(batches)), asyncio.ensure_future(_first(done, transaction_end))}
            try:
                finished, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    task.result()
                await done
            finally:
                await _end(waiting)
        finally:
            await _end(tasks)
        written = Written()
        for result in (task.result() for task in tasks[: len(batches)]):
            if isinstance(result, Refusal):
                written.refusals.append(result)
            elif result:
                written.last_offsets.append(result[-1])
        return written

    async def _gone(self, batches: Sequence[Batch]) -> None:
        """Raises `TimeoutError` once a destination turns out to be missing; else waits for ever."""
        topics = {batch.topic for batch in batches if not batch.compress}
        while True:
            await asyncio.sleep(SUSPICION_SECONDS)
            if topics and await self._missing(topics):
                raise TimeoutError("a destination went away")

    async def _add_offsets(self, producer: aiokafka.AIOKafkaProducer, offsets: Mapping[str, int]) -> None:
        await producer.send_offsets_to_transaction(
            {aiokafka.TopicPartition(topic, self._partition): offset for topic, offset in offsets.items()}, self._group
        )

    async def _produce(self, producer: aiokafka.AIOKafkaProducer, batch: Batch) -> list[int] | Refusal:
        """Last offsets of the record batches sent, or the refusal of the destination or of records in it."""
        if batch.partition not in await producer.partitions_for(batch.topic):
            await producer.client.force_metadata_update()
            if batch.partition not in await producer.partitions_for(batch.topic):
                raise errors.UnknownTopicOrPartitionError(f"{batch.topic}-{batch.partition}")
        spans: list[tuple[int, int]] = []
        answers: list[Awaitable[Any]] = []
        for first, builder in _builders(batch):
            spans.append((first, first + builder.record_count()))
            answers.append(await producer.send_batch(builder, batch.topic, partition=batch.partition))
        results = await asyncio.gather(*answers, return_exceptions=True)
        refused: list[int] = []
        reason = ""
        offsets: list[int] = []
        for (first, stop), result in zip(spans, results, strict=True):
            if not isinstance(result, BaseException):
                offsets.append(result.offset + stop - first - 1)
            elif why := _WHOLE_DESTINATION.get(type(result)):
                return Refusal(batch.topic, batch.partition, why)
            elif isinstance(result, (*_FENCED, *_AWAY)) or not isinstance(result, errors.KafkaError):
                raise result
            else:
                refused.extend(range(first, stop))
                reason = "too-large" if isinstance(result, _TOO_LARGE) else f"invalid-record ({result!r})"
        return Refusal(batch.topic, batch.partition, reason, tuple(refused)) if refused else offsets

    async def commit(self) -> None:
        """See `Producer.commit`."""
        producer = self._started()
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await producer.commit_transaction()
        except _FENCED as error:
            raise Fenced(f"producer {self._id}: {error!r}") from error
        except (errors.KafkaError, TimeoutError, OSError) as error:
            raise OutcomeUnknown(f"commit of producer {self._id}: {error!r}") from error

    def _started(self) -> aiokafka.AIOKafkaProducer:
        if self._producer is None:
            raise Unavailable(f"producer {self._id} is not started")
        return self._producer


def _builders(batch: Batch) -> list[tuple[int, BatchBuilder]]:
    """Closed record batches with the position of their first record, none larger than the destination takes."""
    compression = DefaultRecordBatch.CODEC_ZSTD if batch.compress else 0

    def new() -> BatchBuilder:
        return BatchBuilder(batch.batch_bytes_max, compression, is_transactional=1)

    builders: list[tuple[int, BatchBuilder]] = []
    builder = new()
    first = 0
    for position, (key, value, pairs) in enumerate(batch.records):
        headers = list(pairs)
        full = batch.one_by_one and position > first
        if full or builder.append(timestamp=None, key=key, value=value, headers=headers) is None:
            builders.append((first, builder))
            builder, first = new(), position
            builder.append(timestamp=None, key=key, value=value, headers=headers)
    builders.append((first, builder))
    for _, each in builders:
        each.close()
    return builders


async def _first(done: Awaitable[Any], transaction_end: Awaitable[Any]) -> None:
    """Return when all is done; raise as soon as the transaction fails as a whole."""
    both = {asyncio.ensure_future(done), asyncio.ensure_future(asyncio.shield(transaction_end))}
    try:
        finished, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for each in finished:
            each.result()
    finally:
        await _end(both)


async def _end(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel what still runs and collect every result, so that no exception goes unread."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
