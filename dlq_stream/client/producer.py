"""A producer whose `write` returns when the record is on the brokers (acks=all, idempotent), or says why it is not.

aiokafka does the work, and shares batches among concurrent calls.  Three things about it are handled here:

* An idempotent aiokafka producer numbers batches per partition before it sends them.  When the broker refuses one (too
  large, not authorised), the number is used up, and every later batch of that partition is answered "out of order", for
  ever.  So after a refusal a fresh producer takes over; the old one finishes what it has and ends.
* It retries a batch as long as brokers are away, without end.  Every call here has a deadline.  What is still on its
  way then may arrive later: reporting it again is harmless, since a message's id does not change.
* Its requests create missing topics; ours do not (`dlq_stream.kafka`).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    ProducerClosed,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)

from dlq_stream.client.errors import NotStarted
from dlq_stream.core.connection import Brokers
from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError, NotAllowed, Refused, TooLarge
from dlq_stream.core.ids import murmur2
from dlq_stream.core.model import Headers
from dlq_stream.kafka import UNREACHABLE, client_options, no_topic_creation

REFUSALS_MAX = 3
"""A record is refused for good after so many answers that are no invitation to try again, each to a fresh producer."""
RECONNECT_SECONDS = 0.2
BATCH_BYTES_MAX = 262_144
"""Records share a batch up to this, where the topic takes as much; larger batches save no more."""
CAUTIOUS_BATCH_BYTES_MAX = 16_384
"""The same after a batch was refused as too large: less than any failures topic takes, so the next one that is refused
is one large record, and not its neighbours."""
REQUEST_ROOM_BYTES = 65_536
"""A request is larger than the batch in it, and aiokafka compares its limit with an estimate that is larger still."""
REQUEST_TIMEOUT_MS = 10_000
"""One request; a broker that hangs is given up after this and the batch tried again."""

ABANDON_SECONDS_MAX = 1.0
"""So long a sender that is given up may take to notice."""

_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)

log = logging.getLogger(__name__)


class AcknowledgedProducer:
    """See the module.  ``timeout_seconds`` bounds each of `start`, `write` and `stop`."""

    def __init__(
        self, brokers: Brokers, *, client_id: str, linger_ms: int, record_bytes_max: int, timeout_seconds: float
    ) -> None:
        self._options: dict[str, Any] = {
            **client_options(brokers),
            "client_id": client_id,
            "linger_ms": linger_ms,
            "max_batch_size": min(BATCH_BYTES_MAX, record_bytes_max),
            "max_request_size": record_bytes_max + REQUEST_ROOM_BYTES,
            "request_timeout_ms": min(REQUEST_TIMEOUT_MS, max(1, int(timeout_seconds * 1000))),
            "enable_idempotence": True,
            "acks": "all",
        }
        self._timeout_seconds = timeout_seconds
        self._producer: Any = None
        self._renewing = asyncio.Lock()
        self._retired: set[asyncio.Task[None]] = set()
        self._writing = 0
        self._idle = asyncio.Event()
        self._stopping = False

    async def start(self) -> None:
        """Connect.  Raises BrokersUnavailable."""
        self._producer = await self._started()

    async def stop(self) -> None:
        """Let what is under way arrive, within the time-out, and disconnect."""
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        self._stopping = True
        if self._writing:
            with suppress(TimeoutError):  # their callers are told
                async with asyncio.timeout_at(deadline):
                    await self._idle.wait()
        producer, self._producer = self._producer, None
        if producer is not None:
            self._retire(producer, deadline)
        if self._retired:
            await asyncio.wait(self._retired)

    async def write(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, partition: int | None = None
    ) -> None:
        """Return when the record is on the brokers; the key says in which partition, where none is named.

        Raises NotStarted; TooLarge, where the topic does not take it; ConfigurationError, where we may not write there;
        Refused, for whatever else the brokers find; and BrokersUnavailable when the time is up.
        """
        if self._stopping:
            raise NotStarted("the reporter is stopped: use it inside `async with`")
        self._writing += 1
        self._idle.clear()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._write(topic, key, value, headers, partition)
        except TimeoutError:
            raise BrokersUnavailable(
                f"{topic}: not acknowledged within {self._timeout_seconds:g} s; the brokers are away or the topic is "
                "gone. It may still arrive: try again (a repeated report is the same message), and commit nothing "
                "until it is acknowledged"
            ) from None
        finally:
            self._writing -= 1
            if not self._writing:
                self._idle.set()

    async def partitions_of(self, topic: str) -> int:
        """How many partitions the topic has.  Raises NotStarted, and BrokersUnavailable when the time is up."""
        if self._producer is None:
            raise NotStarted("the reporter is not started, or stopped: use it inside `async with`")
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return len(await self._producer.partitions_for(topic))
        except (TimeoutError, KafkaError) as error:
            raise BrokersUnavailable(f"{topic}: no answer within {self._timeout_seconds:g} s: {error!r}") from error

    async def _write(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, partition: int | None
    ) -> None:
        refusals = 0
        while True:
            producer, batch_bytes_max = self._producer, self._options["max_batch_size"]
            if producer is None:
                raise NotStarted("the reporter is not started, or stopped: use it inside `async with`")
            try:
                place = _place_of(producer, topic, key) if partition is None else partition
                await (await producer.send(topic, value, key, place, headers=list(headers)))
                return
            except ProducerClosed:  # it was replaced, or we are stopping: the next round tells
                await asyncio.sleep(0)
            except KafkaError as error:
                is_neighbour = isinstance(error, _TOO_LARGE) and batch_bytes_max > CAUTIOUS_BATCH_BYTES_MAX
                if is_neighbour:
                    self._options["max_batch_size"] = CAUTIOUS_BATCH_BYTES_MAX
                await self._renew(producer)
                if not is_neighbour:
                    refusals += not error.retriable
                    _raise_what_is_final(topic, error, refusals)

    async def _renew(self, broken: Any) -> None:
        """Put a fresh producer in the place of ``broken``, unless someone has done so; try for as long as it takes."""
        async with self._renewing:
            while self._producer is broken:
                try:
                    fresh = await self._started()
                except BrokersUnavailable:
                    await asyncio.sleep(RECONNECT_SECONDS)
                    continue
                if self._producer is broken:
                    self._producer = fresh
                    self._retire(broken)
                else:  # stopped meanwhile
                    self._retire(fresh)

    async def _started(self) -> Any:
        producer = no_topic_creation(AIOKafkaProducer(**self._options))
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await producer.start()
        except BaseException as error:
            with suppress(KafkaError):
                await producer.stop()
            if isinstance(error, UNREACHABLE):
                raise BrokersUnavailable(f"no connection to {self._options['bootstrap_servers']}: {error!r}") from error
            raise
        return producer

    def _retire(self, producer: Any, deadline: float | None = None) -> None:
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        task = asyncio.create_task(self._end(producer, deadline), name="end a producer")
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    async def _end(self, producer: Any, deadline: float) -> None:
        """Flush and close; what the brokers do not take in time is given up, its callers know."""
        try:
            async with asyncio.timeout_at(deadline):
                await producer.stop()
        except (TimeoutError, KafkaError) as error:
            log.warning("a producer was closed with records unacknowledged: %r", error)
            await _abandon(producer)


def _place_of(producer: Any, topic: str, key: bytes | None) -> int | None:
    """The partition that Kafka's default partitioner chooses, as aiokafka's does in three times the time.

    None where it is aiokafka's turn: without a key, or before it knows the topic.
    """
    partitions = producer.client.cluster.partitions_for_topic(topic)
    return None if key is None or not partitions else (murmur2(key) & 0x7FFFFFFF) % len(partitions)


async def _abandon(producer: Any) -> None:
    """Close without flushing.  `stop` alone, cut short, leaves its sender trying for as long as the process lives."""
    with suppress(KafkaError):
        await producer.client.close()
    sender = producer._sender.sender_task
    if sender is not None and not sender.done():
        sender.cancel()
        await asyncio.wait({sender}, timeout=ABANDON_SECONDS_MAX)


def _raise_what_is_final(topic: str, error: KafkaError, refusals: int) -> None:
    """Raise for what no further try cures."""
    if isinstance(error, _TOO_LARGE):
        raise TooLarge(f"{topic}: the brokers refused the record as too large") from error
    if isinstance(error, TopicAuthorizationFailedError):
        raise NotAllowed("Write", "topic", topic) from error
    if isinstance(error, InvalidTopicError):
        raise ConfigurationError(f"{topic}: the brokers do not take this name ({error!r}); set app_id") from error
    if refusals >= REFUSALS_MAX:
        raise Refused(f"{topic}: the brokers refused the record {refusals} times: {error!r}") from error
