"""A partition in memory: `Transaction` over plain dicts, for tests of the tables and the engine.

It is written to be obviously right rather than fast: staged operations are a list, and a roll-back replays what is left
of it.  Index entries are staged with the rows they come from, as every implementation does it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, cast

from dlq_stream.core.errors import Refused, TooLarge
from dlq_stream.core.headers import record_size
from dlq_stream.core.model import Headers
from dlq_stream.core.transaction import Destination, F, Finishing, IndexMoves
from dlq_stream.tables import INDEXES, TABLES

T = TypeVar("T")

_DERIVE = {spec.name: spec.derive for spec in TABLES}
_NAMES = [*(spec.name for spec in TABLES), *(spec.name for spec in INDEXES)]


class Sent(NamedTuple):
    """A record on its way out; ``partition`` None is by key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int | None

    def header(self, name: str) -> bytes | None:
        """The last header of this name."""
        return next((value for key, value in reversed(self.headers) if key == name), None)


@dataclass(frozen=True)
class FakeRecord:
    """A Kafka record as read."""

    topic: str = "dlq-stream-failures"
    partition: int = 0
    offset: int = 0
    timestamp: int = 1_700_000_000_000
    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()


@dataclass
class MemoryPartition:
    """Committed state of one partition, and what was sent from it."""

    partition: int = 0
    partitions: int = 4
    row_bytes_max: int = 2_000_000
    now_ms: int = 0
    destinations: dict[str, Destination] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    refused: dict[tuple[str, bytes | None, bytes | None], str] = field(default_factory=dict)
    rows: dict[str, dict[bytes, bytes]] = field(default_factory=lambda: {name: {} for name in _NAMES})
    outbox: list[Sent] = field(default_factory=list)
    commits: int = 0

    def transaction(self, now_ms: int | None = None) -> MemoryTransaction:
        """A new transaction; its clock is never behind an earlier one's."""
        self.now_ms = max(self.now_ms, self.now_ms if now_ms is None else now_ms)
        return MemoryTransaction(self)

    def commit(self, tx: MemoryTransaction) -> None:
        """Make everything that was staged visible, then call the effects in order."""
        tx.finish()
        for name, staged in tx.staged.items():
            for key, value in staged.items():
                if value is None:
                    self.rows[name].pop(key, None)
                else:
                    self.rows[name][key] = value
        self.outbox += tx.sends
        self.commits += 1
        for effect in tx.effects:
            effect()

    def run(self, stage: Callable[[MemoryTransaction], T], now_ms: int | None = None) -> T:
        """Stage and commit."""
        tx = self.transaction(now_ms)
        result = stage(tx)
        self.commit(tx)
        return result

    def learn(self, *destinations: Destination) -> None:
        """What is known of these topics from now on."""
        self.destinations |= {destination.topic: destination for destination in destinations}

    def sent(self, topic: str) -> list[Sent]:
        """What was sent to ``topic`` by committed transactions."""
        return [record for record in self.outbox if record.topic == topic]


class MemoryTransaction:
    """`dlq_stream.core.transaction.Transaction` over a `MemoryPartition`."""

    def __init__(self, home: MemoryPartition) -> None:
        self.partition = home.partition
        self.partitions = home.partitions
        self.now_ms = home.now_ms
        self._home = home
        self._operations: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._shared: Finishing | None = None
        self._clear()

    def _clear(self) -> None:
        self.staged: dict[str, dict[bytes, bytes | None]] = {name: {} for name in _NAMES}
        self.sends: list[Sent] = []
        self.effects: list[Callable[[], None]] = []

    def _do(self, operation: Callable[..., None], *arguments: Any) -> None:
        self._operations.append((operation, arguments))
        operation(*arguments)

    def get_many(self, table: str, keys: Collection[bytes]) -> dict[bytes, bytes | None]:
        staged, committed = self.staged[table], self._home.rows[table]
        return {key: staged[key] if key in staged else committed.get(key) for key in keys}

    def put(self, table: str, key: bytes, value: bytes, moves: IndexMoves | None = None) -> None:
        derive = _DERIVE[table]
        if moves is not None and derive is not None:  # whoever says so must be right
            assert moves == derive(key, self.get_many(table, (key,))[key], value)
        if len(key) + len(value) > self._home.row_bytes_max:
            raise TooLarge(f"a row of {len(value)} bytes for table {table!r}")
        self._do(self._write, table, key, value)

    def written(self, table: str) -> frozenset[bytes]:
        return frozenset(self.staged[table])

    def delete(self, table: str, key: bytes) -> None:
        self._do(self._write, table, key, None)

    def _write(self, table: str, key: bytes, value: bytes | None) -> None:
        derive = _DERIVE[table]
        if derive is not None:
            removed, added = derive(key, self.get_many(table, (key,))[key], value)
            for index, entry in removed:
                self.staged[index][entry] = None
            for index, entry in added:
                self.staged[index][entry] = b""
        self.staged[table][key] = value

    def scan(
        self, name: str, start: bytes, stop: bytes, limit: int, *, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        merged: dict[bytes, bytes | None] = {**self._home.rows[name], **self.staged[name]}
        found = [(key, value) for key, value in merged.items() if value is not None and start <= key < stop]
        return sorted(found, reverse=reverse)[:limit]

    def destination(self, topic: str) -> Destination | None:
        known = self._home.destinations.get(topic)
        if known is None:
            self._home.asked.add(topic)
        return known

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, partition: int | None = None
    ) -> None:
        if (topic, key, value) in self._home.refused:
            raise Refused(f"{topic}: {self._home.refused[topic, key, value]}")
        known = self._home.destinations.get(topic)
        if known is not None and record_size(key, value, headers) > known.record_bytes_max:
            raise TooLarge(f"a record for topic {topic!r}")
        self._do(lambda sent: self.sends.append(sent), Sent(topic, key, value, headers, partition))

    def mark(self) -> int:
        return len(self._operations)

    def rollback(self, mark: int) -> None:
        kept = self._operations[:mark]
        self._operations = []
        self._clear()
        for operation, arguments in kept:
            self._do(operation, *arguments)

    def shared(self, make: Callable[[], F]) -> F:
        if self._shared is None:
            self._shared = make()
        return cast(F, self._shared)

    def finish(self) -> None:
        if self._shared is not None:
            self._shared.finish()

    def after_commit(self, effect: Callable[[], None]) -> None:
        self._do(lambda wanted: self.effects.append(wanted), effect)
