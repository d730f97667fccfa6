"""The incarnation marker."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.errors import DLQError, UnsupportedFormat
from dlq_stream.tables import MAJOR, attempts, marker, stats
from dlq_stream.tables.marker import MARKER_KEY, Marker


@given(st.text(max_size=30), st.text(max_size=30))
def test_round_trip(incarnation: str, app_id: str) -> None:
    """What init writes, a worker reads."""
    made = Marker(incarnation, app_id)
    assert marker.decode(marker.encode(made)) == made
    assert json.loads(marker.encode(made)) == {"incarnation": incarnation, "format": MAJOR, "app_id": app_id}


def test_a_newer_format_is_refused() -> None:
    """By a worker that is too old, with what to do."""
    with pytest.raises(UnsupportedFormat, match="upgrade this worker"):
        marker.decode(marker.encode(Marker("i", "app", MAJOR + 1)))


@pytest.mark.parametrize("value", [None, b"", b"{}", b"[]", b"\xff", b'{"incarnation": "i", "app_id": "a"}', b"null"])
def test_what_is_no_marker_is_an_error(value: bytes | None) -> None:
    """That names it."""
    with pytest.raises(DLQError, match="marker"):
        marker.decode(value)


def test_no_table_has_the_markers_key() -> None:
    """Ids and attempts differ in length, queue names hold no NUL."""
    assert len(MARKER_KEY) not in (16, len(attempts.attempt_key(bytes(16), 1)))
    assert stats.stats_key("", 1) != MARKER_KEY
    assert not stats.stats_key("q", 1).startswith(b"\0")
