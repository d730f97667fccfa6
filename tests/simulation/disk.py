"""A partition's local store: an ordered map that survives the process, is lost, or comes back older than it was."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tests.simulation.life import Life

Changes = Mapping[bytes, bytes | None]

FLUSHED = 0.1
"""How often a write is one after which what is in memory becomes a file."""


class Disk:
    """What one worker holds of one partition: in memory for a while, then in files.

    ``is_copy`` says whether it was a standby that had it open last.
    """

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        self.offsets: dict[str, int] = {}
        self.writes: list[tuple[Changes, Mapping[str, int], int]] = []
        self.identity: Mapping[str, Any] | None = None
        self.is_copy = False
        self.opened_by: Life | None = None
        self._files = _Files()

    @property
    def written_ms(self) -> int | None:
        """The stamp of the last write."""
        return self.writes[-1][2] if self.writes else None

    def write(self, changes: Changes, offsets: Mapping[str, int], now_ms: int) -> None:
        """One atomic write."""
        self.writes.append((dict(changes), dict(offsets), now_ms))
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
        self._files = _Files(dict(self.entries), dict(self.offsets), len(self.writes), self.identity)

    def lose_memory(self) -> None:
        """A process died that had it open: there is no log, so what was not in files is gone."""
        files = self._files
        self.entries, self.offsets, self.keys = dict(files.entries), dict(files.offsets), sorted(files.entries)
        self.identity = files.identity
        del self.writes[files.writes :]

    def wipe(self) -> None:
        """Everything is deleted, files included."""
        self.entries, self.offsets, self.keys, self.writes, self.identity = {}, {}, [], [], None
        self.flush()

    def as_of(self, count: int) -> Disk:
        """The disk as it was after its first ``count`` writes, such as a copy made then."""
        older = Disk()
        for write in self.writes[:count]:
            older.write(*write)
        older.identity, older.is_copy = self.identity, self.is_copy
        older.flush()
        return older


class _Files(NamedTuple):
    """What of a disk is in files, of which so many writes."""

    entries: Mapping[bytes, bytes] = {}
    offsets: Mapping[str, int] = {}
    writes: int = 0
    identity: Mapping[str, Any] | None = None


class DiskStore:
    """`dlq_stream.runtime.rocks.RocksStore` on a disk: as that, it is locked while it is open."""

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
        self.disk.write(changes, offsets, now_ms)
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

    # --- what the state was built from --------------------------------------------------------------------------

    def written_ms(self) -> int | None:
        """The stamp of the last write."""
        return self.disk.written_ms

    def identity(self) -> Mapping[str, Any] | None:
        """What `set_identity` was given."""
        return self.disk.identity

    def set_identity(self, identity: Mapping[str, Any]) -> None:
        self._check()
        self.disk.identity = identity

    def wipe(self, why: str) -> None:
        """The one good reason for it here is that tombstones may have been missed."""
        self._check()
        world = self._life.world
        world.note(self._life.name, f"wipes a store: {why}")
        if why.startswith("it was last complete"):
            world.outcome.figures["stores too old to be trusted"] += 1
        else:
            world.violated(f"{self._life.name} wipes a store because {why}")
        self.disk.wipe()
