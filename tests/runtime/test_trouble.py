"""What a partition does when brokers, or one destination alone, do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

import pytest

from dlq_stream.core.transaction import UNAVAILABLE, Destination, Transaction
from dlq_stream.runtime import partition as module
from dlq_stream.runtime.outcomes import NOT_OURS, Identification
from dlq_stream.runtime.partition import Partition
from dlq_stream.runtime.ports import TOO_LARGE, Batch, Fenced, Latest, Refusal, Unavailable, Written

TOPIC, OTHER = "orders", "invoices"


class FakeProducer:
    """Answers writes as told; without orders everything is taken."""

    def __init__(self) -> None:
        self.started = 0
        self.answers: list[Written | Exception] = []
        self.away = False
        self.written: list[list[Batch]] = []
        self.in_doubt = False

    def when_in_doubt(self, told: Callable[[], None]) -> None:
        return None

    async def settle(self, latest: Latest) -> None:
        return None

    async def start(self) -> None:
        if self.away:
            raise Unavailable("away")
        self.started += 1

    async def write(self, batches: Sequence[Batch], offsets: Mapping[str, int]) -> Written:
        self.written.append(list(batches))
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return Written([0] * len(batches))

    async def commit(self) -> None:
        return None

    async def stop(self) -> None:
        return None


class FakeDestinations:
    """Every topic exists, until it is refused, and is known, unless it has to be looked up first."""

    def __init__(self) -> None:
        self.unknown: set[str] = set()
        self.refused: dict[str, str] = {}
        self.looked_up: list[set[str]] = []

    def known(self, topic: str) -> Destination | None:
        return None if topic in self.unknown else Destination(topic, 4, refusal=self.refused.get(topic))

    def refuse(self, topic: str, reason: str) -> None:
        self.refused[topic] = reason

    async def look_up(self, topics: Collection[str]) -> None:
        self.looked_up.append(set(topics))
        self.unknown -= set(topics)


class FakeStore:
    """Takes everything, holds nothing."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [None for _ in keys]

    def scan(self, start: bytes, stop: bytes, limit: int, *, reverse: bool = False) -> list[tuple[bytes, bytes]]:
        return []

    def write(self, changes: Mapping[bytes, bytes | None], offsets: Mapping[str, int], now_ms: int) -> None:
        return None

    def close(self) -> None:
        return None


class FakeChangelog:
    """Nothing to catch up with."""

    async def catch_up(self) -> int:
        return 0

    async def latest(self) -> Latest:
        return Latest()


class FakeClock:
    """Stands still."""

    def now_ms(self) -> int:
        return 1_000


class Scene:
    """A partition over fakes."""

    def __init__(self) -> None:
        self.producer = FakeProducer()
        self.destinations = FakeDestinations()
        self.ours = True
        self.expelled = False
        self.partition = Partition(
            Identification(0, 4, 1, "app"),
            producer=self.producer,
            store=FakeStore(),
            changelog=FakeChangelog(),
            destinations=self.destinations,
            clock=FakeClock(),
            row_bytes_max=100_000,
            still_ours=lambda: self.ours,
            fatal=_fatal,
            confirm=self.confirm,
        )

    async def confirm(self) -> None:
        """The brokers know best."""
        self.ours = self.ours and not self.expelled


def _fatal(where: str, error: BaseException) -> NoReturn:
    raise AssertionError(where) from error


def send(*topics: str) -> Any:
    """A stage that writes a record to each topic that is not known to be unusable, and a row."""

    def stage(tx: Transaction) -> list[str]:
        usable = [topic for topic in topics if (known := tx.destination(topic)) is None or known.refusal is None]
        for topic in usable:
            tx.send(topic, b"key", b"value", (), 0)
        tx.put("stats", b"queue\0\0\0", b"\1\0")
        return usable

    return stage


async def test_a_destination_that_alone_keeps_silent_is_put_off() -> None:
    """The turn goes on without it; our own topics are never put off."""
    scene = Scene()
    scene.producer.answers = [Unavailable("deadline", {TOPIC, "app-quarantine"})]
    assert await scene.partition.run(send(TOPIC, OTHER)) == [OTHER]
    assert scene.destinations.refused == {TOPIC: UNAVAILABLE}


async def test_what_a_look_up_finds_says_more_than_silence() -> None:
    """A topic that is gone is not put off."""
    scene = Scene()

    async def look_up(topics: Collection[str]) -> None:
        scene.destinations.refused[TOPIC] = "missing"

    scene.destinations.look_up = look_up  # type: ignore[method-assign]
    scene.producer.answers = [Unavailable("deadline", {TOPIC})]
    assert await scene.partition.run(send(TOPIC)) == []
    assert scene.destinations.refused == {TOPIC: "missing"}


async def test_a_topic_of_ours_that_is_gone_ends_the_process() -> None:
    """Waiting does not bring it back; the next start says what to do."""
    scene = Scene()
    scene.destinations.refused["app-quarantine"] = "missing"

    def stage(tx: Transaction) -> None:
        tx.send("app-quarantine", b"key", b"value", (), 0)

    scene.producer.answers = [Unavailable("gone")]
    with pytest.raises(AssertionError, match="turn of partition 0") as ended:
        await scene.partition.run(stage)
    assert "'app-quarantine' is gone" in str(ended.value.__cause__)


async def test_what_a_topic_of_ours_takes_is_looked_up_where_it_is_not_known() -> None:
    """Then whoever stages knows, and packs or cuts; one that is refused all the same is unexpected."""
    scene = Scene()
    scene.destinations.unknown = {"app-quarantine"}
    known: list[bool] = []

    def stage(tx: Transaction) -> None:
        known.append(tx.destination("app-quarantine") is not None)
        tx.send("app-quarantine", b"key", b"value", (), 0)

    too_large = Written(refusals=[Refusal("app-quarantine", 0, TOO_LARGE, (0,))])
    scene.producer.answers = [too_large]
    await scene.partition.run(stage)
    assert (known, scene.destinations.looked_up) == ([False, True], [{"app-quarantine"}])
    scene.producer.answers = [too_large]
    with pytest.raises(AssertionError, match="turn of partition 0") as ended:
        await scene.partition.run(stage)
    assert "refuse our own topic 'app-quarantine': too-large" in str(ended.value.__cause__)


async def test_brokers_that_are_away_put_nothing_off() -> None:
    """The same is staged again until it is written."""
    scene = Scene()
    scene.producer.answers = [Unavailable("away"), Unavailable("away")]
    assert await scene.partition.run(send(TOPIC)) == [TOPIC]
    assert (scene.destinations.refused, scene.producer.started) == ({}, 2)


async def test_a_partition_that_is_closed_does_not_fence_its_next_owner() -> None:
    """It waits for brokers when it is told to close: whoever answers afterwards may be somebody else's broker."""
    scene = Scene()
    scene.producer.answers = [Unavailable("away")]
    scene.producer.away = True
    turn = asyncio.ensure_future(scene.partition.run(send(TOPIC)))
    await asyncio.sleep(module.BACKOFF_SECONDS_FIRST / 5)
    closing = asyncio.ensure_future(scene.partition.close())
    await asyncio.sleep(0)
    scene.producer.away = False
    await closing
    assert await turn is NOT_OURS
    assert scene.producer.started == 0


async def test_a_partition_of_another_generation_does_not_fence_its_next_owner() -> None:
    """Nor one that was given to another worker while its brokers were silent."""
    scene = Scene()
    scene.producer.answers = [Unavailable("away")]
    scene.ours = False
    assert await scene.partition.run(send(TOPIC)) is NOT_OURS
    assert scene.producer.started == 0


async def test_a_zombie_asks_before_it_fences() -> None:
    """A process that was frozen believes that it is a member: the healthy owner must not be thrown out by it."""
    scene = Scene()
    scene.producer.answers = [Unavailable("deadline")]
    scene.expelled = True
    assert await scene.partition.run(send(TOPIC)) is NOT_OURS
    assert scene.producer.started == 0


async def test_a_zombie_that_was_fenced_lives_on() -> None:
    """It joins again; only a partition that is ours by the brokers' word must not be fenced."""
    scene = Scene()
    scene.producer.answers = [Fenced("a newer one")]
    scene.expelled = True
    assert await scene.partition.run(send(TOPIC)) is NOT_OURS
    scene = Scene()
    scene.producer.answers = [Fenced("a newer one")]
    with pytest.raises(AssertionError, match="fenced while it is ours"):
        await scene.partition.run(send(TOPIC))


async def test_closing_does_not_wait_for_look_ups() -> None:
    """A worker that is told to stop while its brokers are away has seconds."""
    scene = Scene()

    async def silent(batches: Sequence[Batch], offsets: Mapping[str, int]) -> Written:
        scene.partition._tenure.closed = True
        raise Unavailable("deadline")

    scene.producer.write = silent  # type: ignore[method-assign]
    assert await scene.partition.run(send(TOPIC)) is NOT_OURS
    assert scene.destinations.looked_up == []


async def test_refusals_are_those_of_the_records_that_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though what is known of their topic, and so where a record belongs by key, changes while they are written."""
    scene = Scene()
    seen: list[str] = []

    def stage(tx: Transaction) -> None:
        seen.clear()
        for value in (b"1", b"2", b"3"):
            try:
                tx.send(TOPIC, b"key", value, ())
            except Exception as error:
                seen.append(f"{value!r}: {error}")

    async def write(batches: Sequence[Batch], offsets: Mapping[str, int]) -> Written:
        scene.producer.written.append(list(batches))
        if len(scene.producer.written) > 1:
            return Written([0] * len(batches))
        counts = {TOPIC: 1}
        monkeypatch.setattr(scene.destinations, "known", lambda topic: Destination(topic, counts.get(topic, 4)))
        return Written([], [Refusal(TOPIC, batches[0].partition, "invalid", (1,))])

    scene.producer.write = write  # type: ignore[method-assign]
    await scene.partition.run(stage)
    assert len(seen) == 1
    assert seen[0].startswith("b'2'")
