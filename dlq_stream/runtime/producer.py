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
from dataclasses import replace
from functools import partial
from typing import Any

import aiokafka
from aiokafka import errors
from aiokafka.producer import sender as aiokafka_sender
from aiokafka.producer.message_accumulator import BatchBuilder

from dlq_stream.kafka import no_topic_creation, on_coordinator_lost
from dlq_stream.runtime import compression, settlement
from dlq_stream.runtime.broker_errors import FENCED, is_away, is_unreachable, refusal_of
from dlq_stream.runtime.ports import Batch, Fenced, Latest, OutcomeUnknown, Refusal, Unavailable, Written

log = logging.getLogger(__name__)

RETRY_BACKOFF_MS = 10
"""aiokafka's pause before it repeats a retriable request; see the module's text."""

AFTER_COMMIT_SECONDS = 0.005
"""aiokafka's pause before it asks again to begin a transaction whose predecessor the brokers are still ending; there it
is a constant.  Of the transactions of partitions that are always busy one in 16 met it (measured at 1,500 retries/s).
"""

SUSPICION_SECONDS = 0.5
"""A write without answer for this long makes us ask whether its destinations still exist."""


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
        compression.install()
        aiokafka_sender.BACKOFF_OVERRIDE = AFTER_COMMIT_SECONDS  # removes: 20 ms of waiting for what takes one or two
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
        self._committed_last: bool | None = None
        self._lost = asyncio.Event()
        self._has_committed = False
        self._told: Callable[[], None] = lambda: None

    @property
    def in_doubt(self) -> bool:
        """See `Producer.in_doubt`: a connection to a coordinator broke, and something was committed since the start."""
        return self._has_committed and self._lost.is_set()

    def when_in_doubt(self, told: Callable[[], None]) -> None:
        """See `Producer.when_in_doubt`."""
        self._told = told

    async def start(self) -> None:
        """See `Producer.start`."""
        await self._discard()
        producer = no_topic_creation(aiokafka.AIOKafkaProducer(**self._options))
        self._producer = producer
        self._lost = lost = asyncio.Event()
        on_coordinator_lost(producer.client, partial(self._lose, lost))
        try:
            async with asyncio.timeout(self._deadline_seconds * 2):
                committed = await settlement.committed_last(producer)
                if committed is not None:  # else what an earlier try was told
                    self._committed_last = committed
                await producer.start()
        except (errors.KafkaError, TimeoutError, OSError) as error:
            await self._discard()
            if not is_away(error):
                raise
            raise Unavailable(f"starting producer {self._id}: {error!r}") from error
        if lost.is_set():  # what was decided may be out of date
            await self._discard()
            raise Unavailable(f"starting producer {self._id}: the connection to its coordinator broke")
        self._has_committed = False

    def _lose(self, lost: asyncio.Event) -> None:
        doubted = self.in_doubt
        lost.set()
        if self.in_doubt and not doubted:
            self._told()

    async def settle(self, latest: Latest) -> None:
        """See `Producer.settle`."""
        producer = self._started()
        commit = self._committed_last
        if commit is None:
            if not latest.hangs:
                return
            commit = latest.applied
        if latest.hangs and commit:  # of what was aborted it is fencing that ends it
            log.warning("%s: committed, but not ended by the brokers: what went to %s", self._id, latest.outputs)
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await settlement.settle(producer, latest.outputs, self._group, commit=commit)
        except FENCED as error:
            raise Fenced(f"producer {self._id}: {error!r}") from error
        except (errors.KafkaError, TimeoutError, OSError) as error:
            if not is_unreachable(error):
                raise
            raise Unavailable(f"settling of producer {self._id}: {error!r}") from error
        self._committed_last = None

    async def stop(self) -> None:
        """See `Producer.stop`."""
        await self._discard()

    async def _discard(self) -> None:
        """End the producer without waiting for what it still wants to send: its tasks first, then its connections."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        producer._closed = True
        tasks = _tasks_of(producer._sender)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self._deadline_seconds)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(self._deadline_seconds):
                await producer.client.close()

    # --- one transaction ----------------------------------------------------------------------------------------

    async def write(self, batches: Sequence[Batch], offsets: Mapping[str, int]) -> Written:
        """See `Producer.write`."""
        producer = self._started()
        silent: set[str] = set()
        try:
            async with asyncio.timeout(self._deadline_seconds):
                if self.in_doubt:
                    raise errors.KafkaConnectionError("the connection to a coordinator broke")
                await producer.begin_transaction()
                return await self._write(producer, batches, offsets, silent)
        except FENCED as error:
            raise Fenced(f"producer {self._id}: {error!r}") from error
        except errors.TopicAuthorizationFailedError as error:  # said of the transaction, before any batch was sent
            topics = error.args[0] if error.args and isinstance(error.args[0], set | frozenset) else set(error.args)
            return Written(refusals=[Refusal(str(topic), -1, "not-authorised") for topic in topics])
        except TimeoutError as error:
            await self._discard()
            raise Unavailable(f"producer {self._id}: {error!r}", silent) from error
        except (errors.KafkaError, OSError) as error:
            if not is_away(error):
                raise
            await self._discard()  # before aiokafka asks the next coordinator to add partitions to this transaction
            # Its traceback holds the batches, and its task holds it: a cycle of megabytes for each try.
            raise Unavailable(f"producer {self._id}: {error!r}") from error.with_traceback(None)

    async def _write(
        self,
        producer: aiokafka.AIOKafkaProducer,
        batches: Sequence[Batch],
        offsets: Mapping[str, int],
        silent: set[str],
    ) -> Written:
        """Write all of it side by side; where that ends early, ``silent`` holds the topics that alone kept silent."""
        work: list[Awaitable[list[int] | Refusal | None]] = [self._produce(producer, batch) for batch in batches]
        if offsets:
            work.append(self._add_offsets(producer, offsets))
        tasks = [asyncio.ensure_future(step) for step in work]
        transaction_end = producer._txn_manager.wait_for_transaction_end()
        try:
            done = asyncio.gather(*tasks)
            waiting = {
                asyncio.ensure_future(self._gone(batches)),
                asyncio.ensure_future(_first(done, transaction_end)),
                asyncio.ensure_future(self._broken()),
            }
            try:
                finished, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    task.result()
                await done
            except asyncio.CancelledError:  # the deadline
                missing = [batch for batch, task in zip(batches, tasks, strict=False) if not task.done()]
                if tasks[-1].done() and not any(batch.compress for batch in missing):  # offsets and changelogs are in
                    silent.update(batch.topic for batch in missing)
                raise
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

    async def _broken(self) -> None:
        """Raise once a coordinator went away."""
        await self._lost.wait()
        raise errors.KafkaConnectionError("the connection to a coordinator broke")

    async def _add_offsets(self, producer: aiokafka.AIOKafkaProducer, offsets: Mapping[str, int]) -> None:
        await producer.send_offsets_to_transaction(
            {aiokafka.TopicPartition(topic, self._partition): offset for topic, offset in offsets.items()}, self._group
        )

    async def _produce(self, producer: aiokafka.AIOKafkaProducer, batch: Batch) -> list[int] | Refusal:
        """Last offsets of the record batches sent, or the refusal of the destination or of records in it."""
        # aiokafka's first metadata are of all topics; from the first new topic on they are only of those it was told
        # of.  A topic that it forgets with records on their way has no leader then, and they wait until the deadline.
        producer.client.add_topic(batch.topic)
        if batch.partition not in await producer.partitions_for(batch.topic):
            await producer.client.force_metadata_update()
            if batch.partition not in await producer.partitions_for(batch.topic):
                raise errors.UnknownTopicOrPartitionError(f"{batch.topic}-{batch.partition}")
        if batch.one_by_one:
            return await self._narrow_down(producer, batch)
        builders = _builders(batch)
        await compression.make([each for _, each in builders if isinstance(each, compression.CompressedBatch)])
        answers = [await _sent(producer, each, batch) for _, each in builders]
        offsets: list[int] = []
        refused: list[int] = []
        reason = ""
        for (first, builder), answer in zip(builders, await _settled(answers), strict=True):
            count = builder.record_count()
            if not isinstance(answer, BaseException):
                offsets.append(answer.offset + count - 1)
            elif not (refused and isinstance(answer, errors.OutOfOrderSequenceNumber)):  # else what follows a refusal
                whole, reason = refusal_of(answer)
                if whole:
                    return Refusal(batch.topic, batch.partition, reason)
                refused.extend(range(first, first + count))
        return Refusal(batch.topic, batch.partition, reason, tuple(refused)) if refused else offsets

    async def _narrow_down(self, producer: aiokafka.AIOKafkaProducer, batch: Batch) -> list[int] | Refusal:
        """Halve what is refused until it is single records; names those found by half the deadline.

        What a broker refused it did not append, so the sequence numbers go on where they were.
        """
        clock = asyncio.get_running_loop()
        until = clock.time() + self._deadline_seconds / 2
        todo = [(first, first + builder.record_count()) for first, builder in reversed(_builders(batch))]
        offsets: list[int] = []
        refused: list[int] = []
        reason = ""
        while todo and not (refused and clock.time() > until):
            first, stop = todo.pop()
            [(_, builder)] = _builders(replace(batch, records=batch.records[first:stop]))
            [answer] = await _settled([await _sent(producer, builder, batch)])
            if not isinstance(answer, BaseException):
                offsets.append(answer.offset + stop - first - 1)
                continue
            whole, why = refusal_of(answer)
            if whole:
                return Refusal(batch.topic, batch.partition, why)
            place = aiokafka.TopicPartition(batch.topic, batch.partition)
            producer._txn_manager.increment_sequence_number(place, first - stop)
            if stop - first == 1:
                refused.append(first)
                reason = why
            else:
                middle = (first + stop) // 2
                todo += [(middle, stop), (first, middle)]
        return Refusal(batch.topic, batch.partition, reason, tuple(refused)) if refused else offsets

    async def commit(self) -> None:
        """See `Producer.commit`."""
        producer = self._started()
        try:
            async with asyncio.timeout(self._deadline_seconds):
                self._has_committed = True  # or maybe
                await producer.commit_transaction()
        except FENCED as error:
            raise Fenced(f"producer {self._id}: {error!r}") from error
        except (errors.KafkaError, TimeoutError, OSError) as error:
            raise OutcomeUnknown(f"commit of producer {self._id}: {error!r}") from error

    def _started(self) -> aiokafka.AIOKafkaProducer:
        if self._producer is None:
            raise Unavailable(f"producer {self._id} is not started")
        return self._producer


def _builders(batch: Batch) -> list[tuple[int, BatchBuilder]]:
    """Closed record batches with the position of their first record, none larger than the destination takes."""

    def new() -> BatchBuilder:
        if batch.compress:
            return compression.CompressedBatch(batch.batch_bytes_max)
        return BatchBuilder(batch.batch_bytes_max, 0, is_transactional=1)

    builders: list[tuple[int, BatchBuilder]] = []
    builder = new()
    first = 0
    for position, (key, value, pairs) in enumerate(batch.records):
        headers = list(pairs)
        if builder.append(timestamp=None, key=key, value=value, headers=headers) is None:
            builders.append((first, builder))
            builder, first = new(), position
            builder.append(timestamp=None, key=key, value=value, headers=headers)
    builders.append((first, builder))
    for _, each in builders:
        each.close()
    return builders


async def _first(done: Awaitable[Any], transaction_end: Awaitable[Any]) -> None:
    """Return when all is done; raise as soon as the transaction fails as a whole."""
    both = [asyncio.ensure_future(asyncio.shield(transaction_end)), asyncio.ensure_future(done)]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for each in both:  # the transaction's end first: what failed because of it says less
            if each.done():
                each.result()
    finally:
        await _end(both)


async def _sent(producer: aiokafka.AIOKafkaProducer, builder: BatchBuilder, batch: Batch) -> asyncio.Future[Any]:
    """The answer to come.  Where the transaction ends before that, nobody waits for it: what it says is heard here."""
    answer: asyncio.Future[Any] = await producer.send_batch(builder, batch.topic, partition=batch.partition)
    answer.add_done_callback(_hear)
    return answer


def _hear(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()


async def _settled(answers: Sequence[Awaitable[Any]]) -> list[Any]:
    """Answers to record batches, errors among them."""
    return await asyncio.gather(*answers, return_exceptions=True)


def _tasks_of(sender: Any) -> set[asyncio.Task[Any]]:
    """What a sender has running.

    It keeps its requests' tasks in a local variable, and waits for them when it is cancelled, even those that wait for
    metadata which a closed client never gets.
    """
    if sender.sender_task is None:
        return set()
    frame = sender.sender_task.get_coro().cr_frame
    return {sender.sender_task} | (frame.f_locals.get("tasks", set()) if frame is not None else set())


async def _end(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel what still runs and collect every result, so that no exception goes unread."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
