"""What is known of topics: asked for once, remembered for a while, never waited for by those who stage."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import pytest

from dlq_stream.core.transaction import Destination
from dlq_stream.runtime import destinations as module
from dlq_stream.runtime.destinations import (
    FRESH_SECONDS,
    LOOK_UP_SECONDS_MAX,
    LOOK_UPS_AT_ONCE_MAX,
    PAUSE_SECONDS,
    UNUSABLE_SECONDS,
    DestinationCache,
)
from tests.runtime.fakes import in_virtual_time


class Source:
    """Knows some topics, and takes its time."""

    def __init__(self) -> None:
        self.partitions = {"orders": 4, "invoices": 2}
        self.asked: list[list[str]] = []
        self.seconds = 0.01
        self.fails: BaseException | None = None

    async def describe(self, topics: Collection[str]) -> Mapping[str, Destination]:
        self.asked.append(sorted(topics))
        await asyncio.sleep(self.seconds)
        if self.fails is not None:
            raise self.fails
        return {
            topic: Destination(topic, self.partitions[topic])
            if topic in self.partitions
            else Destination(topic, refusal="missing")
            for topic in topics
        }


class Cached:
    """A cache at work."""

    def __init__(self) -> None:
        self.source = Source()
        self.cache = DestinationCache(self.source, monotonic=asyncio.get_running_loop().time)
        self.work = asyncio.create_task(self.cache.run())

    def partitions(self, topic: str) -> int | None:
        known = self.cache.known(topic)
        return None if known is None else known.partitions


@in_virtual_time
async def test_what_is_not_known_is_looked_up_in_the_background() -> None:
    """Once for all who ask."""
    cached = Cached()
    assert [cached.partitions(topic) for topic in ("orders", "orders", "nowhere")] == [None, None, None]
    await asyncio.sleep(0.1)
    assert cached.source.asked == [["nowhere", "orders"]]
    assert cached.partitions("orders") == 4
    known = cached.cache.known("nowhere")
    assert known is not None
    assert known.refusal == "missing"


@in_virtual_time
async def test_what_is_known_is_refreshed_while_it_is_used() -> None:
    """And counts until the answer is there."""
    cached = Cached()
    await cached.cache.look_up({"orders"})
    cached.source.partitions["orders"] = 8
    await asyncio.sleep(FRESH_SECONDS - 1)
    assert cached.partitions("orders") == 4
    await asyncio.sleep(2)
    assert len(cached.source.asked) == 1
    assert cached.partitions("orders") == 4
    await asyncio.sleep(0.1)
    assert cached.partitions("orders") == 8
    assert len(cached.source.asked) == 2


@in_virtual_time
async def test_what_was_found_unusable_counts_for_a_second() -> None:
    """A topic that was created meanwhile is not given up for what was known of it before."""
    cached = Cached()
    await cached.cache.look_up({"nowhere"})
    cached.source.partitions["nowhere"] = 1
    assert cached.partitions("nowhere") == 0
    await asyncio.sleep(UNUSABLE_SECONDS + 0.1)
    assert cached.partitions("nowhere") is None
    await asyncio.sleep(0.1)
    assert cached.partitions("nowhere") == 1


@in_virtual_time
async def test_a_refusal_counts_until_it_is_old() -> None:
    """Brokers describe topics to those who may not write to them, too."""
    cached = Cached()
    await cached.cache.look_up({"orders"})
    cached.cache.refuse("orders", "not-authorised")
    cached.cache.refuse("never-seen", "not-authorised")
    await asyncio.sleep(FRESH_SECONDS - 1)
    for topic in ("orders", "never-seen"):
        known = cached.cache.known(topic)
        assert known is not None
        assert known.refusal == "not-authorised"
    assert cached.partitions("orders") == 4
    await asyncio.sleep(2)
    assert cached.cache.known("orders") is None
    await asyncio.sleep(0.1)
    assert cached.cache.known("orders") == Destination("orders", 4)


@pytest.mark.parametrize("trouble", [RuntimeError("brokers"), None])
@in_virtual_time
async def test_a_look_up_that_fails_is_given_up_quietly(trouble: BaseException | None) -> None:
    """By an error or by silence; what was known stays, and whoever asks again starts another."""
    cached = Cached()
    await cached.cache.look_up({"orders"})
    cached.source.fails = trouble
    cached.source.seconds = 0.01 if trouble else 1_000
    began = asyncio.get_running_loop().time()
    await cached.cache.look_up({"orders", "invoices"})
    took = asyncio.get_running_loop().time() - began
    assert took <= LOOK_UP_SECONDS_MAX + PAUSE_SECONDS + 0.01
    assert cached.partitions("orders") == 4
    cached.source.fails, cached.source.seconds = None, 0.01
    assert cached.partitions("invoices") is None
    await asyncio.sleep(0.1)
    assert cached.partitions("invoices") == 2


@in_virtual_time
async def test_those_who_wait_share_an_answer() -> None:
    """Or its absence: twelve partitions that ask at once are not twelve times as slow."""
    cached = Cached()
    await asyncio.gather(*(cached.cache.look_up({"orders"}) for _ in range(12)))
    assert len(cached.source.asked) == 1
    cached.source.seconds = 1_000
    await asyncio.sleep(1)
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(cached.cache.look_up({"invoices"}) for _ in range(12)))
    assert asyncio.get_running_loop().time() - began <= LOOK_UP_SECONDS_MAX + PAUSE_SECONDS + 0.01


@in_virtual_time
async def test_whether_something_is_missing_is_asked_afresh() -> None:
    """A topic is deleted in mid-flight."""
    cached = Cached()
    assert not await cached.cache.missing({"orders", "invoices"})
    del cached.source.partitions["orders"]
    await asyncio.sleep(1)
    assert await cached.cache.missing({"orders", "invoices"})
    assert not await cached.cache.missing(set())


@in_virtual_time
async def test_look_ups_are_bounded() -> None:
    """Many topics are asked for a part at a time."""
    cached = Cached()
    for number in range(LOOK_UPS_AT_ONCE_MAX + 50):
        cached.cache.known(f"topic-{number}")
    await asyncio.sleep(1)
    assert [len(topics) for topics in cached.source.asked] == [LOOK_UPS_AT_ONCE_MAX, 50]


@in_virtual_time
async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not asked for for longest is forgotten."""
    monkeypatch.setattr(module, "DESTINATIONS_MAX", 2)
    cached = Cached()
    for topic in ("orders", "invoices"):
        await cached.cache.look_up({topic})
    assert cached.partitions("orders") == 4
    await cached.cache.look_up({"nowhere"})
    assert [cached.partitions(topic) for topic in ("orders", "nowhere", "invoices")] == [4, 0, None]
