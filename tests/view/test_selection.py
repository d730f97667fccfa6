"""Which messages a filter means, and in what order they come."""

from __future__ import annotations

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.tables.messages import Message
from dlq_stream.view.selection import OPEN, Selection, id_of_turn, turn_of

NOW = 1_000_000
STATUSES = [status for status in DLQMessageStatus if status is not DLQMessageStatus.PURGED]
NAMES = st.sampled_from(["heat", "heat-2", "water", ""])
TYPES = st.sampled_from(["TimeoutError", "httpx.ReadTimeout", "ValueError", ""])
ROWS = st.builds(
    Message,
    status=st.sampled_from(STATUSES),
    due_ms=st.none() | st.integers(0, NOW),
    created_ms=st.integers(0, NOW),
    closed_ms=st.none(),
    queue=NAMES,
    error_type=TYPES,
)
SELECTIONS = st.builds(
    Selection,
    queues=st.lists(st.sampled_from(["heat", "heat*", "*", "none"]), max_size=2).map(tuple),
    statuses=st.frozensets(st.sampled_from(STATUSES), max_size=2),
    error_types=st.lists(st.sampled_from(["*Timeout*", "ReadTimeout", "httpx.*", "ValueError"]), max_size=2).map(tuple),
    older_than_ms=st.none() | st.integers(0, NOW),
)


@given(SELECTIONS, ROWS)
def test_a_row_fits_if_everything_that_was_asked_is_true_of_it(selection: Selection, row: Message) -> None:
    """Said once more, in other words."""
    short = row.error_type.split(".")[-1]
    wanted = [
        any(fnmatchcase(row.queue, each) for each in selection.queues) if selection.queues else True,
        row.status in selection.statuses if selection.statuses else True,
        any(fnmatchcase(name, each) for name in (row.error_type, short) for each in selection.error_types)
        if selection.error_types
        else True,
        NOW - row.created_ms >= selection.older_than_ms if selection.older_than_ms is not None else True,
    ]
    assert selection.fits(row, NOW) is all(wanted)


@given(ROWS)
def test_no_filter_means_all(row: Message) -> None:
    """And says that it asks for nothing; an age of zero asks."""
    assert Selection().fits(row, NOW)
    assert not Selection()
    assert Selection(older_than_ms=0)


@given(st.lists(ROWS, max_size=12))
def test_next_due_first_then_the_oldest(rows: list[Message]) -> None:
    """Open ones with a due time, open ones without, then all others."""
    turns = {turn_of(b"%016d" % number, row): row for number, row in enumerate(rows)}
    ordered = [turns[turn] for turn in sorted(turns)]
    assert [id_of_turn(turn) for turn in turns] == [b"%016d" % number for number in range(len(rows))]
    due = [row for row in ordered if row.status in OPEN and row.due_ms is not None]
    stuck = [row for row in ordered if row.status in OPEN and row.due_ms is None]
    assert ordered[: len(due) + len(stuck)] == due + stuck
    assert [row.due_ms for row in due] == sorted(row.due_ms or 0 for row in due)
    for group in (stuck, ordered[len(due) + len(stuck) :]):
        assert [row.created_ms for row in group] == sorted(row.created_ms for row in group)
