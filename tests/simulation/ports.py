"""The ports of a partition over the fake broker, but for producer and changelog: clock, what is known of topics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from dlq_stream.core.destinations import DEAD_LETTER_SUFFIX
from dlq_stream.core.transaction import Destination
from tests.simulation.broker import Broker
from tests.simulation.life import Life

EPOCH_MS = 1_700_000_000_000
"""The wall-clock time at which a run begins."""


class WorkerClock:
    """The wall clock of one machine: off by a constant, until somebody sets it."""

    def __init__(self, time: Callable[[], float], skew_ms: int) -> None:
        self.skew_ms = skew_ms
        self._time = time

    def now_ms(self) -> int:
        return EPOCH_MS + int(self._time() * 1000) + self.skew_ms


class SeenClock:
    """`dlq_stream.runtime.ports.Clock` of one partition, which remembers the latest that it has shown."""

    def __init__(self, clock: WorkerClock) -> None:
        self.highest_ms = 0
        self._clock = clock

    def now_ms(self) -> int:
        now_ms = self._clock.now_ms()
        self.highest_ms = max(self.highest_ms, now_ms)
        return now_ms


class SimTopicSource:
    """`dlq_stream.runtime.destinations.TopicSource`: as the real one, with the fake broker's answers."""

    def __init__(self, life: Life, broker: Broker) -> None:
        self._life = life
        self._broker = broker

    async def describe(self, topics: Collection[str]) -> Mapping[str, Destination]:
        wanted = sorted(topics)
        return await self._life.request("describe", lambda: {topic: self._describe(topic) for topic in wanted})

    def _describe(self, name: str) -> Destination:
        broker = self._broker
        source = broker.topics.get(name.removesuffix(DEAD_LETTER_SUFFIX))
        if name not in broker.topics and name.endswith(DEAD_LETTER_SUFFIX) and source and broker.creates_topics:
            broker.create(name, len(source.logs)).bytes_max = source.bytes_max + 65_536
        topic = broker.topics.get(name)
        if topic is None:
            return Destination(name, refusal="missing")
        return Destination(name, len(topic.logs), topic.compacted, topic.bytes_max)
