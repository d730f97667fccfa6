"""Local state and changelogs on a real broker: what is trusted, what is built anew, and that it comes out the same."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer

from dlq_stream.core.errors import ConfigurationError, UnsupportedFormat
from dlq_stream.core.transaction import Transaction
from dlq_stream.kafka import no_topic_creation
from dlq_stream.runtime import changelog as module
from dlq_stream.runtime.ports import Batch, Fenced
from dlq_stream.tables import INDEXES, TABLES, marker, stats
from dlq_stream.topics.markers import complete_markers
from tests.contract.kafka_harness import DAY_MS, PARTITIONS, KafkaSubject, create_changelogs
from tests.kafka_clients import Outgoing, create_topics, delete_topic, produce, read_topic
from tests.kafka_fixture import LocalKafka, unique_name
from tests.runtime.fakes import key, row

EVERYTHING = b"\xff" * 300
Open = Callable[..., Awaitable[KafkaSubject]]
State = dict[str, list[tuple[bytes, bytes]]]


class Home:
    """An app with one partition's directory, and whoever has it open."""

    def __init__(self, bootstrap: str, directory: Path) -> None:
        self.bootstrap = bootstrap
        self.directory = directory
        self.app_id = unique_name("restore")
        self.restored = -1
        self._opened: list[KafkaSubject] = []

    async def open(self, directory: Path | None = None, **options: Any) -> KafkaSubject:
        app_id = options.pop("app_id", self.app_id)
        subject = KafkaSubject(self.bootstrap, app_id, directory or self.directory, **options)
        self._opened.append(subject)
        self.restored = await subject.open()
        return subject

    async def close(self) -> None:
        for subject in self._opened:
            await subject.close()
        self._opened = []

    async def filled(self) -> State:
        """Fill the state, close it, and return what it held."""
        subject = await self.open()
        for step in (first_rows, later_rows):
            await subject.run(step)
        state = await state_of(subject)
        await self.close()
        return state


def first_rows(tx: Transaction) -> None:
    for number in range(20):
        tx.put("messages", key(number), row(due_ms=1_000 + number, closed_ms=5_000 - number))
        tx.put("attempts", key(number), b"\1\0first")
    tx.put("stats", stats.stats_key("q", 0), b"\1\0one")


def later_rows(tx: Transaction) -> None:
    for number in range(0, 20, 3):
        tx.put("messages", key(number), row(due_ms=9_000 + number))
        tx.delete("attempts", key(number))
    for number in range(1, 20, 3):
        tx.delete("messages", key(number))
    tx.put("stats", stats.stats_key("q", 0), b"\1\0two")


async def state_of(subject: KafkaSubject) -> State:
    """All rows and index entries."""
    names = [spec.name for spec in TABLES] + [spec.name for spec in INDEXES]
    return {name: await subject.scan(name, b"", EVERYTHING, 10_000) for name in names}


@pytest_asyncio.fixture
async def home(kafka: LocalKafka, tmp_path: Path) -> AsyncIterator[Home]:
    """An app with empty changelogs."""
    made = Home(kafka.bootstrap, tmp_path / "kept")
    await create_changelogs(kafka.bootstrap, made.app_id)
    yield made
    await made.close()


async def test_a_lost_disk_is_built_anew_from_the_changelogs(home: Home, tmp_path: Path) -> None:
    """Rows, tombstones, and the index entries that are in no changelog."""
    state = await home.filled()
    assert len(state["due"]) == 13
    subject = await home.open(tmp_path / "new")
    assert await state_of(subject) == state
    assert home.restored > 20
    assert await subject.run(lambda tx: tx.get_many("stats", [stats.stats_key("q", 0)])) == {
        stats.stats_key("q", 0): b"\1\0two"
    }


async def test_a_kept_disk_needs_nothing(home: Home) -> None:
    """Not even the commit markers behind its last rows are waited for."""
    state = await home.filled()
    subject = await home.open()
    assert home.restored == 0
    assert await state_of(subject) == state


async def test_an_older_disk_gets_what_it_lacks(home: Home, tmp_path: Path) -> None:
    """As after a loss of power, or when a partition comes back to a worker."""
    subject = await home.open()
    await subject.run(first_rows)
    await home.close()
    shutil.copytree(home.directory, tmp_path / "older")
    subject = await home.open()
    await subject.run(later_rows)
    state = await state_of(subject)
    await home.close()
    subject = await home.open(tmp_path / "older")
    assert home.restored == 22  # 7 rows and 7 tombstones of messages, 7 of attempts, 1 of stats
    assert await state_of(subject) == state


async def test_small_chunks_come_to_the_same(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A long restore is many writes, and says how far it is."""
    state = await home.filled()
    monkeypatch.setattr(module, "CHUNK_ROWS_MAX", 3)
    monkeypatch.setattr(module, "PROGRESS_SECONDS", 0.0)
    caplog.set_level("INFO")
    subject = await home.open(tmp_path / "new")
    assert await state_of(subject) == state
    assert "rows restored, records left" in caplog.text


async def test_what_was_not_committed_is_not_restored(home: Home, tmp_path: Path) -> None:
    """The next owner ends what the former one left open."""
    state = await home.filled()
    former = await home.open()
    producer = former.actor._producer
    await producer.write([Batch(TABLES[0].changelog(home.app_id), 0, [(key(99), row(due_ms=1), ())], 50_000)], {})
    subject = await home.open(tmp_path / "new")
    assert await state_of(subject) == state
    with pytest.raises(Fenced):
        await producer.commit()


async def test_a_former_owner_is_fenced(home: Home, tmp_path: Path) -> None:
    """Its next turn ends it, and leaves no trace."""
    former = await home.open()
    await former.run(first_rows)
    subject = await home.open(tmp_path / "new")
    with pytest.raises(Fenced):
        await former.run(later_rows)
    await subject.run(later_rows)
    assert len((await state_of(subject))["messages"]) == 13


async def test_rows_of_another_owner_are_noticed(home: Home, tmp_path: Path) -> None:
    """What is in the changelog beyond our own last write is somebody else's."""
    former = await home.open()
    await former.run(first_rows)
    assert await former.actor._tenure._changelog.catch_up() == 0
    other = await home.open(tmp_path / "new")
    await other.run(later_rows)
    assert await former.actor._tenure._changelog.catch_up() == 22


# ---------------------------------------------------------------------------------------------------------------- trust


async def test_a_state_ahead_of_its_changelog_is_not_trusted(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """It was built from something else, or the brokers lost what they had acknowledged."""
    state = await home.filled()
    subject = KafkaSubject(home.bootstrap, home.app_id, home.directory)
    subject.store.write({b"m" + key(77): row()}, {"messages": 1_000_000}, 1_000_000)
    await subject.close()
    subject = await home.open()
    assert await state_of(subject) == state
    assert "ahead of the changelog of table 'messages': 1000000" in caplog.text


async def test_a_state_of_another_incarnation_is_not_trusted(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """The topics were deleted and created again: offsets mean something else now."""
    await home.filled()
    for spec in TABLES:
        await delete_topic(home.bootstrap, spec.changelog(home.app_id))
    await create_changelogs(home.bootstrap, home.app_id)
    subject = await home.open()
    assert all(entries == [] for entries in (await state_of(subject)).values())
    assert "incarnations was" in caplog.text


async def test_markers_that_are_not_committed_yet_are_waited_for(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """Brokers answer init's commit before every partition heard of it: until then a changelog only looks empty."""
    app_id = unique_name("restore")
    topics = [spec.changelog(app_id) for spec in TABLES]
    await create_topics(home.bootstrap, *topics, partitions=PARTITIONS)
    producer = AIOKafkaProducer(bootstrap_servers=home.bootstrap, transactional_id=unique_name("init"))
    async with no_topic_creation(producer):
        async with producer.transaction():
            for topic in topics:
                value = marker.encode(marker.Marker("incarnation", app_id))
                await producer.send_and_wait(topic, value, key=marker.MARKER_KEY, partition=0)
            opening = asyncio.create_task(home.open(app_id=app_id))
            for _ in range(3_000):
                if "not committed yet" in caplog.text or opening.done():
                    break
                await asyncio.sleep(0.01)
            assert "not committed yet" in caplog.text
            assert not opening.done()
        subject = await opening
    assert all(entries == [] for entries in (await state_of(subject)).values())


async def test_a_state_of_another_app_is_not_trusted(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """Two apps were given the same directory."""
    await home.filled()
    other = unique_name("restore")
    await create_changelogs(home.bootstrap, other)
    subject = await home.open(app_id=other)
    assert all(entries == [] for entries in (await state_of(subject)).values())
    assert f"app_id was '{home.app_id}' and is '{other}'" in caplog.text


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"partitions": PARTITIONS + 1}, "partitions was 4 and is 5"),
        ({"cluster_id": "elsewhere"}, "cluster_id was 'cluster' and is 'elsewhere'"),
        ({"delete_retention_ms": -1}, "tombstones are kept for less"),
    ],
)
async def test_a_state_that_does_not_fit_is_not_trusted(
    home: Home, options: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another number of partitions, another cluster, or so old that tombstones may be gone."""
    state = await home.filled()
    subject = await home.open(**options)
    assert await state_of(subject) == state
    assert home.restored > 20
    assert why in caplog.text
    await home.close()
    await home.open(**{name: value for name, value in options.items() if name != "delete_retention_ms"})
    assert home.restored == 0


async def test_a_state_that_does_not_say_what_it_was_built_from_is_not_trusted(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody knows where it is from."""
    subject = KafkaSubject(home.bootstrap, home.app_id, home.directory)
    subject.store.write({b"m" + key(77): row()}, {}, 1)
    await subject.close()
    subject = await home.open()
    assert all(entries == [] for entries in (await state_of(subject)).values())
    assert "does not say what it was built from" in caplog.text


async def test_a_young_state_is_trusted(home: Home) -> None:
    """Right up to the time for which tombstones are kept, counted from its last write."""
    await home.filled()
    for wait_ms in (DAY_MS, DAY_MS):
        subject = KafkaSubject(home.bootstrap, home.app_id, home.directory)
        subject.clock.ms = (subject.store.written_ms() or 0) + wait_ms
        assert await subject.open() == 0
        await subject.close()


async def test_a_torn_state_is_built_anew(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """And comes out the same."""
    state = await home.filled()
    subject = KafkaSubject(home.bootstrap, home.app_id, home.directory)
    subject.store._db.flush()
    await subject.close()
    for file in (home.directory / "p0").glob("*.sst"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    subject = await home.open()
    assert await state_of(subject) == state
    assert "is damaged, deleted, and built anew from the changelogs" in caplog.text


# ------------------------------------------------------------------------------------------------- what is not started


async def test_a_changelog_without_marker_is_not_opened(home: Home) -> None:
    """Nobody could tell it from another one later."""
    app_id = unique_name("restore")
    await create_topics(home.bootstrap, *(spec.changelog(app_id) for spec in TABLES), partitions=PARTITIONS)
    with pytest.raises(ConfigurationError, match="dlq-stream init"):
        await home.open(app_id=app_id)
    topics = [spec.changelog(app_id) for spec in TABLES]
    await complete_markers(home.bootstrap, app_id, dict.fromkeys(topics, PARTITIONS))
    await home.close()
    await home.open(app_id=app_id)


async def test_rows_of_a_newer_major_format_are_refused(home: Home) -> None:
    """By name, and nothing is written."""
    topic = TABLES[0].changelog(home.app_id)
    await produce(home.bootstrap, [Outgoing(topic, b"\x02\x00" + row()[2:], key(1), partition=0)])
    before = len(await read_topic(home.bootstrap, topic))
    with pytest.raises(UnsupportedFormat, match="upgrade"):
        await home.open()
    assert len(await read_topic(home.bootstrap, topic)) == before
