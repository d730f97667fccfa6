"""Remembered scan bounds: they spare looks at what is gone, and hide nothing that is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.runtime import transaction as module
from dlq_stream.runtime.transaction import Bounds, StagedTransaction
from dlq_stream.tables import messages
from dlq_stream.tables.spec import index_key, until
from tests.runtime.fakes import Destinations, Store, key, row

DUE = messages.DUE.tag


class Table:
    """Committed state with one set of bounds."""

    def __init__(self) -> None:
        self.store = Store()
        self.bounds = Bounds()

    def transaction(self) -> StagedTransaction:
        return StagedTransaction(
            partition=0,
            partitions=4,
            now_ms=0,
            store=self.store,
            bounds=self.bounds,
            destinations=Destinations(),
            row_bytes_max=100_000,
            refused={},
        )

    def commit(self, tx: StagedTransaction) -> None:
        self.store.write(tx.changes(), {}, 0)
        for index, entries in tx.index_writes.items():
            for entry, present in entries.items():
                if present:
                    self.bounds.fall(index, entry)

    def put(self, number: int, due_ms: int | None) -> None:
        tx = self.transaction()
        tx.put("messages", key(number), row(due_ms))
        self.commit(tx)

    def due(self, until_ms: int, limit: int = 9) -> list[int]:
        found = self.transaction().scan("due", b"", until(b"", until_ms), limit)
        return [int.from_bytes(entry[-16:], "big") for entry, _ in found]

    @property
    def last_start(self) -> bytes:
        return self.store.scans[-1][0]


def test_a_scan_begins_where_the_first_entry_was() -> None:
    """Not at the beginning of what was deleted."""
    table = Table()
    table.put(1, 100)
    table.put(2, 200)
    assert table.due(1_000) == [1, 2]
    table.put(1, None)
    assert table.due(1_000) == [2]
    assert table.last_start == DUE + index_key(b"", 100, key(1))
    assert table.due(1_000) == [2]
    assert table.last_start == DUE + index_key(b"", 200, key(2))


def test_an_empty_look_is_remembered_up_to_where_it_went() -> None:
    """And no further: what is beyond was not looked at."""
    table = Table()
    table.put(1, 500)
    assert table.due(300) == []
    assert table.due(400) == []
    assert table.last_start == DUE + until(b"", 300)
    assert table.due(500) == [1]


def test_a_look_that_ends_before_the_bound_changes_nothing() -> None:
    """It does not even reach the store's live part."""
    table = Table()
    table.put(1, 500)
    assert table.due(1_000) == [1]
    assert table.due(300) == []
    assert table.due(1_000) == [1]


def test_the_bound_falls_with_a_commit_and_not_before() -> None:
    """What was staged and abandoned leaves it where it was."""
    table = Table()
    table.put(1, 500)
    assert table.due(1_000) == [1]
    abandoned = table.transaction()
    abandoned.put("messages", key(2), row(100))
    assert len(abandoned.scan("due", b"", until(b"", 1_000), 9)) == 2
    assert table.due(1_000) == [1]
    assert table.last_start == DUE + index_key(b"", 500, key(1))
    table.put(2, 100)
    assert table.due(1_000) == [2, 1]


def test_scans_that_do_not_begin_at_a_prefix_remember_nothing() -> None:
    """Paging begins in the middle: what lies before is not gone."""
    table = Table()
    for number, due_ms in ((1, 100), (2, 200), (3, 300)):
        table.put(number, due_ms)
    tx = table.transaction()
    middle = index_key(b"", 100, key(1)) + b"\0"
    assert len(tx.scan("due", middle, until(b"", 1_000), 9)) == 2
    assert len(tx.scan("due", b"", until(b"", 1_000), 9, reverse=True)) == 3
    assert table.due(1_000) == [1, 2, 3]
    assert table.last_start == DUE


def test_prefixes_have_bounds_of_their_own() -> None:
    """The messages of one queue and status do not hide those of another."""
    table = Table()
    tx = table.transaction()
    pending = messages.status_prefix("q", DLQMessageStatus.PENDING)
    retrying = messages.status_prefix("q", DLQMessageStatus.RETRYING)
    assert tx.scan("status", pending, until(pending, 1_000), 9) == []
    table.put(1, None)
    assert [len(table.transaction().scan("status", p, until(p, 1_000), 9)) for p in (pending, retrying)] == [1, 0]


def test_a_limit_of_nothing_remembers_nothing() -> None:
    """Nobody looked."""
    table = Table()
    table.put(1, 100)
    assert table.due(1_000, limit=0) == []
    assert table.due(1_000) == [1]


def test_bounds_are_forgotten_when_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next scans are slower, not wrong."""
    monkeypatch.setattr(module, "BOUNDS_MAX", 2)
    bounds = Bounds()
    for number in range(3):
        bounds.seen("status", b"%d" % number, b"%d9" % number)
    assert [bounds.begin("status", b"%d" % number) for number in range(3)] == [b"0", b"1", b"29"]


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5), st.none() | st.integers(0, 30)),
        st.tuples(st.just("look"), st.integers(0, 31), st.integers(0, 4)),
    ),
    max_size=40,
)


@given(_steps)
def test_no_history_hides_an_entry(steps: list[tuple[str, int, int | None]]) -> None:
    """Scans with bounds find what scans without them would."""
    table, due = Table(), {}
    for what, first, second in steps:
        if what == "put":
            due[first] = second
            table.put(first, second)
        else:
            there = sorted((ms, number) for number, ms in due.items() if ms is not None and ms <= first)
            assert table.due(first, second or 0) == [number for _, number in there[: second or 0]]
