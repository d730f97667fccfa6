"""A partition's changelogs followed on a real broker, while its owner writes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import pytest_asyncio

from dlq_stream.core.errors import DLQError, UnsupportedFormat
from dlq_stream.core.transaction import Transaction
from dlq_stream.kafka import client_options
from dlq_stream.runtime import changelog
from dlq_stream.runtime import follower as module
from dlq_stream.runtime.changelog import StateOrigin
from dlq_stream.runtime.follower import KafkaFollower
from dlq_stream.runtime.ports import Batch, Unavailable
from dlq_stream.runtime.rocks import META, RocksStore
from dlq_stream.runtime.standby import Standby
from dlq_stream.tables import TABLES
from dlq_stream.tables.codec import UndecodableRow
from tests.contract.kafka_harness import DAY_MS, PARTITIONS, KafkaSubject, SetClock, create_changelogs
from tests.integration.harness import eventually
from tests.kafka_clients import Outgoing, delete_topic, produce
from tests.kafka_fixture import LocalKafka, unique_name
from tests.runtime.fakes import fatal, key, row
from tests.runtime.test_restore import first_rows, later_rows

MESSAGES = TABLES[0].changelog


class Recorded(RocksStore):
    """Remembers what each write changed."""

    def __init__(self, path: Path) -> None:
        self.writes: list[tuple[dict[bytes, bytes | None], dict[str, int]]] = []
        super().__init__(path)

    def write(self, changes: Mapping[bytes, bytes | None], offsets: Mapping[str, int], now_ms: int) -> None:
        self.writes.append((dict(changes), dict(offsets)))
        super().write(changes, offsets, now_ms)


class Copy:
    """A copy in a directory of its own, followed."""

    def __init__(self, store: Recorded, follower: KafkaFollower) -> None:
        self.store = store
        self.rows: list[int] = []
        self.following = asyncio.create_task(follower.follow(self.rows.append))

    @property
    def contents(self) -> dict[bytes, bytes]:
        """Rows and index entries."""
        return {key_: value for key_, value in self.store.scan(META, b"\xff", 10_000) if not key_.startswith(META)}

    async def caught_up(self) -> int:
        """Wait until it is; returns how many rows that took."""

        async def rows() -> list[int]:
            if self.following.done():
                self.following.result()
            return self.rows

        return (await eventually(rows))[-1]

    async def holds(self, wanted: Mapping[bytes, bytes]) -> None:
        """Wait until it holds exactly this."""

        async def contents() -> dict[bytes, bytes]:
            return self.contents

        await eventually(contents, wanted=lambda seen: seen == wanted)


class Home:
    """An app, an owner of its first partition, and where copies are."""

    def __init__(self, bootstrap: str, directory: Path) -> None:
        self.bootstrap = bootstrap
        self.directory = directory
        self.app_id = unique_name("follow")
        self.clock = SetClock()
        self.opened: list[KafkaSubject] = []

    async def owner(self, name: str = "owner") -> KafkaSubject:
        subject = KafkaSubject(self.bootstrap, self.app_id, self.directory / name, clock=self.clock)
        self.opened.append(subject)
        self.restored = await subject.open()
        return subject

    async def close(self) -> None:
        for subject in self.opened:
            await subject.close()
        self.opened = []

    @asynccontextmanager
    async def copy(self, name: str = "copy") -> AsyncIterator[Copy]:
        store = Recorded(self.directory / name / "p0")
        origin = StateOrigin(self.app_id, "cluster", PARTITIONS, DAY_MS)
        options = {**client_options(self.bootstrap), "client_id": "standby"}
        copy = Copy(store, KafkaFollower(0, store, origin, self.clock, options))
        try:
            yield copy
        finally:
            copy.following.cancel()
            await asyncio.gather(copy.following, return_exceptions=True)
            store.close()

    async def rebuilt(self) -> dict[bytes, bytes]:
        """What the changelogs say, read by the owner's restore into an empty directory."""
        name = unique_name("rebuilt")
        subject = await self.owner(name)
        found = subject.store.scan(META, b"\xff", 10_000)
        return {key_: value for key_, value in found if not key_.startswith(META)}


@pytest_asyncio.fixture
async def home(kafka: LocalKafka, tmp_path: Path) -> AsyncIterator[Home]:
    """An app with empty changelogs."""
    made = Home(kafka.bootstrap, tmp_path)
    await create_changelogs(kafka.bootstrap, made.app_id)
    yield made
    await made.close()


def owned(subject: KafkaSubject) -> dict[bytes, bytes]:
    """Rows and index entries of an owner."""
    found = subject.store.scan(META, b"\xff", 10_000)
    return {key_: value for key_, value in found if not key_.startswith(META)}


async def test_it_holds_what_the_owner_holds(home: Home) -> None:
    """What was there before, and what comes; the index entries, which are in no changelog, among it."""
    owner = await home.owner()
    await owner.run(first_rows)
    async with home.copy() as copy:
        assert await copy.caught_up() == 41
        assert copy.contents == owned(owner)
        await owner.run(later_rows)
        await copy.holds(owned(owner))
        assert copy.contents == await home.rebuilt()
        assert len(copy.contents) > 50
    assert len(copy.rows) == 1


async def test_values_and_offsets_are_one_write(home: Home) -> None:
    """There is no moment at which one is on disk and the other is not."""
    owner = await home.owner()
    async with home.copy() as copy:
        await copy.caught_up()
        for step in (first_rows, later_rows):
            await owner.run(step)
        await copy.holds(owned(owner))
    changing = [(changes, offsets) for changes, offsets in copy.store.writes if changes]
    assert len(changing) >= 2
    assert all(len(offsets) == 1 for _, offsets in changing)


@pytest.mark.parametrize("rows", [0, 41])
async def test_it_is_ready_behind_commit_markers(home: Home, rows: int) -> None:
    """The last record of every changelog is a marker, which no reader is ever handed."""
    owner = await home.owner()
    if rows:
        await owner.run(first_rows)
    async with home.copy() as copy:
        assert await copy.caught_up() == rows
    await owner.close()
    home.opened = []
    await home.owner("copy")
    assert home.restored == 0


async def test_small_steps_come_to_the_same(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS_MAX", 3)
    owner = await home.owner()
    await owner.run(first_rows)
    await owner.run(later_rows)
    async with home.copy() as copy:
        await copy.caught_up()
        assert copy.contents == owned(owner)
        assert max(len(changes) for changes, _ in copy.store.writes) < 20


async def test_what_is_not_committed_is_not_copied(home: Home) -> None:
    """It is ready without it; what the next owner aborts never gets there, nor do offsets beyond it."""
    owner = await home.owner()
    await owner.run(first_rows)
    committed = owned(owner)
    written = await owner.actor._producer.write([Batch(MESSAGES(home.app_id), 0, [(key(99), row(1), ())], 50_000)], {})
    async with home.copy() as copy:
        assert await copy.caught_up() == 41
        stored = copy.store.offset("messages")
        assert stored is not None
        assert stored < written.last_offsets[0]
        heir = await home.owner("heir")
        await heir.run(lambda tx: tx.put("messages", key(77), row(due_ms=5)))
        await copy.holds(owned(heir))
        assert copy.contents.keys() > committed.keys()
        assert copy.store.get_many([b"m" + key(99)]) == [None]


async def test_a_former_owner_may_hold_what_is_not_stable_yet(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """A commit is answered before the brokers have told every partition of it; that is no reason to start from nothing.

    Here the transaction stays open, which to a reader is the same.
    """
    owner = await home.owner("copy")
    await owner.run(first_rows)
    await home.close()
    owner = await home.owner()
    written = await owner.actor._producer.write([Batch(MESSAGES(home.app_id), 0, [(key(99), row(1), ())], 50_000)], {})
    store = RocksStore(home.directory / "copy" / "p0")
    store.write({b"m" + key(99): row(1)}, {"messages": written.last_offsets[0]}, home.clock.now_ms())
    store.close()
    async with home.copy() as copy:
        assert await copy.caught_up() == 0
        assert copy.store.offset("messages") == written.last_offsets[0]
    assert "deleted and built anew" not in caplog.text


async def test_a_state_of_other_changelogs_is_not_trusted(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """It ends beyond everything that was written."""
    owner = await home.owner("copy")
    await owner.run(first_rows)
    await home.close()
    store = RocksStore(home.directory / "copy" / "p0")
    store.write({b"m" + key(99): row(1)}, {"messages": 1_000_000}, home.clock.now_ms())
    store.close()
    async with home.copy() as copy:
        assert await copy.caught_up() == 41
    assert "ahead of the changelog of table 'messages': 1000000" in caplog.text


async def test_who_slept_longer_than_tombstones_are_kept_starts_anew(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """A tombstone may have come and gone meanwhile."""
    owner = await home.owner()
    await owner.run(first_rows)
    async with home.copy() as copy:
        await copy.caught_up()
        home.clock.ms += DAY_MS + 1_000
        await owner.run(later_rows)
        with pytest.raises(Unavailable, match="was not followed for 86401 s"):
            await copy.following
    async with home.copy() as copy:
        assert await copy.caught_up() >= 41  # all of it, not the last 22
        assert copy.contents == owned(owner)
    assert "it was last complete 86401 s ago" in caplog.text


async def test_a_copy_that_nothing_comes_for_stays_fresh(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows that it lacks nothing, and says so to whoever opens it next."""
    monkeypatch.setattr(module, "STAMP_SECONDS", 0.1)
    await home.owner()
    async with home.copy() as copy:
        await copy.caught_up()
        home.clock.ms += 2 * DAY_MS

        async def written() -> int | None:
            return copy.store.written_ms()

        await eventually(written, wanted=lambda seen: seen == home.clock.ms)
        assert not copy.following.done()


@pytest.mark.parametrize(
    ("value", "error"), [(b"\x02\0newer", UnsupportedFormat), (b"\x01\0\xc1", UndecodableRow)], ids=["newer", "poison"]
)
async def test_a_row_that_does_not_fit_ends_it(home: Home, value: bytes, error: type[Exception]) -> None:
    """Before anything of it is on disk."""
    async with home.copy() as copy:
        await copy.caught_up()
        before = copy.contents
        await produce(home.bootstrap, [Outgoing(MESSAGES(home.app_id), value, key(5), partition=0)])
        with pytest.raises(error):
            async with asyncio.timeout(20):
                await copy.following
        assert copy.contents == before


async def test_what_ran_during_a_transaction_is_there_in_order(home: Home) -> None:
    """Many small transactions while it follows: the last value of each row."""
    owner = await home.owner()

    def step(number: int) -> Callable[[Transaction], None]:
        return lambda tx: tx.put("messages", key(number % 7), row(due_ms=1_000 + number, closed_ms=number or None))

    async with home.copy() as copy:
        for number in range(60):
            await owner.run(step(number))
        await copy.caught_up()
        await copy.holds(owned(owner))
        assert len(copy.contents) == 7 * 4


async def test_changelogs_created_anew_under_it_are_noticed(home: Home) -> None:
    """Beginning again at their beginning would mix two states."""
    owner = await home.owner()
    await owner.run(first_rows)
    async with home.copy() as copy:
        await copy.caught_up()
        await home.close()
        for spec in TABLES:
            await delete_topic(home.bootstrap, spec.changelog(home.app_id))
        await create_changelogs(home.bootstrap, home.app_id)
        with pytest.raises(RuntimeError, match="truncated, or created anew"):
            async with asyncio.timeout(30):
                await copy.following


@pytest.mark.timeout(240)
async def test_brokers_may_go_away_and_come_back(
    kafka_factory: Callable[..., LocalKafka], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of everything it asks them; it ends nothing, and what comes afterwards is copied."""
    monkeypatch.setattr(module, "STAMP_SECONDS", 0.2)
    monkeypatch.setattr(changelog, "STALL_SECONDS_MAX", 2.0)
    monkeypatch.setattr(module, "STALL_SECONDS_MAX", 2.0)
    broker = await asyncio.to_thread(kafka_factory)
    home = Home(broker.bootstrap, tmp_path)
    await create_changelogs(home.bootstrap, home.app_id)
    store = RocksStore(tmp_path / "copy" / "p0")
    origin = StateOrigin(home.app_id, "cluster", PARTITIONS, DAY_MS)
    options = {**client_options(home.bootstrap), "client_id": "standby"}
    follower = KafkaFollower(0, store, origin, home.clock, options)
    standby = Standby(0, store=store, changelog=follower, refuse=no_refusal, fatal=fatal)
    caught_up: list[int] = []
    standby.start(lambda number, rows: caught_up.append(rows))
    [task] = [each for each in asyncio.all_tasks() if each.get_name() == "standby-0"]

    async def looks() -> int:
        assert not task.done(), task.exception()
        return len(caught_up)

    async def row_1() -> list[bytes | None]:
        assert not task.done(), task.exception()
        return store.get_many([b"m" + key(1)])

    try:
        await eventually(looks)
        for due_ms in (1, 2):
            await asyncio.to_thread(broker.kill)
            await asyncio.sleep(3.0 * due_ms - 2.9)  # briefly; and for longer than anything is waited for
            await asyncio.to_thread(broker.start)
            await produce(home.bootstrap, [Outgoing(MESSAGES(home.app_id), row(due_ms), key(1), partition=0)])
            await eventually(row_1, 60, wanted=lambda seen, due_ms=due_ms: seen == [row(due_ms)])
    finally:
        await standby.close()


def no_refusal(error: DLQError) -> NoReturn:
    raise AssertionError(f"refused: {error}") from error
