"""What the contract suite needs of an implementation of `Transaction`, and the implementations it runs on.

To register another one, write a class with the shape of `Harness` and add a function that makes one to
`IMPLEMENTATIONS`, as a `pytest.param` with its marks; it is given pytest's request, for whatever fixtures it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import pytest

from dlq_stream.core.transaction import Destination, Transaction
from tests.memory import MemoryPartition, Sent

T = TypeVar("T")


class Subject(Protocol):
    """One partition of an implementation, empty at first.

    ``clock_ms`` is what its clock shows; tests set it, backwards too.  ``row_bytes_max`` is about what its changelog
    takes of one row: rows below half of it are taken, rows beyond twice of it are `TooLarge`.
    """

    partition: int
    partitions: int
    clock_ms: int
    row_bytes_max: int

    async def run(self, stage: Callable[[Transaction], T]) -> T:
        """Stage and commit, effects included.  What ``stage`` raises is raised, and nothing of it is committed."""
        ...

    async def read(self, table: str, key: bytes) -> bytes | None:
        """A committed row."""
        ...

    async def scan(
        self, name: str, start: bytes, stop: bytes, limit: int, *, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """A scan of a table or an index by a new transaction."""
        ...

    async def sent(self, topic: str) -> list[Sent]:
        """The committed records of ``topic``, in order; `Sent.partition` is where they are (None: not known)."""
        ...

    async def create_topic(self, name: str, partitions: int = 4, record_bytes_max: int = 100_000) -> str:
        """Make a topic that records can be sent to, not yet known to the destination cache; returns its full name."""
        ...

    async def looked_up(self) -> None:
        """Wait until look-ups that were asked for are done."""
        ...


class Harness(Protocol):
    """Makes subjects; everything it made is taken down by ``close``."""

    async def make(self, partition: int = 0) -> Subject:
        """A new, empty partition with this number."""
        ...

    async def close(self) -> None:
        """Release everything."""
        ...


class MemorySubject:
    """The in-memory partition."""

    def __init__(self, partition: int) -> None:
        self._home = MemoryPartition(partition=partition, row_bytes_max=50_000)
        self._topics: dict[str, Destination] = {}
        self.partition = partition
        self.partitions = self._home.partitions
        self.row_bytes_max = self._home.row_bytes_max
        self.clock_ms = 1_000_000

    async def run(self, stage: Callable[[Transaction], T]) -> T:
        return self._home.run(stage, self.clock_ms)

    async def read(self, table: str, key: bytes) -> bytes | None:
        return self._home.rows[table].get(key)

    async def scan(
        self, name: str, start: bytes, stop: bytes, limit: int, *, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        return self._home.transaction().scan(name, start, stop, limit, reverse=reverse)

    async def sent(self, topic: str) -> list[Sent]:
        return self._home.sent(topic)

    async def create_topic(self, name: str, partitions: int = 4, record_bytes_max: int = 100_000) -> str:
        self._topics[name] = Destination(name, partitions, record_bytes_max=record_bytes_max)
        return name

    async def looked_up(self) -> None:
        for topic in self._home.asked - self._home.destinations.keys():
            self._home.learn(self._topics.get(topic, Destination(topic, refusal="missing")))


class MemoryHarness:
    """Makes in-memory partitions."""

    async def make(self, partition: int = 0) -> Subject:
        return MemorySubject(partition)

    async def close(self) -> None:
        return None


def memory(request: pytest.FixtureRequest) -> Harness:
    """The obviously right one."""
    return MemoryHarness()


def kafka(request: pytest.FixtureRequest) -> Harness:
    """The real one, on the session's broker."""
    from tests.contract.kafka_harness import KafkaHarness

    return KafkaHarness(request.getfixturevalue("kafka").bootstrap)


IMPLEMENTATIONS: list[Any] = [
    pytest.param(memory, id="memory"),
    pytest.param(kafka, id="kafka", marks=pytest.mark.kafka),
]
