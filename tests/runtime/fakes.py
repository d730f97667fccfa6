"""The ports of a partition, played: a store in memory, a producer that does as told, a clock that is set."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.core.transaction import Destination, Transaction
from dlq_stream.runtime.outcomes import Identification
from dlq_stream.runtime.partition import Partition
from dlq_stream.runtime.ports import Batch, Latest, Run, Written
from dlq_stream.tables import messages
from dlq_stream.tables.messages import Message
from tests.memory import FakeRecord
from tests.simulation.loop import VirtualLoop
from tests.simulation.loop import run as run_virtually

INPUT = "app-failures"
NOW = 1_000_000


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test whose sleeps take no time; what it leaves running is cancelled, what nobody awaited fails it."""

    @functools.wraps(test)
    def run(*arguments: Any, **options: Any) -> None:
        loop = VirtualLoop()
        unhandled: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: unhandled.append(context))
        run_virtually(test(*arguments, **options), loop)
        assert not unhandled

    return run


class Ended(Exception):
    """The process would have ended."""


def fatal(where: str, error: BaseException) -> NoReturn:
    raise Ended(where) from error


class Clock:
    """Shows what it is set to, and goes on with the loop's time."""

    def __init__(self) -> None:
        self.base_ms = NOW

    def now_ms(self) -> int:
        return self.base_ms + int(asyncio.get_running_loop().time() * 1000)


class Store:
    """An ordered map."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.offsets: dict[str, int] = {}
        self.scans: list[tuple[bytes, bytes]] = []
        self.closed = False

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        assert not self.closed
        return [self.entries.get(key) for key in keys]

    def scan(self, start: bytes, stop: bytes, limit: int, *, reverse: bool = False) -> list[tuple[bytes, bytes]]:
        assert not self.closed
        self.scans.append((start, stop))
        found = sorted((key for key in self.entries if start <= key < stop), reverse=reverse)
        return [(key, self.entries[key]) for key in found[:limit]]

    def write(self, changes: Mapping[bytes, bytes | None], offsets: Mapping[str, int], now_ms: int) -> None:
        assert not self.closed
        for key, value in changes.items():
            if value is None:
                self.entries.pop(key, None)
            else:
                self.entries[key] = value
        self.offsets.update(offsets)

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True


Answer = Written | BaseException | Callable[[Sequence[Batch]], Written]


@dataclass
class Producer:
    """Takes everything, unless the next answer says otherwise; ``gate`` holds back what is asked for."""

    starts: int = 0
    stopped: bool = False
    written: list[list[Batch]] = field(default_factory=list)
    committed: list[tuple[list[Batch], dict[str, int]]] = field(default_factory=list)
    on_start: list[BaseException] = field(default_factory=list)
    on_write: list[Answer] = field(default_factory=list)
    on_commit: list[BaseException] = field(default_factory=list)
    gate: Callable[[str], Awaitable[None]] | None = None
    in_doubt: bool = False
    settled: list[Latest] = field(default_factory=list)
    on_settle: list[BaseException] = field(default_factory=list)
    doubt: Callable[[], None] = lambda: None
    _open: tuple[list[Batch], dict[str, int]] | None = None

    async def _pass(self, step: str) -> None:
        if self.gate is not None:
            await self.gate(step)
        await asyncio.sleep(0.001)

    async def start(self) -> None:
        await self._pass("start")
        self.starts += 1
        self._open = None
        if self.on_start:
            raise self.on_start.pop(0)
        self.in_doubt = False

    def when_in_doubt(self, told: Callable[[], None]) -> None:
        self.doubt = told

    async def settle(self, latest: Latest) -> None:
        await self._pass("settle")
        if self.on_settle:
            raise self.on_settle.pop(0)
        self.settled.append(latest)

    async def write(self, batches: Sequence[Batch], offsets: Mapping[str, int]) -> Written:
        assert self._open is None, "a transaction is open"
        self._open = list(batches), dict(offsets)
        self.written.append(list(batches))
        await self._pass("write")
        answer = self.on_write.pop(0) if self.on_write else Written([7] * len(batches))
        if isinstance(answer, BaseException):
            raise answer
        return answer(batches) if callable(answer) else answer

    async def commit(self) -> None:
        await self._pass("commit")
        if self.on_commit:
            raise self.on_commit.pop(0)
        assert self._open is not None
        self.committed.append(self._open)
        self._open = None

    async def stop(self) -> None:
        self.stopped = True

    def sent(self, topic: str) -> list[bytes | None]:
        """Values of the committed records of a topic."""
        return [
            value
            for batches, _ in self.committed
            for batch in batches
            if batch.topic == topic
            for _, value, _ in batch.records
        ]


class Changelog:
    """Finds as many rows as told, at each look."""

    def __init__(self) -> None:
        self.finds: list[int | BaseException] = []
        self.looks = 0
        self.told = Latest()

    async def latest(self) -> Latest:
        await asyncio.sleep(0.001)
        return self.told

    async def catch_up(self) -> int:
        self.looks += 1
        await asyncio.sleep(0.001)
        found = self.finds.pop(0) if self.finds else 0
        if isinstance(found, BaseException):
            raise found
        return found


class Destinations:
    """Every topic exists, with four partitions, unless it is unknown or refused."""

    def __init__(self) -> None:
        self.unknown: set[str] = set()
        self.refused: dict[str, str] = {}
        self.looked_up: list[set[str]] = []
        self.on_look_up: Callable[[], Awaitable[None]] | None = None

    def known(self, topic: str) -> Destination | None:
        return None if topic in self.unknown else Destination(topic, 4, refusal=self.refused.get(topic))

    def refuse(self, topic: str, reason: str) -> None:
        self.refused[topic] = reason

    async def look_up(self, topics: Collection[str]) -> None:
        self.looked_up.append(set(topics))
        if self.on_look_up is not None:
            await self.on_look_up()
        self.unknown -= set(topics)


class Scene:
    """A partition and everything around it."""

    def __init__(self, number: int = 0) -> None:
        self.producer = Producer()
        self.store = Store()
        self.changelog = Changelog()
        self.destinations = Destinations()
        self.clock = Clock()
        self.ours = True
        self.partition = Partition(
            Identification(number, 4, 1, "app"),
            producer=self.producer,
            store=self.store,
            changelog=self.changelog,
            destinations=self.destinations,
            clock=self.clock,
            row_bytes_max=100_000,
            still_ours=lambda: self.ours,
            fatal=fatal,
        )


def key(number: int) -> bytes:
    """A message id."""
    return number.to_bytes(16, "big")


def row(due_ms: int | None = None, closed_ms: int | None = None) -> bytes:
    """An encoded row of `messages` with these index entries."""
    return messages.codec.encode(Message(DLQMessageStatus.PENDING, due_ms, 1, closed_ms, "q"))


def put_row(tx: Transaction, number: int = 1, due_ms: int | None = None) -> None:
    """Stage a row."""
    tx.put("messages", key(number), row(due_ms))


def stored(scene: Scene, number: int = 1) -> bool:
    """Whether the store holds that row."""
    return messages.TABLE.tag + key(number) in scene.store.entries


def run_of(start: int, stop: int, *offsets: int) -> Run:
    """A run of records at these offsets, or at all of them."""
    return Run(
        start, stop, [FakeRecord(INPUT, 0, offset, value=b"%d" % offset) for offset in offsets or range(start, stop)]
    )
