"""The contract of `dlq_stream.core.transaction.Transaction`: one suite, run on every implementation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlq_stream.core.errors import TooLarge
from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.core.transaction import Transaction
from dlq_stream.tables import INDEXES, messages
from dlq_stream.tables.messages import Message
from dlq_stream.tables.spec import index_key, until
from tests.contract.harness import Harness, Subject

EVERYTHING = b"\xff" * 300
HEADERS = (("a", b"1"), ("b", None), ("a", b"2"), ("empty", b""))


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def row(
    due_ms: int | None = None,
    created_ms: int = 1,
    closed_ms: int | None = None,
    queue: str = "q",
    status: DLQMessageStatus = DLQMessageStatus.PENDING,
) -> bytes:
    return messages.codec.encode(Message(status, due_ms, created_ms, closed_ms, queue))


def due_keys(entries: list[tuple[bytes, bytes]]) -> list[tuple[int, int]]:
    return [(int.from_bytes(entry[:8], "big"), int.from_bytes(entry[8:], "big")) for entry, _ in entries]


def put(table: str, *pairs: tuple[bytes, bytes]) -> Callable[[Transaction], None]:
    def stage(tx: Transaction) -> None:
        for name, value in pairs:
            tx.put(table, name, value)

    return stage


async def indexes_of(subject: Subject) -> dict[str, list[tuple[bytes, bytes]]]:
    return {spec.name: await subject.scan(spec.name, b"", EVERYTHING, 10_000) for spec in INDEXES}


# ------------------------------------------------------------------------------------------------ reads and writes


async def test_knows_which_rows_it_wrote(subject: Subject) -> None:
    """Of a table, deletions included, those rolled back and those of former transactions not."""
    await subject.run(put("attempts", (key(1), b"one")))

    def stage(tx: Transaction) -> list[frozenset[bytes]]:
        seen = [tx.written("attempts")]
        tx.delete("attempts", key(1))
        tx.put("attempts", key(2), b"two")
        mark = tx.mark()
        tx.put("attempts", key(3), b"three")
        seen.append(tx.written("attempts"))
        tx.rollback(mark)
        return [*seen, tx.written("attempts"), tx.written("stats")]

    known = frozenset((key(1), key(2)))
    assert await subject.run(stage) == [frozenset(), known | {key(3)}, known, frozenset()]


async def test_knows_its_partition(harness: Harness) -> None:
    """Partition numbers are the harness's."""
    subject = await harness.make(2)
    assert await subject.run(lambda tx: (tx.partition, tx.partitions)) == (2, subject.partitions)


async def test_a_committed_row_is_read_back(subject: Subject) -> None:
    """Rows and their absence are read by key, in one call."""
    await subject.run(put("attempts", (key(1), b"one"), (key(2), b"")))
    read = await subject.run(lambda tx: tx.get_many("attempts", [key(1), key(2), key(3)]))
    assert read == {key(1): b"one", key(2): b"", key(3): None}
    assert await subject.read("attempts", key(1)) == b"one"
    assert await subject.run(lambda tx: tx.get_many("attempts", [])) == {}


async def test_tables_do_not_share_keys(subject: Subject) -> None:
    """The same key in two tables is two rows."""
    await subject.run(put("attempts", (key(1), b"attempt")))
    await subject.run(put("stats", (key(1), b"stats")))
    assert await subject.read("attempts", key(1)) == b"attempt"
    assert await subject.read("stats", key(1)) == b"stats"


async def test_reads_see_own_writes(subject: Subject) -> None:
    """A transaction reads what it wrote, over what was committed."""
    await subject.run(put("attempts", (key(1), b"old"), (key(2), b"gone")))

    def stage(tx: Transaction) -> None:
        assert tx.get_many("attempts", [key(1)]) == {key(1): b"old"}
        tx.put("attempts", key(1), b"new")
        tx.delete("attempts", key(2))
        tx.put("attempts", key(3), b"three")
        assert tx.get_many("attempts", [key(1), key(2), key(3)]) == {key(1): b"new", key(2): None, key(3): b"three"}
        tx.put("attempts", key(2), b"again")
        tx.delete("attempts", key(3))
        tx.delete("attempts", key(4))
        assert tx.get_many("attempts", [key(2), key(3), key(4)]) == {key(2): b"again", key(3): None, key(4): None}

    await subject.run(stage)
    assert [await subject.read("attempts", key(n)) for n in (1, 2, 3, 4)] == [b"new", b"again", None, None]


async def test_what_get_many_returns_is_the_callers(subject: Subject) -> None:
    """Changing the returned dict changes nothing else."""
    await subject.run(put("attempts", (key(1), b"one")))

    def stage(tx: Transaction) -> None:
        tx.get_many("attempts", [key(1)])[key(1)] = b"mine"
        assert tx.get_many("attempts", [key(1)]) == {key(1): b"one"}

    await subject.run(stage)


# ----------------------------------------------------------------------------------------------------------- scans


async def test_scans_merge_own_writes_and_deletes(subject: Subject) -> None:
    """A scan shows the table as it will be after the commit, in key order."""
    await subject.run(put("attempts", *((key(n), b"old") for n in (1, 3, 5))))

    def stage(tx: Transaction) -> None:
        tx.put("attempts", key(2), b"new")
        tx.put("attempts", key(3), b"newer")
        tx.delete("attempts", key(5))
        expected = [(key(1), b"old"), (key(2), b"new"), (key(3), b"newer")]
        assert tx.scan("attempts", b"", EVERYTHING, 10) == expected
        assert tx.scan("attempts", b"", EVERYTHING, 10, reverse=True) == expected[::-1]

    await subject.run(stage)


async def test_scans_stop_where_they_are_told(subject: Subject) -> None:
    """``start`` is included, ``stop`` is not, ``limit`` counts what is returned; the same in reverse."""
    await subject.run(put("attempts", *((key(n), b"%d" % n) for n in range(10))))

    def stage(tx: Transaction) -> None:
        def numbers(*arguments: Any, **options: Any) -> list[int]:
            return [int(value) for _, value in tx.scan("attempts", *arguments, **options)]

        for name in (1, 2, 3):
            tx.delete("attempts", key(name))
        assert numbers(key(4), key(7), 10) == [4, 5, 6]
        assert numbers(key(4), key(7), 2) == [4, 5]
        assert numbers(key(4), key(7), 2, reverse=True) == [6, 5]
        assert numbers(b"", EVERYTHING, 2) == [0, 4]
        assert numbers(b"", key(6), 3, reverse=True) == [5, 4, 0]
        assert numbers(key(7), key(7), 10) == []
        assert numbers(key(7), key(4), 10) == []
        assert numbers(b"", EVERYTHING, 0) == []
        assert numbers(key(9), EVERYTHING, 5) == [9]

    await subject.run(stage)


async def test_scans_of_a_table_do_not_run_into_the_next(subject: Subject) -> None:
    """However wide the range, only this table's (or index's) keys come back."""
    await subject.run(put("messages", (key(1), row(due_ms=5))))
    await subject.run(put("attempts", (key(2), b"two")))
    assert await subject.scan("attempts", b"", EVERYTHING, 10) == [(key(2), b"two")]
    assert await subject.scan("stats", b"", EVERYTHING, 10) == []
    assert [found for found, _ in await subject.scan("messages", b"", EVERYTHING, 10, reverse=True)] == [key(1)]


# --------------------------------------------------------------------------------------------------------- indexes


async def test_index_entries_follow_their_rows(subject: Subject) -> None:
    """Entries appear, move and vanish with the row, inside the transaction and after it."""

    def stage(tx: Transaction) -> None:
        tx.put("messages", key(1), row(due_ms=50))
        assert due_keys(tx.scan("due", b"", EVERYTHING, 9)) == [(50, 1)]
        tx.put("messages", key(1), row(due_ms=40))
        tx.put("messages", key(2), row(due_ms=30))
        assert due_keys(tx.scan("due", b"", EVERYTHING, 9)) == [(30, 2), (40, 1)]
        assert due_keys(tx.scan("due", b"", until(b"", 39), 9)) == [(30, 2)]
        assert due_keys(tx.scan("due", b"", EVERYTHING, 9, reverse=True)) == [(40, 1), (30, 2)]

    await subject.run(stage)
    assert due_keys(await subject.scan("due", b"", EVERYTHING, 9)) == [(30, 2), (40, 1)]

    def change(tx: Transaction) -> None:
        tx.delete("messages", key(2))
        tx.put("messages", key(1), row(due_ms=None, closed_ms=7, status=DLQMessageStatus.RESOLVED))
        assert tx.scan("due", b"", EVERYTHING, 9) == []
        assert due_keys(tx.scan("closed", b"", EVERYTHING, 9)) == [(7, 1)]

    await subject.run(change)
    assert await subject.scan("due", b"", EVERYTHING, 9) == []
    prefix = messages.status_prefix("q", DLQMessageStatus.RESOLVED)
    assert await subject.scan("status", b"", EVERYTHING, 9) == [(index_key(prefix, 1, key(1)), b"")]


async def test_index_entries_may_be_told_with_the_row(subject: Subject) -> None:
    """The same comes of it as where they are derived; inside the transaction, after a roll-back, and after it."""
    first, second = (Message(DLQMessageStatus.PENDING, due_ms, 1, None, "q") for due_ms in (50, 40))

    def stage(tx: Transaction) -> None:
        messages.change(tx, key(1), None, first)
        assert due_keys(tx.scan("due", b"", EVERYTHING, 9)) == [(50, 1)]
        mark = tx.mark()
        messages.change(tx, key(1), first, second)
        assert due_keys(tx.scan("due", b"", EVERYTHING, 9)) == [(40, 1)]
        tx.rollback(mark)
        assert due_keys(tx.scan("due", b"", EVERYTHING, 9)) == [(50, 1)]

    await subject.run(stage)
    assert due_keys(await subject.scan("due", b"", EVERYTHING, 9)) == [(50, 1)]
    await subject.run(lambda tx: messages.change(tx, key(1), first, second))
    assert due_keys(await subject.scan("due", b"", EVERYTHING, 9)) == [(40, 1)]
    assert [found[-16:] for found, _ in await subject.scan("status", b"", EVERYTHING, 9)] == [key(1)]


async def test_an_index_entry_restored_in_the_same_transaction_stays(subject: Subject) -> None:
    """Removed and added again is there."""
    await subject.run(put("messages", (key(1), row(due_ms=10))))
    await subject.run(put("messages", (key(1), row(due_ms=20)), (key(1), row(due_ms=10))))
    assert due_keys(await subject.scan("due", b"", EVERYTHING, 9)) == [(10, 1)]


async def test_a_smaller_key_is_found_by_the_next_scan(subject: Subject) -> None:
    """Whatever a forward scan remembers of where entries begin, a smaller one that comes later is seen."""

    async def due() -> list[tuple[int, int]]:
        return due_keys(await subject.scan("due", b"", until(b"", 1_000), 9))

    assert await due() == []
    await subject.run(put("messages", (key(1), row(due_ms=100))))
    assert await due() == [(100, 1)]
    await subject.run(put("messages", (key(2), row(due_ms=10))))
    assert await due() == [(10, 2), (100, 1)]
    await subject.run(lambda tx: tx.delete("messages", key(2)))
    assert await due() == [(100, 1)]
    await subject.run(put("messages", (key(3), row(due_ms=2_000))))
    assert await due() == [(100, 1)]
    await subject.run(put("messages", (key(1), row(due_ms=3_000))))
    assert await due() == []
    await subject.run(put("messages", (key(4), row(due_ms=999))))
    assert await due() == [(999, 4)]


async def test_a_key_inserted_into_a_range_scanned_before_is_found(subject: Subject) -> None:
    """The same for scans that start in the middle, as paging does, and for those of other prefixes."""
    await subject.run(put("messages", (key(1), row(due_ms=10)), (key(2), row(due_ms=90))))
    middle = index_key(b"", 10, key(1)) + b"\0"

    async def beyond() -> list[tuple[int, int]]:
        return due_keys(await subject.scan("due", middle, EVERYTHING, 9))

    assert await beyond() == [(90, 2)]
    await subject.run(put("messages", (key(3), row(due_ms=50))))
    assert await beyond() == [(50, 3), (90, 2)]
    pending = messages.status_prefix("q", DLQMessageStatus.PENDING)

    async def of_status() -> list[int]:
        found = await subject.scan("status", pending, until(pending, 1_000), 9)
        return [int.from_bytes(entry[-16:], "big") for entry, _ in found]

    assert await of_status() == [1, 2, 3]
    await subject.run(put("messages", (key(4), row(created_ms=0))))
    assert await of_status() == [4, 1, 2, 3]


async def test_a_scan_that_was_rolled_back_or_aborted_leaves_no_trace(subject: Subject) -> None:
    """Entries that only an abandoned transaction saw, or did not see, change no later scan."""
    await subject.run(put("messages", (key(1), row(due_ms=100))))

    def abandoned(tx: Transaction) -> None:
        tx.delete("messages", key(1))
        assert tx.scan("due", b"", until(b"", 500), 9) == []
        tx.put("messages", key(2), row(due_ms=1))
        assert due_keys(tx.scan("due", b"", until(b"", 500), 9)) == [(1, 2)]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await subject.run(abandoned)
    assert due_keys(await subject.scan("due", b"", until(b"", 500), 9)) == [(100, 1)]


# ------------------------------------------------------------------------------------------- roll-back and effects


async def test_rollback_undoes_everything_since_the_mark(subject: Subject) -> None:
    """Puts, deletes, sends, effects and index entries."""
    topic = await subject.create_topic("rollback")
    seen: list[str] = []
    await subject.run(put("messages", (key(1), row(due_ms=10)), (key(2), row(due_ms=20))))

    def stage(tx: Transaction) -> None:
        tx.put("attempts", key(9), b"kept")
        tx.put("messages", key(3), row(due_ms=30))
        tx.send(topic, b"k", b"kept", ())
        tx.after_commit(lambda: seen.append("kept"))
        mark = tx.mark()
        tx.put("attempts", key(9), b"undone")
        tx.put("attempts", key(8), b"undone")
        tx.put("messages", key(1), row(due_ms=11))
        tx.delete("messages", key(2))
        tx.put("messages", key(3), row(due_ms=31))
        tx.put("messages", key(4), row(due_ms=40))
        tx.send(topic, b"k", b"undone", ())
        tx.after_commit(lambda: seen.append("undone"))
        tx.rollback(mark)
        assert tx.get_many("attempts", [key(8), key(9)]) == {key(8): None, key(9): b"kept"}
        assert due_keys(tx.scan("due", b"", EVERYTHING, 9)) == [(10, 1), (20, 2), (30, 3)]
        tx.put("attempts", key(7), b"after")

    await subject.run(stage)
    assert [await subject.read("attempts", key(n)) for n in (7, 8, 9)] == [b"after", None, b"kept"]
    assert due_keys(await subject.scan("due", b"", EVERYTHING, 9)) == [(10, 1), (20, 2), (30, 3)]
    assert [record.value for record in await subject.sent(topic)] == [b"kept"]
    assert seen == ["kept"]


async def test_marks_nest(subject: Subject) -> None:
    """An inner roll-back leaves the outer part, an outer one takes the inner along; a mark can be used again."""

    def stage(tx: Transaction) -> None:
        outer = tx.mark()
        tx.put("attempts", key(1), b"outer")
        inner = tx.mark()
        tx.put("attempts", key(1), b"inner")
        tx.rollback(inner)
        assert tx.get_many("attempts", [key(1)]) == {key(1): b"outer"}
        tx.put("attempts", key(2), b"second")
        tx.mark()
        tx.put("attempts", key(3), b"third")
        tx.rollback(outer)
        assert tx.scan("attempts", b"", EVERYTHING, 9) == []
        tx.put("attempts", key(4), b"again")
        tx.rollback(outer)
        tx.put("attempts", key(5), b"last")

    await subject.run(stage)
    assert await subject.scan("attempts", b"", EVERYTHING, 9) == [(key(5), b"last")]


async def test_marks_without_rollback_change_nothing(subject: Subject) -> None:
    """Every event is staged behind a mark; most are never rolled back."""

    def stage(tx: Transaction) -> None:
        for number in range(5):
            tx.mark()
            tx.put("attempts", key(number), b"x")
        tx.rollback(tx.mark())

    await subject.run(stage)
    assert len(await subject.scan("attempts", b"", EVERYTHING, 9)) == 5


class Collected:
    """What steps share."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self.keys: list[bytes] = []

    def finish(self) -> None:
        self.tx.put("attempts", key(9), b"".join(self.keys))


async def test_steps_share_what_is_finished_once(subject: Subject) -> None:
    """It is made by the first step; a roll-back leaves it alone, and what it stages at the end is committed."""
    made: list[Collected] = []

    def make(tx: Transaction) -> Collected:
        made.append(Collected(tx))
        return made[-1]

    def stage(tx: Transaction) -> None:
        for step in range(3):
            mark = tx.mark()
            tx.shared(partial(make, tx)).keys.append(b"%d" % step)
            tx.put("attempts", key(step), b"")
            tx.rollback(mark)

    await subject.run(stage)
    assert len(made) == 1
    assert await subject.read("attempts", key(9)) == b"012"
    assert await subject.read("attempts", key(0)) is None
    await subject.run(put("attempts", (key(9), b"")))
    assert await subject.read("attempts", key(9)) == b""


async def test_scans_between_writes_see_each_of_them(subject: Subject) -> None:
    """Tables and indexes; and not what was rolled back."""

    def stage(tx: Transaction) -> list[list[int]]:
        seen = []

        def look() -> None:
            seen.append([number for _, number in due_keys(tx.scan("due", b"", EVERYTHING, 10))])
            assert [name for name, _ in tx.scan("attempts", b"", EVERYTHING, 10)] == [key(n) for n in sorted(seen[-1])]

        def write(number: int, due_ms: int) -> None:
            tx.put("messages", key(number), row(due_ms=due_ms))
            tx.put("attempts", key(number), b"")

        write(3, 30)
        look()
        write(1, 40)
        look()
        mark = tx.mark()
        write(2, 10)
        look()
        tx.rollback(mark)
        write(4, 20)
        look()
        tx.delete("messages", key(3))
        tx.delete("attempts", key(3))
        look()
        return seen

    assert await subject.run(stage) == [[3], [3, 1], [2, 3, 1], [4, 3, 1], [4, 1]]


async def test_effects_run_after_the_commit_and_in_order(subject: Subject) -> None:
    """What they look at is committed."""
    topic = await subject.create_topic("effects")
    seen: list[int] = []

    def stage(tx: Transaction) -> None:
        tx.send(topic, b"k", b"v", ())
        for number in (1, 2, 3):
            tx.after_commit(partial(seen.append, number))
        assert seen == []

    await subject.run(stage)
    assert seen == [1, 2, 3]


async def test_effects_run_where_nothing_was_written(subject: Subject) -> None:
    """A transaction that only looked has effects too."""
    seen: list[int] = []
    await subject.run(lambda tx: tx.after_commit(lambda: seen.append(1)))
    assert seen == [1]


async def test_nothing_is_visible_after_an_exception(subject: Subject) -> None:
    """Rows, index entries, records and effects of a transaction that raised never were."""
    topic = await subject.create_topic("abandoned")
    seen: list[int] = []

    def stage(tx: Transaction) -> None:
        tx.put("messages", key(1), row(due_ms=10))
        tx.put("attempts", key(1), b"x")
        tx.send(topic, b"k", b"v", ())
        tx.after_commit(lambda: seen.append(1))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await subject.run(stage)
    assert await subject.read("attempts", key(1)) is None
    assert await subject.read("messages", key(1)) is None
    assert await indexes_of(subject) == {spec.name: [] for spec in INDEXES}
    await subject.run(put("attempts", (key(2), b"y")))
    assert [record.value for record in await subject.sent(topic)] == []
    assert seen == []


# ------------------------------------------------------------------------------------------- sends and destinations


async def test_records_arrive_as_they_were_sent(subject: Subject) -> None:
    """Bytes, nulls, header order and repeats, the partition asked for, the order within it."""
    topic = await subject.create_topic("arrive", partitions=4)

    def stage(tx: Transaction) -> None:
        tx.send(topic, b"\xff\0", b"\0\xfe", HEADERS, 3)
        tx.send(topic, None, None, (), 3)
        tx.send(topic, b"", b"", (), 3)

    await subject.run(stage)
    records = await subject.sent(topic)
    assert [record[1:4] for record in records] == [
        (b"\xff\0", b"\0\xfe", HEADERS),
        (None, None, ()),
        (b"", b"", ()),
    ]
    assert {record.partition for record in records} <= {3, None}


async def test_a_row_that_its_changelog_does_not_take_is_too_large_when_staged(subject: Subject) -> None:
    """The transaction goes on without it."""

    def stage(tx: Transaction) -> None:
        tx.put("attempts", key(1), b"x" * (subject.row_bytes_max // 2))
        with pytest.raises(TooLarge):
            tx.put("attempts", key(1), b"x" * (subject.row_bytes_max * 2))
        with pytest.raises(TooLarge):
            tx.put("attempts", key(2), b"x" * (subject.row_bytes_max * 2))
        assert tx.get_many("attempts", [key(2)]) == {key(2): None}

    await subject.run(stage)
    stored = await subject.read("attempts", key(1))
    assert stored is not None
    assert len(stored) == subject.row_bytes_max // 2
    assert await subject.read("attempts", key(2)) is None


async def test_a_record_that_its_destination_does_not_take_is_too_large_when_staged(subject: Subject) -> None:
    """Once the destination is known; the headers count, and the transaction goes on without the record."""
    topic = await subject.create_topic("small", record_bytes_max=2_000)
    await subject.run(lambda tx: tx.destination(topic))
    await subject.looked_up()

    def stage(tx: Transaction) -> None:
        tx.send(topic, b"k", b"x" * 1_000, ())
        with pytest.raises(TooLarge):
            tx.send(topic, b"k", b"x" * 2_000, ())
        with pytest.raises(TooLarge):
            tx.send(topic, b"k", b"y", (("header", b"x" * 2_000),))

    await subject.run(stage)
    assert [record.value for record in await subject.sent(topic)] == [b"x" * 1_000]


async def test_destinations_are_looked_up_once_asked_for(subject: Subject) -> None:
    """The first question is not answered, and asks; the answer says what the topic is like."""
    topic = await subject.create_topic("known", partitions=3, record_bytes_max=12_345)
    assert await subject.run(lambda tx: tx.destination(topic)) is None
    await subject.looked_up()
    known = await subject.run(lambda tx: tx.destination(topic))
    assert known is not None
    assert (known.topic, known.partitions, known.record_bytes_max) == (topic, 3, 12_345)
    assert (known.compacted, known.refusal) == (False, None)


async def test_a_destination_that_is_not_there_is_known_as_missing(subject: Subject) -> None:
    """Not knowing and knowing that there is none are two answers."""
    existing = await subject.create_topic("existing")
    nowhere = existing + "-nowhere"
    assert await subject.run(lambda tx: tx.destination(nowhere)) is None
    await subject.looked_up()
    known = await subject.run(lambda tx: tx.destination(nowhere))
    assert known is not None
    assert known.refusal == "missing"


# ----------------------------------------------------------------------------------------------------------- clock


async def test_the_clock_never_runs_backwards(subject: Subject) -> None:
    """A step back of the machine's clock holds ours."""
    subject.clock_ms = 5_000_000
    assert await subject.run(lambda tx: tx.now_ms) == 5_000_000
    subject.clock_ms = 4_000_000
    assert await subject.run(lambda tx: tx.now_ms) == 5_000_000
    subject.clock_ms = 6_000_000
    assert await subject.run(lambda tx: tx.now_ms) == 6_000_000


async def test_the_clock_stands_still_within_a_transaction(subject: Subject) -> None:
    """All of a batch happens at one instant."""

    def stage(tx: Transaction) -> tuple[int, int]:
        before = tx.now_ms
        subject.clock_ms += 1_000
        return before, tx.now_ms

    before, after = await subject.run(stage)
    assert before == after


# -------------------------------------------------------------------------------------------------- random histories

_rows = st.builds(
    row,
    due_ms=st.none() | st.integers(0, 20),
    created_ms=st.integers(0, 20),
    closed_ms=st.none() | st.integers(0, 20),
    queue=st.sampled_from(["q", "r", "qq"]),
    status=st.sampled_from([s for s in DLQMessageStatus if s is not DLQMessageStatus.PURGED]),
)
_operations = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 5), _rows),
    st.tuples(st.just("delete"), st.integers(0, 5)),
    st.tuples(st.just("mark")),
    st.tuples(st.just("rollback"), st.integers(0, 3)),
    st.tuples(st.just("scan"), st.integers(0, 21), st.integers(1, 4), st.booleans()),
)
_histories = st.lists(st.tuples(st.lists(_operations, max_size=12), st.booleans()), max_size=6)


class Model:
    """Rows in a dict; indexes are derived from all of them whenever somebody asks."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def index(self, name: str) -> list[bytes]:
        entries = [messages.derive(k, None, raw)[1] for k, raw in self.rows.items()]
        return sorted(entry for found in entries for index, entry in found if index == name)

    def due(self, stop_ms: int, limit: int, reverse: bool) -> list[bytes]:
        found = [entry for entry in self.index("due") if entry < until(b"", stop_ms)]
        return sorted(found, reverse=reverse)[:limit]


def replay(tx: Transaction, model: Model, operations: list[tuple[Any, ...]]) -> None:
    marks: list[tuple[int, dict[bytes, bytes]]] = [(tx.mark(), dict(model.rows))]
    for operation in operations:
        match operation:
            case ("put", number, raw):
                tx.put("messages", key(number), raw)
                model.rows[key(number)] = raw
            case ("delete", number):
                tx.delete("messages", key(number))
                model.rows.pop(key(number), None)
            case ("mark",):
                marks.append((tx.mark(), dict(model.rows)))
            case ("rollback", depth):
                del marks[max(1, len(marks) - depth) :]
                tx.rollback(marks[-1][0])
                model.rows = dict(marks[-1][1])
            case ("scan", stop_ms, limit, reverse):
                found = tx.scan("due", b"", until(b"", stop_ms), limit, reverse=reverse)
                assert [entry for entry, _ in found] == model.due(stop_ms, limit, reverse)
    stored = tx.get_many("messages", [key(number) for number in range(6)])
    assert {k: raw for k, raw in stored.items() if raw is not None} == model.rows


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=_histories)
async def test_indexes_equal_a_fresh_derivation(harness: Harness, history: list[tuple[list[Any], bool]]) -> None:
    """After any sequence of transactions, roll-backs and aborts, and within each of them."""
    subject = await harness.make()
    model = Model()
    for operations, aborted in history:
        before = dict(model.rows)

        def stage(tx: Transaction, operations: list[Any] = operations, aborted: bool = aborted) -> None:
            replay(tx, model, operations)
            if aborted:
                raise ZeroDivisionError

        try:
            await subject.run(stage)
        except ZeroDivisionError:
            model.rows = before
        indexes = await indexes_of(subject)
        for spec in INDEXES:
            assert [entry for entry, _ in indexes[spec.name]] == model.index(spec.name)
        rows = await subject.scan("messages", b"", EVERYTHING, 100)
        assert rows == sorted(model.rows.items())
    assert all(msgspec.msgpack.decode(raw[2:]) for raw in model.rows.values())
