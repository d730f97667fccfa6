"""The store on RocksDB: what is damaged is built anew and loudly, what is in use or out of reach is left alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dlq_stream.runtime import rocks
from dlq_stream.runtime.rocks import RocksStore

OTHER_PROCESS = """
import pathlib, sys
from dlq_stream.runtime.rocks import RocksStore
store = RocksStore(pathlib.Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""

WRITES = 6_000
WRITER = f"""
import os, pathlib, sys
from dlq_stream.runtime.rocks import RocksStore
store = RocksStore(pathlib.Path(sys.argv[1]))
for number in range({WRITES}):
    store.write({{b"m%06d" % number: os.urandom(10_000), b"d%06d" % number: b""}}, {{"messages": number}}, number)
print({WRITES}, flush=True)
sys.stdin.read()
"""


def filled(path: Path, rows: int = 3_000) -> RocksStore:
    """A store with files of every kind."""
    store = RocksStore(path)
    store.set_identity({"app_id": "app"})
    store.write({b"m%05d" % number: b"%d" % number * 40 for number in range(rows)}, {"messages": 7}, 1_000)
    store._db.flush()
    store.write({b"a%05d" % number: b"later" for number in range(10)}, {"attempts": 8}, 2_000)
    return store


def count(store: RocksStore) -> int:
    return len(store.scan(b"a", b"z", 1_000_000))


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    """Rows, offsets, time and identity; numbers of other tables are not known."""
    filled(tmp_path / "p0").close()
    store = RocksStore(tmp_path / "p0")
    assert count(store) == 3_010
    assert store.get_many([b"m00001", b"m99999"]) == [b"1" * 40, None]
    assert (store.offset("messages"), store.offset("attempts"), store.offset("stats")) == (7, 8, None)
    assert (store.written_ms(), store.identity()) == (2_000, {"app_id": "app"})
    store.close()


def test_scans_keep_to_their_bounds(tmp_path: Path) -> None:
    """Both ways; the store's own entries are in none of them."""
    store = RocksStore(tmp_path / "p0")
    store.write({b"%c" % letter: b"" for letter in b"abcde"}, {"messages": 1}, 1)
    store.write({b"c": None}, {}, 1)

    def keys(*arguments: object, reverse: bool = False) -> bytes:
        return b"".join(key for key, _ in store.scan(*arguments, reverse=reverse))  # type: ignore[arg-type]

    assert keys(b"b", b"e", 9) == b"bd"
    assert keys(b"b", b"e", 9, reverse=True) == b"db"
    assert keys(b"a", b"z", 2) == b"ab"
    assert keys(b"a", b"z", 2, reverse=True) == b"ed"
    assert keys(b"", b"\xff", 9)[-4:] == b"abde"
    assert [keys(b"a", b"z", 0), keys(b"d", b"d", 9), keys(b"e", b"a", 9), keys(b"c", b"d", 9)] == [b""] * 4
    store.close()


def test_memory_is_bounded_whatever_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacked blocks of all stores together, memtables of each; filters and indexes are a fortieth of the files."""
    monkeypatch.setattr(rocks, "_cache", None)
    monkeypatch.setattr(rocks, "BLOCK_CACHE_BYTES", 1 << 20)
    monkeypatch.setattr(rocks, "WRITE_BUFFER_BYTES", 1 << 20)
    stores = [RocksStore(tmp_path / f"p{number}") for number in range(2)]
    chance = random.Random(4)
    keys = [chance.randbytes(16) for _ in range(20_000)]
    for store in stores:
        for at in range(0, len(keys), 500):
            store.write({b"m" + key: chance.randbytes(200) for key in keys[at : at + 500]}, {"messages": at}, 1)
            assert store._db.property_int_value("rocksdb.size-all-mem-tables") < (3 << 20)
        store.flush()
    for store in stores:
        assert None not in store.get_many([b"m" + key for key in keys])
        assert len(store.scan(b"m", b"n", len(keys))) == len(keys)
        in_files = store._db.property_int_value("rocksdb.live-sst-files-size")
        assert in_files > len(keys) * 200
        assert store._db.property_int_value("rocksdb.estimate-table-readers-mem") < in_files / 40
    usages = [store._db.property_int_value("rocksdb.block-cache-usage") for store in stores]
    assert usages[0] == usages[1]
    assert (1 << 19) < usages[0] <= (1 << 20)
    for store in stores:
        store.close()


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def scribble(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 3)
        opened.write(b"\xaa" * 200)


def remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [cut, scribble, remove])
@pytest.mark.parametrize("files", ["*.sst", "MANIFEST-*", "CURRENT"])
def test_torn_files_are_built_anew(
    tmp_path: Path, files: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """At once or at the next start, whenever the damage is met; never with a part of the rows."""
    filled(tmp_path / "p0").close()
    for file in (tmp_path / "p0").glob(files):
        damage(file)
    store = RocksStore(tmp_path / "p0")
    try:
        found = count(store)
    except Exception:
        store.close()
        store = RocksStore(tmp_path / "p0")
        found = count(store)
    assert found == 0
    assert store.identity() is None
    if (files, damage) != ("MANIFEST-*", cut):  # that one reads as a database in which nothing was ever written
        assert "built anew from the changelogs" in caplog.text
    store.close()
    again = RocksStore(tmp_path / "p0")
    again.write({b"m": b"1"}, {}, 1)
    again.close()
    kept = RocksStore(tmp_path / "p0")
    assert count(kept) == 1
    kept.close()


def test_a_killed_process_loses_the_latest_writes_and_no_others(tmp_path: Path) -> None:
    """There is no log: what was in memory is gone, but never a part of a write, nor an older one."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "p0")], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert int(writer.stdout.readline()) == WRITES
        writer.kill()
    store = RocksStore(tmp_path / "p0")
    last = store.offset("messages")
    assert last is not None
    assert WRITES / 4 < last < WRITES - 1  # memtables were flushed, and the last one was not
    for tag in (b"m", b"d"):
        assert [int(key[1:]) for key, _ in store.scan(tag, tag + b"\xff", WRITES)] == list(range(last + 1))
    store.close()


def test_what_is_little_is_in_a_file_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition with little to do does not lose its stamp of the last write either."""
    store = RocksStore(tmp_path / "p0")
    store.write({b"m": b"1"}, {"messages": 1}, 1)
    assert not list((tmp_path / "p0").glob("*.sst"))
    monkeypatch.setattr(rocks, "FLUSH_SECONDS", -1.0)
    store.write({b"m": b"2"}, {"messages": 2}, 2)
    until = time.monotonic() + 30
    while not list((tmp_path / "p0").glob("*.sst")):  # nobody waits for it
        assert time.monotonic() < until
        time.sleep(0.01)
    store.close()


def test_damage_met_in_the_middle_is_not_met_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The process that meets it ends; the next one builds the state anew instead of ending in the same place."""
    filled(tmp_path / "p0", rows=60_000).close()
    largest = max((tmp_path / "p0").glob("*.sst"), key=lambda file: file.stat().st_size)
    with largest.open("r+b") as opened:
        opened.seek(largest.stat().st_size // 2)
        opened.write(b"\xaa" * 5_000)
    store = RocksStore(tmp_path / "p0")
    with pytest.raises(Exception, match="Corruption"):
        store.get_many([b"m%05d" % number for number in range(60_000)])
    with pytest.raises(Exception, match="Corruption"):
        count(store)
    store.close()
    store = RocksStore(tmp_path / "p0")
    assert count(store) == 0
    assert "built anew from the changelogs: Corruption" in caplog.text
    store.close()


@pytest.mark.parametrize(
    "step",
    [RocksStore.identity, RocksStore.written_ms, lambda store: store.offset("messages")],
    ids=["identity", "written_ms", "offset"],
)
def test_damage_met_first_of_all_is_not_met_again(
    tmp_path: Path, step: Callable[[RocksStore], object], caplog: pytest.LogCaptureFixture
) -> None:
    """What a store says of itself lies in blocks like any row: a worker that asks for it would end at every start."""
    filled(tmp_path / "p0").close()
    for file in (tmp_path / "p0").glob("*.sst"):
        with file.open("r+b") as opened:
            opened.seek(10)
            opened.write(b"\xaa" * 10)  # in the first block, where the store's own entries are
    store = RocksStore(tmp_path / "p0")
    with pytest.raises(Exception, match="Corruption"):
        step(store)
    store.close()
    store = RocksStore(tmp_path / "p0")
    assert store.identity() is None
    assert "built anew from the changelogs: Corruption" in caplog.text
    store.close()


@pytest.mark.parametrize(
    "step",
    [lambda store: store.write({b"mx": b"1"}, {}, 1), RocksStore.flush, lambda store: store.set_identity({})],
    ids=["write", "flush", "set_identity"],
)
def test_damage_that_rocksdb_met_by_itself_is_not_met_again(
    tmp_path: Path, step: Callable[[RocksStore], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it compacts, say: whoever writes next is told."""
    store = filled(tmp_path / "p0", rows=10)
    database = store._db

    class Damaged:
        def refuse(self, *arguments: object) -> None:
            raise Exception("Corruption: block checksum mismatch")

        write = flush = put = refuse

    monkeypatch.setattr(store, "_db", Damaged())
    with pytest.raises(Exception, match="Corruption"):
        step(store)
    database.close()
    store = RocksStore(tmp_path / "p0")
    assert count(store) == 0
    store.close()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_state_in_use_by_another_process_is_left_alone(tmp_path: Path, damaged: bool) -> None:
    """Though it was found damaged before."""
    filled(tmp_path / "p0").close()
    command = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path / "p0")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"open\n"
        if damaged:
            (tmp_path / "p0.damaged").write_text("Corruption: of a block")
        with pytest.raises(RuntimeError, match="in use by another process"):
            RocksStore(tmp_path / "p0")
        other.stdin.close()
        assert other.wait(30) == 0
    store = RocksStore(tmp_path / "p0")
    assert count(store) == (0 if damaged else 3_010)
    store.close()


def test_what_cannot_be_opened_for_another_reason_is_not_deleted(tmp_path: Path) -> None:
    """Somebody else's file, a missing right, a full disk: a person has to look."""
    (tmp_path / "p0").write_text("not ours")
    with pytest.raises(RuntimeError, match="cannot be opened"):
        RocksStore(tmp_path / "p0")
    assert (tmp_path / "p0").read_text() == "not ours"


def test_wiping_leaves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And says why."""
    store = filled(tmp_path / "p0")
    store.wipe("it is another app's")
    assert (count(store), store.identity(), store.written_ms(), store.offset("messages")) == (0, None, None, None)
    assert "it is another app's" in caplog.text
    store.close()
