"""The topics and names of one test of `RetryConsumer`, and what its handlers saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from dlq_stream import RetryConsumer
from dlq_stream.core.model import Record
from tests.kafka_clients import Outgoing, committed_offsets, create_topics, produce
from tests.kafka_fixture import unique_name

PARTITIONS = 4


class Agent:
    """The topics and names of one test, and what its handlers saw."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.app = unique_name("app")
        self.topic = unique_name("heat")
        self.group = unique_name("agents")
        self.failures = f"{self.app}-failures"
        self.commands = f"{self.app}-commands"
        self.seen: list[tuple[str, int, int]] = []

    async def make_topics(self, *more: str) -> None:
        topics = (self.failures, self.commands, self.topic, *more)
        await create_topics(self.bootstrap, *topics, partitions=PARTITIONS)

    async def send(self, count: int, *, topic: str = "", headers: Any = (), value: str = "{}") -> None:
        await produce(
            self.bootstrap,
            [
                Outgoing(topic or self.topic, value.format(number).encode(), b"key-%d" % (number % 50), headers)
                for number in range(count)
            ],
        )

    def note(self, record: Record) -> None:
        self.seen.append((record.topic, record.partition, record.offset))

    async def handle(self, record: Record) -> None:
        self.note(record)

    @asynccontextmanager
    async def consuming(self, handler: Any = None, **options: Any) -> AsyncIterator[RetryConsumer]:
        """A consumer at work; it has ended in order when this ends."""
        given = {"app_id": self.app, "commit_seconds": 0.2} | options
        consumer = RetryConsumer(self.topic, self.group, handler or self.handle, self.bootstrap, **given)
        task = asyncio.create_task(consumer.run())
        try:
            yield consumer
        finally:
            consumer.stop()
            await task

    async def until(self, holds: Callable[[], bool], seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while True:
                if holds():
                    return
                await asyncio.sleep(0.02)

    async def until_committed(self, total: int, seconds: float = 20) -> None:
        """Wait until the group has committed so many records of the topic."""
        async with asyncio.timeout(seconds):
            while True:
                if await self.committed() >= total:
                    return
                await asyncio.sleep(0.1)

    async def committed(self) -> int:
        offsets = await committed_offsets(self.bootstrap, self.group)
        return sum(offset for place, offset in offsets.items() if place.topic == self.topic)
