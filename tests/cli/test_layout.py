"""What is shown: nothing that a terminal would obey, and tables that line up."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.cli.layout import aligned, in_one_line, instant, printable

ANY_TEXT = st.text(st.characters(), max_size=60)  # surrogates, controls and marks included
HOSTILE = "\x1b]0;owned\x07 \x1b[2J \x9b31m \u202egnp.exe \x00 \x7f \r\b \ud800 \u2028"


def is_harmless(text: str) -> bool:
    """No control, format, surrogate, private or unassigned character, and no line or paragraph separator."""
    return not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for char in text)


@given(ANY_TEXT)
def test_nothing_printable_is_changed_and_nothing_else_is_left(text: str) -> None:
    """Line breaks stay."""
    shown = printable(text)
    assert is_harmless(shown.replace("\n", ""))
    if is_harmless(text) and text.isprintable():
        assert shown == text
    assert printable(shown) == shown


def test_escape_sequences_are_seen_not_obeyed() -> None:
    """As what they are."""
    shown = printable(HOSTILE)
    assert shown.startswith("\\x1b]0;owned\\x07 \\x1b[2J \\x9b31m \\u202egnp.exe \\x00 \\x7f")
    assert is_harmless(shown)


@given(ANY_TEXT, st.integers(1, 80))
def test_one_line_is_one_line_and_no_longer_than_asked(text: str, chars_max: int) -> None:
    """What was cut ends in an ellipsis."""
    shown = in_one_line(text, chars_max)
    assert is_harmless(shown)
    assert len(shown) <= chars_max
    assert shown == in_one_line(text) or shown.endswith("…")


@given(st.lists(st.tuples(st.text("ab", max_size=9), st.text("ab", min_size=1, max_size=9)), min_size=1, max_size=5))
def test_columns_line_up(rows: list[tuple[str, str]]) -> None:
    """Left at the left, right at the right."""
    lines = aligned(rows)
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[-1] for line in lines] == [last for _, last in rows]


def test_instants_beyond_all_dates() -> None:
    """A hostile due time is words, not an error."""
    assert instant(0) == "1970-01-01T00:00:00Z"
    assert instant(2**63 - 1) == "the far future"
    assert instant(-5) == "-5 ms before 1970"
