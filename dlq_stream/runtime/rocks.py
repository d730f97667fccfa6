"""The store of a partition: one RocksDB with all tables and indexes under one-byte prefixes.

One database per partition, so that a commit is one `WriteBatch` and a worker opens few databases.  What the database
holds is always committed in Kafka, and the changelog offset travels in the same batch.

So there is no write-ahead log (nor in Kafka Streams' stores, for the same reason): the changelog is one.  What a crash
takes away, at most the memtables, is read from there at the next start; a log would be half of what a write costs.
Memtables become files in the order they were written, whole, so rows and offsets on disk always belong together.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rocksdict

log = logging.getLogger(__name__)

META = b"\x00"
"""Prefix of the store's own entries; no table or index has it."""

_LOCKED = "/LOCK: "
_CORRUPTION = "Corruption: "
_DAMAGED = (_CORRUPTION, "No such file or directory")
"""What RocksDB's errors say, who has no codes for us.  Not "lock": checksums are of blocks."""

BLOCK_CACHE_BYTES = 16 << 20
"""Blocks of files that are kept unpacked, of all partitions of the process together.

Little is asked for twice: of a million pending messages those that are due have their rows anywhere, and looks for new
ones (one in a hundred is told "maybe" by the filters) fill any cache with blocks that nobody wants.  Emissions of such
cost the same with 16 and with 64 MiB; where 50,000 are due at once, and in files, 1 of 70 µs more.  The files as they
are lie in the system's page cache.
"""
WRITE_BUFFER_BYTES = 16 << 20
"""Memtable per partition; there are at most two."""
FLUSH_SECONDS = 60.0
"""What was written is in a file after so long at the latest (or with the first write after it), be it ever so little:
a crash costs a restart no more, and the stamp of the last write on disk is not taken for old."""
MEMTABLE_BLOOM = 0.02
"""Part of a memtable that tells which keys are not in it: a new message's row is looked for first, and is nowhere."""
OPEN_FILES_MAX = 256
"""Open files per partition."""

_cache: Any = None


def _options() -> Any:
    global _cache
    if _cache is None:
        _cache = rocksdict.Cache(BLOCK_CACHE_BYTES)
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(_cache)
    table.set_bloom_filter(10, False)
    # Filters and block indexes stay outside of the cache: 10 B a message, of files that are open.  In it (partitioned,
    # the upper levels pinned) a look for a new message takes twice as long, 1 of 40 µs more.
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(2)
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM)
    options.set_memtable_whole_key_filtering(True)
    options.set_allow_concurrent_memtable_write(False)  # a partition writes alone
    options.set_max_open_files(OPEN_FILES_MAX)
    options.set_keep_log_file_num(2)
    return options


def _database(path: Path) -> Any:
    db = rocksdict.Rdict(str(path), options=_options())
    db.set_write_options(_unlogged())
    return db


def _unlogged() -> Any:
    options = rocksdict.WriteOptions()
    options.disable_wal = True  # type: ignore[assignment]  # a property, which its stub calls a method
    return options


class RocksStore:
    """`dlq_stream.runtime.ports.Store` in a directory of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found_damaged = path.with_name(f"{path.name}.damaged")
        self._db = self._open()
        self._options = _unlogged()
        self._flushed = time.monotonic()

    def _open(self) -> Any:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            db = _database(self.path)
        except Exception as error:  # rocksdict raises nothing more specific
            text = str(error)
            if _LOCKED in text:
                raise RuntimeError(f"the local state {self.path} is in use by another process: {text}") from error
            if not any(sign in text for sign in _DAMAGED):  # a full disk or a missing right is not cured by deleting
                raise RuntimeError(f"the local state {self.path} cannot be opened: {text}") from error
            return self._anew(text)
        if self._found_damaged.exists():  # only now, for whoever has it open would have kept us out
            db.close()
            return self._anew(self._found_damaged.read_text())
        return db

    def _anew(self, why: str) -> Any:
        log.warning("local state %s is damaged, deleted, and built anew from the changelogs: %s", self.path, why)
        shutil.rmtree(self.path)
        db = _database(self.path)
        self._found_damaged.unlink(missing_ok=True)
        return db

    @contextmanager
    def _noting_damage(self) -> Iterator[None]:
        """Damage that is met ends the process; the next one must not meet it again, in whatever it does first.

        RocksDB may meet it by itself, and tells the next write of it.
        """
        try:
            yield
        except Exception as error:
            if _CORRUPTION in str(error):
                self._found_damaged.write_text(str(error))
            raise

    def wipe(self, why: str) -> None:
        """Delete everything, loudly."""
        log.warning("local state %s is deleted and built anew from the changelogs: %s", self.path, why)
        self.close()
        shutil.rmtree(self.path)
        self._db = self._open()

    def close(self) -> None:
        """See `Store.close`."""
        self._db.close()

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `Store.get_many`."""
        with self._noting_damage():
            found: list[bytes | None] = self._db.get(list(keys))
        return found

    def scan(self, start: bytes, stop: bytes, limit: int, *, reverse: bool = False) -> list[tuple[bytes, bytes]]:
        """See `Store.scan`."""
        if limit <= 0 or start >= stop:
            return []
        with self._noting_damage():
            return self._scan(start, stop, limit, reverse)

    def _scan(self, start: bytes, stop: bytes, limit: int, reverse: bool) -> list[tuple[bytes, bytes]]:
        bounds = rocksdict.ReadOptions()
        bounds.set_iterate_upper_bound(stop)  # no lower one: rocksdict 0.3.29 takes that for the upper one, too
        entries = self._db.iter(bounds)  # must not outlive this call: it holds the database's lock
        if reverse:
            entries.seek_to_last()
            step = entries.prev
        else:
            entries.seek(start)
            step = entries.next
        found: list[tuple[bytes, bytes]] = []
        while entries.valid() and len(found) < limit:
            key = entries.key()
            if key < start:
                break
            found.append((key, entries.value()))
            step()
        entries.status()
        return found

    def write(self, changes: Mapping[bytes, bytes | None], offsets: Mapping[str, int], now_ms: int) -> None:
        """See `Store.write`."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key in sorted(changes):  # neighbours are cheap to insert: the memtable is a skip list
            value = changes[key]
            if value is None:
                delete(key)
            else:
                put(key, value)
        for table, offset in offsets.items():
            put(META + b"offset:" + table.encode(), b"%d" % offset)
        put(META + b"written", b"%d" % now_ms)
        with self._noting_damage():
            self._db.write(batch, self._options)
        if time.monotonic() > self._flushed + FLUSH_SECONDS:
            self.flush(wait=False)

    def flush(self, *, wait: bool = True) -> None:
        """Have what was written in files."""
        self._flushed = time.monotonic()
        with self._noting_damage():
            self._db.flush(wait)

    # --- what the state was built from --------------------------------------------------------------------------

    def offset(self, table: str) -> int | None:
        """Changelog offset up to which (and including which) the table was applied."""
        return self._number(META + b"offset:" + table.encode())

    def written_ms(self) -> int | None:
        """The last instant as of which the state is known to lack nothing."""
        return self._number(META + b"written")

    def _number(self, key: bytes) -> int | None:
        [value] = self.get_many([key])
        return None if value is None else int(value)

    def identity(self) -> dict[str, Any] | None:
        """What the state was built from, as given to `set_identity`."""
        [value] = self.get_many([META + b"identity"])
        return None if value is None else json.loads(value)

    def set_identity(self, identity: Mapping[str, Any]) -> None:
        """Remember what the state is being built from."""
        with self._noting_damage():
            self._db.put(META + b"identity", json.dumps(identity, sort_keys=True).encode())
