"""Showing what nobody vouches for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.shown import shown, shown_chars_max


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@given(st.binary() | st.text() | st.integers() | st.none() | st.lists(st.text()))
def test_shown_is_short_and_printable(value: object) -> None:
    """Whatever it is: at most 80 characters, no line breaks, the whole repr where that is short."""
    text = shown(value)
    assert len(text) <= shown_chars_max
    assert text.isprintable()
    if len(repr(value)) <= shown_chars_max:
        assert text == repr(value)
    else:
        assert text.endswith("…")


def test_shown_does_not_raise() -> None:
    """A number too long for Python to print, and an object that refuses."""
    assert shown(10**5000) == "<int>"
    assert shown(Unprintable()) == "<Unprintable>"


def test_shown_does_not_format_megabytes() -> None:
    """The value is cut before it is formatted."""
    assert len(shown(b"\xff" * 10**7)) == shown_chars_max
