"""The table `stats`: figures are differences of rows, written once per transaction."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dlq_stream.core.lifecycle import LIFECYCLE, Event, Ignored, State
from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.tables import messages, stats
from dlq_stream.tables.messages import DeadLetter, Message
from dlq_stream.tables.stats import Stats, StatsBook, delta, total
from tests.memory import MemoryPartition, MemoryTransaction

PENDING = Message(DLQMessageStatus.PENDING, 5, 1, None, "q")
ESCALATED = replace(
    PENDING,
    status=DLQMessageStatus.ESCALATED,
    due_ms=None,
    dead_letter=DeadLetter.WAITING,
    dead_letter_reason="missing",
)
GAUGES = ("pending", "retrying", "resolved", "escalated")


def figures(home: MemoryPartition, queue: str = "q") -> Stats:
    raw = home.rows["stats"].get(stats.stats_key(queue, home.partition))
    return Stats() if raw is None else stats.codec.decode(raw)


def row_in(state: State) -> Message | None:
    if state is State.ABSENT:
        return None
    return replace(PENDING, status=state.status, presumed=state is State.PRESUMED)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), st.integers(0, 65_535))
def test_keys_round_trip(queue: str, partition: int) -> None:
    """Queue and partition."""
    assert stats.split_key(stats.stats_key(queue, partition)) == (queue, partition)


def test_every_transition_moves_one_message() -> None:
    """Gauges change by the difference of the states, at most one total by the event."""
    for state, events in LIFECYCLE.items():
        for event, target in events.items():
            changes = delta(row_in(state), row_in(target), event)
            moved = {name: changes.get(name, 0) for name in GAUGES}
            expected = dict.fromkeys(GAUGES, 0)
            if state is not State.ABSENT:
                expected[state.status.value] -= 1
            if target is not State.ABSENT:
                expected[target.status.value] += 1
            assert moved == expected
            assert all(changes[name] == 1 for name in changes if name not in GAUGES)


def test_what_events_count_as() -> None:
    """Each total by the events that are named after it."""
    assert delta(None, PENDING, Event.FAILED_AGAIN) == {"pending": 1, "failures": 1}
    assert delta(PENDING, ESCALATED, Event.REFUSED) == {
        "pending": -1,
        "escalated": 1,
        "unwritten": 1,
        "unwritten_reasons.missing": 1,
        "escalated_total": 1,
    }
    written = replace(ESCALATED, dead_letter=DeadLetter.WRITTEN, dead_letter_reason="")
    assert delta(ESCALATED, written, None) == {"unwritten": -1, "unwritten_reasons.missing": -1}
    refused = replace(ESCALATED, dead_letter_reason="policy-violation")
    assert delta(ESCALATED, refused, None) == {"unwritten_reasons.missing": -1, "unwritten_reasons.policy-violation": 1}
    stuck = replace(PENDING, stuck_reason="undecodable: UndecodableRow: text")
    assert delta(PENDING, stuck, None) == {"stuck": 1, "stuck_reasons.undecodable": 1}
    assert delta(row_in(State.PRESUMED), PENDING, Event.FAILED_AGAIN) == {
        "resolved": -1,
        "pending": 1,
        "failures": 1,
        "reopened": 1,
    }


def test_the_book_writes_each_queue_once() -> None:
    """Whatever the number of changes; nothing at all where nothing changed."""
    home = MemoryPartition(partition=3, now_ms=77)

    def stage(tx: MemoryTransaction) -> None:
        book = StatsBook(tx, 10)
        book.flush()
        assert tx.staged["stats"] == {}
        for _ in range(3):
            book.changed(None, PENDING, Event.FAILED_AGAIN)
        book.ignored(PENDING, Ignored.DUPLICATE)
        book.ignored(PENDING, Ignored.DUPLICATE)
        book.ignored(None, Ignored.ABSENT)
        book.quarantined()
        book.forwarded()
        book.forwarded()
        book.flush()
        assert len(tx.staged["stats"]) == 2

    home.run(stage)
    assert figures(home) == Stats(pending=3, failures=3, ignored={"duplicate": 2}, oldest_open_ms=77, updated_ms=77)
    assert figures(home, "") == Stats(quarantined=1, forwarded=2, ignored={"absent": 1}, updated_ms=77)

    def more(tx: MemoryTransaction) -> None:
        book = StatsBook(tx, 10)
        book.ignored(PENDING, Ignored.DUPLICATE)
        book.ignored(PENDING, Ignored.AHEAD)
        book.flush()

    home.run(more)
    assert figures(home).ignored == {"duplicate": 3, "ahead": 1}
    assert (figures(home).pending, figures(home).oldest_open_ms) == (3, 77)


def test_reasons_are_few_whatever_rows_say() -> None:
    """Texts of brokers and exceptions are no keys: their first word is, or what stands for all others."""
    home = MemoryPartition()
    texts = [f"error {n}: text" for n in range(1_000)] + ["missing, and its creation was refused: policy", ""]
    rows = [replace(ESCALATED, dead_letter_reason=text) for text in texts]

    def book(tx: MemoryTransaction, pairs: list[tuple[Message | None, Message | None]]) -> None:
        page = StatsBook(tx, 10)
        for old, new in pairs:
            page.changed(old, new, None)
        page.flush()

    home.run(lambda tx: book(tx, [(None, row) for row in rows]))
    assert figures(home).unwritten_reasons == {"other": 1_001, "missing": 1}
    stuck = [replace(PENDING, stuck_reason=text) for text in ("undecodable: x", "ZeroDivisionError: x")]
    home.run(lambda tx: book(tx, [(None, row) for row in stuck] + [(row, None) for row in rows[1:]]))
    assert figures(home).unwritten_reasons == {"other": 1}
    assert figures(home).stuck_reasons == {"undecodable": 1, "unexpected": 1}
    home.run(lambda tx: book(tx, [(row, None) for row in [*stuck, rows[0]]]))
    assert (figures(home).unwritten_reasons, figures(home).stuck_reasons, figures(home).stuck) == ({}, {}, 0)


def test_the_oldest_open_message_may_be_a_new_one() -> None:
    """The partition's former owner had a clock that was ahead of ours."""
    home = MemoryPartition()
    for now_ms, expected in ((500, 500), (300, 300), (400, 300)):
        home.now_ms = now_ms

        def book(tx: MemoryTransaction, now_ms: int = now_ms) -> None:
            page = StatsBook(tx, 10)
            page.changed(None, replace(PENDING, created_ms=now_ms), Event.FAILED_AGAIN)
            page.flush()

        home.run(book)
        assert figures(home).oldest_open_ms == expected


def test_the_oldest_open_message_is_found_when_one_leaves() -> None:
    """By a look at the index, own writes included."""
    home = MemoryPartition()
    ids = [bytes([n]) * 16 for n in range(3)]

    def book(tx: MemoryTransaction, id_: bytes, old: Message | None, new: Message, event: Event) -> None:
        messages.put(tx, id_, new)
        page = StatsBook(tx, 10)
        page.changed(old, new, event)
        page.flush()

    rows = [replace(PENDING, created_ms=10 + n) for n in range(3)]
    for n, id_ in enumerate(ids):
        home.now_ms = 10 + n
        home.run(lambda tx, n=n, id_=id_: book(tx, id_, None, rows[n], Event.FAILED_AGAIN))
        assert figures(home).oldest_open_ms == 10
    resolved = {"status": DLQMessageStatus.RESOLVED, "due_ms": None}
    for n, expected in ((1, 10), (0, 12), (2, None)):
        done = replace(rows[n], **resolved)
        home.run(lambda tx, n=n, done=done: book(tx, ids[n], rows[n], done, Event.SUCCEEDED))
        assert figures(home).oldest_open_ms == expected
    retrying = replace(rows[1], status=DLQMessageStatus.RETRYING)
    home.run(lambda tx: book(tx, ids[1], replace(rows[1], **resolved, presumed=True), retrying, Event.FAILED_AGAIN))
    assert figures(home).oldest_open_ms == 11


def admitted(home: MemoryPartition, queues: str, queues_max: int) -> list[str]:
    def stage(tx: MemoryTransaction) -> list[str]:
        book = StatsBook(tx, queues_max)
        booked = [book.booked_as(queue) for queue in queues]
        for queue, booked_as in zip(queues, booked, strict=True):
            book.changed(None, replace(PENDING, queue=queue, booked_as=booked_as), Event.FAILED_AGAIN)
        book.flush()
        return booked

    return home.run(stage)


def test_queues_beyond_the_bound_are_other() -> None:
    """First come, first served, for good; the partition's own row and `other` do not count."""
    home = MemoryPartition()
    home.run(lambda tx: _quarantine_one(tx))
    assert admitted(home, "aabca", 2) == ["", "", "", "other", ""]
    assert admitted(home, "cbd", 2) == ["other", "", "other"]
    assert admitted(home, "c", 3) == [""]
    assert figures(home, "other").pending == 3


def _quarantine_one(tx: Any) -> None:
    book = StatsBook(tx, 1)
    book.quarantined()
    book.flush()


def test_a_queue_that_is_called_other_is_always_admitted() -> None:
    """It is the same row."""
    home = MemoryPartition()

    def stage(tx: MemoryTransaction) -> str:
        return StatsBook(tx, 0).booked_as("other")

    assert home.run(stage) == ""


def test_total_is_the_clusters_figure() -> None:
    """Sums, reasons added up, the earliest open instant, the latest update."""
    rows = [
        Stats(pending=1, failures=2, ignored={"a": 1}, oldest_open_ms=5, updated_ms=7, stuck_reasons={"x": 1}),
        Stats(pending=2, ignored={"a": 1, "b": 2}, oldest_open_ms=3, updated_ms=6, unwritten_reasons={"y": 1}),
        Stats(retrying=4),
    ]
    assert total(rows) == Stats(
        pending=3,
        retrying=4,
        failures=2,
        ignored={"a": 2, "b": 2},
        oldest_open_ms=3,
        updated_ms=7,
        stuck_reasons={"x": 1},
        unwritten_reasons={"y": 1},
    )
    assert total(rows).open == 7
    assert total([]) == Stats()
