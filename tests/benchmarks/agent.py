"""An agent that fails: reports first failures at a steady rate, fails its retries, and notes how late each one came.

Late is what a ``read_committed`` consumer sees: the clock when the record was handed out, less ``dlq-due-at``.  Worker,
agent and broker are on one machine and share its clock.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Iterable

from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition

from dlq_stream.kafka import no_topic_creation
from tests.benchmarks.processes import Deployment
from tests.benchmarks.records import Event
from tests.kafka_clients import consumer

PULSE_SECONDS = 0.01
"""How often the failures that are due to be reported are."""

PATIENCE_SECONDS = 20.0
"""How long nothing may come before what is missing counts as lost."""

CHANGED = frozenset(("dlq-due-at", "dlq-first-failed-at", "dlq-error-type", "dlq-retry-after-ms"))
"""Headers of a retry that its failure does not repeat."""


class FailingAgent:
    """``attempts_max`` retries come of each message; all but the last are failed again, which is reported.

    `late_ms` is how late each retry came, by attempt.
    """

    def __init__(self, deployment: Deployment, attempts_max: int) -> None:
        self._deployment = deployment
        self._attempts_max = attempts_max
        self._sent: set[asyncio.Future[object]] = set()
        self.late_ms: dict[int, list[float]] = defaultdict(list)

    @property
    def seen(self) -> int:
        """Retries that came."""
        return sum(map(len, self.late_ms.values()))

    async def run(self, made: Iterable[Event], per_second: int, count: int) -> None:
        """Report so many failures at this rate, and go on until every retry of them came."""
        bootstrap = self._deployment.bootstrap
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
        places = [TopicPartition(self._deployment.source, number) for number in range(self._deployment.partitions)]
        async with no_topic_creation(producer), consumer(bootstrap, isolation_level="read_committed") as client:
            client.assign(places)
            reporting = asyncio.create_task(self._report(producer, iter(made), per_second, count))
            latest = time.monotonic()
            while self.seen < count * self._attempts_max:
                for records in (await client.getmany(timeout_ms=500)).values():
                    now_ms = time.time_ns() / 1e6
                    latest = time.monotonic()
                    for record in records:
                        await self._fail(producer, record, now_ms)
                if time.monotonic() - latest > PATIENCE_SECONDS:
                    raise TimeoutError(f"{self.seen} of {count * self._attempts_max} retries came")
            await reporting
            await asyncio.gather(*self._sent)

    async def _report(self, producer: AIOKafkaProducer, made: Iterable[Event], per_second: int, count: int) -> None:
        began = time.monotonic()
        reported = 0
        while reported < count:
            by_now = min(count, int((time.monotonic() - began) * per_second))
            for key, value, headers in itertools.islice(made, by_now - reported):
                await self._send(producer, key, value, headers)
            reported = max(reported, by_now)
            await asyncio.sleep(PULSE_SECONDS)

    async def _fail(self, producer: AIOKafkaProducer, record: ConsumerRecord, now_ms: float) -> None:
        named = dict(record.headers)
        attempt = int(named["dlq-attempt"])
        self.late_ms[attempt].append(now_ms - int(named["dlq-due-at"]))
        if attempt < self._attempts_max:
            headers = [header for header in record.headers if header[0] not in CHANGED]
            headers += [("dlq-original-key", record.key), ("dlq-error-type", b"TimeoutError")]
            await self._send(producer, named["dlq-message-id"], record.value, headers)

    async def _send(
        self, producer: AIOKafkaProducer, key: bytes, value: bytes | None, headers: list[tuple[str, bytes | None]]
    ) -> None:
        sent = await producer.send(self._deployment.failures, value, key=key, headers=headers)
        self._sent.add(sent)
        sent.add_done_callback(self._sent.discard)
