"""A partition's local store: an ordered map that survives the process, is lost, or comes back older than it was."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence

from tests.simulation.life import Life

Changes = Mapping[bytes, bytes | None]

FLUSHED = 0.1
"""How often a write is one after which what is in memory becomes a file."""


class Disk:
    """What one worker holds of one partition: in memory for a while, then in files."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        self.offsets: dict[str, int] = {}
        self.writes: list[tuple[Changes, Mapping[str, int]]] = []
        self.opened_by: Life | None = None
        self._files: tuple[dict[bytes, bytes], dict[str, int], int] = {}, {}, 0

    def write(self, changes: Changes, offsets: Mapping[str, int]) -> None:
        """One atomic write."""
        self.writes.append((dict(changes), dict(offsets)))
        for key, value in changes.items():
            if value is None:
                if self.entries.pop(key, None) is not None:
                    del self.keys[bisect_left(self.keys, key)]
            else:
                if key not in self.entries:
                    insort(self.keys, key)
                self.entries[key] = value
        self.offsets.update(offsets)

    def flush(self) -> None:
        """Everything so far is in files."""
        self._files = dict(self.entries), dict(self.offsets), len(self.writes)

    def lose_memory(self) -> None:
        """A process died that had it open: there is no log, so what was not in files is gone."""
        entries, offsets, count = self._files
        self.entries, self.offsets, self.keys = dict(entries), dict(offsets), sorted(entries)
        del self.writes[count:]

    def as_of(self, count: int) -> Disk:
        """The disk as it was after its first ``count`` writes, such as a copy made then."""
        older = Disk()
        for changes, offsets in self.writes[:count]:
            older.write(changes, offsets)
        older.flush()
        return older


class DiskStore:
    """`dlq_stream.runtime.ports.Store` on a disk; like RocksDB it is locked while it is open."""

    def __init__(self, life: Life, disk: Disk, written: Callable[[Disk], None]) -> None:
        holder = disk.opened_by
        if holder is not None and not holder.dead:
            raise RuntimeError(f"{life.name} opens a store that {holder.name} has open")
        if holder is not None:
            disk.lose_memory()
        disk.opened_by = life
        self.disk = disk
        self._life = life
        self._open = True
        self._written = written

    def _check(self) -> None:
        self._life.check()
        if not self._open:
            raise RuntimeError(f"{self._life.name} uses a store that it has closed")

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._check()
        entries = self.disk.entries
        return [entries.get(key) for key in keys]

    def scan(self, start: bytes, stop: bytes, limit: int, *, reverse: bool = False) -> list[tuple[bytes, bytes]]:
        self._check()
        if limit <= 0 or start >= stop:
            return []
        keys, entries = self.disk.keys, self.disk.entries
        first, last = bisect_left(keys, start), bisect_left(keys, stop)
        found = keys[first:last][::-1][:limit] if reverse else keys[first : min(last, first + limit)]
        return [(key, entries[key]) for key in found]

    def write(self, changes: Changes, offsets: Mapping[str, int], now_ms: int) -> None:
        self._check()
        self._life.point("store: before")
        self.disk.write(changes, offsets)
        if self._life.random.random() < FLUSHED:
            self.disk.flush()
        self._written(self.disk)
        self._life.point("store: after")

    def close(self) -> None:
        self._check()
        self._life.point("close store")
        self.disk.flush()
        self._open = False
        self.disk.opened_by = None

    def offset(self, table: str) -> int | None:
        """Up to where (and including which) a changelog was applied."""
        return self.disk.offsets.get(table)
