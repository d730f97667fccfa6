"""Notes of where outputs went, in the headers of changelog records."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.runtime.output_notes import NOTE_BYTES_MAX, OUTPUTS, noted, notes_of, outputs_in
from dlq_stream.runtime.ports import OutRecord

ROW_BYTES_MAX = 100_000
PLACES = st.sets(st.tuples(st.text("abc.-", min_size=1, max_size=249), st.integers(0, 100_000)), max_size=200)


def rows_of(*sizes: int) -> list[OutRecord]:
    return [(b"k", b"v" * size, ()) for size in sizes]


def read(rows: list[OutRecord]) -> set[tuple[str, int]]:
    return set().union(*(outputs_in(headers) for _, _, headers in rows))


@given(PLACES)
def test_what_is_noted_is_read(places: set[tuple[str, int]]) -> None:
    """All of it, and the rows stay what they were."""
    rows = noted(rows_of(*([10] * 200)), notes_of(places), ROW_BYTES_MAX)
    assert read(rows) == places
    assert [row[:2] for row in rows] == [row[:2] for row in rows_of(*([10] * 200))]


@given(PLACES)
def test_a_note_is_bounded(places: set[tuple[str, int]]) -> None:
    """By its size; one topic's partitions stay together."""
    notes = notes_of(places)
    assert all(len(note) <= NOTE_BYTES_MAX or len(msgspec.msgpack.decode(note)) == 1 for note in notes)
    topics = [topic for note in notes for topic, _ in msgspec.msgpack.decode(note)]
    assert len(topics) == len(set(topics))


def test_a_row_without_room_has_no_note() -> None:
    """A record that is too large for its changelog would end the worker."""
    notes = notes_of({("heat", 1)})
    assert read(noted(rows_of(10, ROW_BYTES_MAX - 150), notes, ROW_BYTES_MAX)) == set()
    assert read(noted(rows_of(10, ROW_BYTES_MAX - 200), notes, ROW_BYTES_MAX)) == {("heat", 1)}


def test_other_headers_are_left_alone() -> None:
    """Both ways."""
    assert outputs_in((("other", b"\xff"), ("none", None))) == set()
    [(_, _, headers)] = noted([(b"k", None, (("other", b"1"),))], notes_of({("heat", 0)}), ROW_BYTES_MAX)
    assert headers[0] == ("other", b"1")


def test_a_spoilt_note_is_an_error() -> None:
    """It must not be taken for "nothing"."""
    with pytest.raises(msgspec.DecodeError):
        outputs_in(((OUTPUTS, b"\xc1"),))
