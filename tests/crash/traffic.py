"""The agents of a crash test, as one process in any language would be: reports failures, consumes retries, answers.

First failures are reported at a steady rate.  Every retry and dead letter is answered as the story wants it, once, the
first time it is seen by a ``read_committed`` consumer.  What is seen here only drives the traffic; the verdict reads
the topics again.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.structs import RecordMetadata

from dlq_stream.kafka import no_topic_creation
from tests.crash.story import FAILS, GROUP, HOPELESS, PARTITIONS, SUCCEEDS, Delivery, Message, Story
from tests.kafka_clients import Header, consumer

BURST_SECONDS = 0.05
"""How far first failures may run ahead of their rate: what a portion of them is."""

PORTION = 2_000
"""Of messages that are reported at once, so many are handed to the producer between two waits."""

ORIGINAL_TIMESTAMP_MS = 1_700_000_000_000
"""When the original records were written; any instant will do."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of a scenario's topics."""

    failures: str
    commands: str
    source: str

    @property
    def dead_letters(self) -> str:
        """Where messages go that are given up."""
        return f"{self.source}-dlq"


@dataclass(frozen=True, slots=True)
class _Watched:
    """See `Traffic.first_retry`."""

    partitions: Collection[int]
    due_after_ms: int
    seen: asyncio.Future[float]


class Traffic:
    """The reporting and the answering side; start both with `run`."""

    def __init__(self, bootstrap: str, topics: Topics, story: Story, per_second: float) -> None:
        self._bootstrap = bootstrap
        self._topics = topics
        self._story = story
        self._per_second = per_second
        self._messages = story.by_id()
        self._retries = set(story.retries())
        self._dead_letters = set(story.dead_letters())
        self._sent: list[asyncio.Future[object]] = []
        self._watched: list[_Watched] = []
        self.unexpected = 0

    @property
    def seconds(self) -> float:
        """How long the reporting of first failures takes, but for those beforehand."""
        return len(self._story.in_turn()) / self._per_second

    @property
    def missing(self) -> int:
        """Retries and dead letters that have not been seen yet."""
        return len(self._retries) + len(self._dead_letters)

    def first_retry(self, partitions: Collection[int], due_after_ms: int) -> asyncio.Future[float]:
        """The instant (of `time.monotonic`) at which a retry of these partitions is seen that fell due after that one.

        So it cannot be one that whoever had the partitions until then has emitted.
        """
        watched = _Watched(frozenset(partitions), due_after_ms, asyncio.get_running_loop().create_future())
        self._watched.append(watched)
        return watched.seen

    async def report_beforehand(self) -> Mapping[int, int]:
        """Report those that wait all the time, as fast as can be; returns the end of what was written, by partition."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap, acks="all", enable_idempotence=True, linger_ms=20, max_batch_size=1 << 20
        )
        ends: dict[int, int] = {}
        async with no_topic_creation(producer):
            rest = iter(self._story.beforehand())
            while portion := list(itertools.islice(rest, PORTION)):
                for written in await asyncio.gather(*[await self._report_of(producer, each, 0) for each in portion]):
                    ends[written.partition] = max(written.offset + 1, ends.get(written.partition, 0))
        return ends

    async def run(self, patience_seconds: float) -> None:
        """Report all others and answer until all is seen, or nothing new was for ``patience_seconds`` after that."""
        producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap, acks="all", enable_idempotence=True, linger_ms=2)
        async with no_topic_creation(producer):
            answering = asyncio.create_task(self._answer(producer))
            try:
                await self._report(producer)
                await self._until_seen(answering, patience_seconds)
            finally:
                answering.cancel()
                with suppress(asyncio.CancelledError):
                    await answering
            await asyncio.gather(*self._sent)

    # --- reporting ----------------------------------------------------------------------------------------------

    async def _report(self, producer: AIOKafkaProducer) -> None:
        """Send first failures and poison at the agreed rate."""
        messages = self._story.in_turn()
        poison_every = len(messages) // max(1, len(self._story.poison))
        poison = iter(enumerate(self._story.poison))
        began = time.monotonic()
        for message in messages:
            if (ahead := message.number / self._per_second - (time.monotonic() - began)) > BURST_SECONDS:
                await asyncio.sleep(ahead)
            for _ in range(1 + message.repeated):
                await self._send_failure(producer, message, 0)
            if message.number % poison_every == 0 and (piece := next(poison, None)) is not None:
                await self._send_poison(producer, *piece)
        for piece in poison:
            await self._send_poison(producer, *piece)

    async def _send_failure(self, producer: AIOKafkaProducer, message: Message, attempt: int) -> None:
        self._sent.append(await self._report_of(producer, message, attempt))

    async def _report_of(
        self, producer: AIOKafkaProducer, message: Message, attempt: int
    ) -> asyncio.Future[RecordMetadata]:
        headers = list(failure_headers(message, attempt, self._topics.source))
        # A retry's failure goes where the key says, as any client's would.
        partition = message.sent_to if attempt == 0 else None
        return await producer.send(
            self._topics.failures, message.value, key=message.id.encode(), partition=partition, headers=headers
        )

    async def _send_poison(self, producer: AIOKafkaProducer, number: int, value: bytes) -> None:
        headers = [("dlq-original-topic", self._topics.source.encode()), ("dlq-attempt", b"many")]
        partition = self._story.poison_partition(number)
        self._sent.append(await producer.send(self._topics.failures, value, partition=partition, headers=headers))

    # --- answering ----------------------------------------------------------------------------------------------

    async def _until_seen(self, answering: asyncio.Task[None], patience_seconds: float) -> None:
        missing, since = self.missing, time.monotonic()
        while self.missing and not answering.done():
            await asyncio.sleep(0.1)
            if self.missing != missing:
                missing, since = self.missing, time.monotonic()
            elif time.monotonic() - since > patience_seconds:
                return
        if answering.done():
            answering.result()

    async def _answer(self, producer: AIOKafkaProducer) -> None:
        source, dead = self._topics.source, self._topics.dead_letters
        async with consumer(self._bootstrap, isolation_level="read_committed") as client:
            client.assign([TopicPartition(topic, number) for topic in (source, dead) for number in range(PARTITIONS)])
            while True:
                polled = await client.getmany(timeout_ms=100)
                seen = time.monotonic()  # all of them; answering the first ones takes its time
                for place, records in polled.items():
                    for record in records:
                        if place.topic == source:
                            self.tell(record, seen)
                        await (self._on_retry if place.topic == source else self._on_dead_letter)(producer, record)

    def tell(self, record: ConsumerRecord, seen: float) -> None:
        """Tell whoever waits for this retry; ``seen`` is the instant at which it was."""
        message = self._messages.get(delivery_of(record).id)
        for each in self._watched:
            if message is None or each.seen.done() or message.home not in each.partitions:
                continue
            if int(dict(record.headers)["dlq-due-at"] or 0) > each.due_after_ms:
                each.seen.set_result(seen)

    async def _on_retry(self, producer: AIOKafkaProducer, record: ConsumerRecord) -> None:
        delivery = delivery_of(record)
        if delivery not in self._retries:  # the verdict will tell
            self.unexpected += 1
            return
        self._retries.discard(delivery)
        message = self._messages[delivery.id]
        outcome = message.fate.outcomes[delivery.attempt]
        if outcome in (FAILS, HOPELESS):
            await self._send_failure(producer, message, delivery.attempt)
        elif outcome is SUCCEEDS:
            await self._send_command(producer, message, {"type": "succeeded", "attempt": delivery.attempt})

    async def _on_dead_letter(self, producer: AIOKafkaProducer, record: ConsumerRecord) -> None:
        id_ = delivery_of(record).id
        if id_ not in self._dead_letters:
            self.unexpected += 1
            return
        self._dead_letters.discard(id_)
        message = self._messages[id_]
        if message.fate.order is not None:
            # The operator has seen the row as its first failure left it.
            order = {"type": message.fate.order.value, "revision": 1, "reason": "crash test", "by": "story"}
            await self._send_command(producer, message, order)

    async def _send_command(self, producer: AIOKafkaProducer, message: Message, fields: Mapping[str, object]) -> None:
        value = json.dumps({**fields, "message_id": message.id}).encode()
        self._sent.append(await producer.send(self._topics.commands, value, key=message.id.encode()))


STACKTRACE = b"Traceback (most recent call last):\n" + b'  File "agent.py", line 10, in handle\n' * 8


def failure_headers(message: Message, attempt: int, source: str) -> Iterator[Header]:
    """The headers by which the failure of a delivery is reported; a retry's repeat what the first one said."""
    yield from message.headers
    hopeless = message.fate.outcomes[attempt] is HOPELESS
    kind, text = ("ValidationError", "field celsius: required") if hopeless else ("TimeoutError", "no answer in 30 s")
    yield "dlq-message-id", message.id.encode()
    yield "dlq-attempt", b"%d" % attempt
    yield "dlq-queue", message.queue.encode()
    yield "dlq-group", GROUP.encode()
    yield "dlq-original-topic", source.encode()
    yield "dlq-original-partition", b"%d" % message.source_partition
    yield "dlq-original-offset", b"%d" % message.number
    yield "dlq-original-timestamp", b"%d" % ORIGINAL_TIMESTAMP_MS
    yield "dlq-original-key", message.key
    yield "dlq-error-type", kind.encode()
    yield "dlq-error-message", text.encode()
    yield (
        "dlq-error-stacktrace",
        b"Traceback (most recent call last):\n" + b'  File "agent.py", line 10, in handle\n' * 8,
    )
    yield "dlq-outcomes", b"reported"
    if (wait_ms := message.waits_ms[attempt]) is not None:
        yield "dlq-retry-after-ms", b"%d" % wait_ms


DELIVERY_HEADERS = ("dlq-message-id", "dlq-attempt")
"""What `delivery_of` looks at."""


def delivery_of(record: ConsumerRecord) -> Delivery:
    """The message and the attempt that a record names in its headers; the last of repeated ones counts."""
    headers = dict(record.headers)
    return Delivery((headers.get("dlq-message-id") or b"").decode(), int(headers.get("dlq-attempt") or -1))
