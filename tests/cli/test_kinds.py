"""Durations, instants and ids as people write them."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.cli.kinds import DURATION_MS_MAX, duration_ms, instant_ms, message_id
from dlq_stream.cli.naming import words

UNITS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}


@given(st.integers(0, DURATION_MS_MAX))
def test_what_is_written_with_all_units_is_read_back(total: int) -> None:
    """Largest first, zeros left out but for one."""
    rest, text = total, ""
    for unit, size in UNITS.items():
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    assert duration_ms(text or "0s") == total


@given(st.sampled_from(list(UNITS)), st.integers(0, 9_999))
def test_one_unit_is_enough(unit: str, count: int) -> None:
    """Within ten years."""
    if count * UNITS[unit] <= DURATION_MS_MAX:
        assert duration_ms(f" {count}{unit} ") == count * UNITS[unit]


@given(st.text(max_size=12))
def test_anything_else_is_a_value_error(text: str) -> None:
    """Or a duration that is not negative and not longer than ten years."""
    with suppress(ValueError):
        assert 0 <= duration_ms(text) <= DURATION_MS_MAX


@pytest.mark.parametrize("text", ["", "5", "-5s", "1.5h", "5 m", "1m1h", "1h1h", "5S", "٣s", "9999999999w", "11000d"])
def test_what_is_no_duration(text: str) -> None:
    """A number without a unit, signs, fractions, units twice or in another order, other scripts' digits, too long."""
    with pytest.raises(ValueError, match=r"is not a duration|longer than ten years"):
        duration_ms(text)


@given(
    st.datetimes(datetime(1970, 1, 3), datetime(9999, 12, 28)),  # noqa: DTZ001 - the zone is drawn, too
    st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_instants_are_read_in_their_zone(moment: datetime, zone: timezone) -> None:
    """To the millisecond."""
    there = moment.replace(tzinfo=zone)
    exact = (there - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1)
    assert abs(instant_ms(there.isoformat()) - exact) <= 0.5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tomorrow", "is not an ISO 8601"),
        ("2026-11-25", "names no time zone"),
        ("2026-11-25T06:00:00", "names no time zone"),
        ("0001-01-01T00:00:00+14:00", "before 1970"),
        ("1969-12-31T23:59:59Z", "before 1970"),
    ],
)
def test_what_is_no_instant(text: str, told: str) -> None:
    """Without a zone it would mean another moment on another machine."""
    with pytest.raises(ValueError, match=told):
        instant_ms(text)


@given(st.binary(min_size=16, max_size=16))
def test_ids_are_32_hex_digits(id_: bytes) -> None:
    """In either case."""
    assert message_id(id_.hex()) == message_id(id_.hex().upper()) == id_
    for wrong in (id_.hex()[1:], id_.hex() + "0", "\udcff" * 32, "é" * 16):
        with pytest.raises(ValueError, match="32 hex digits"):
            message_id(wrong)


def test_a_dash_stands_for_the_words_on_standard_input() -> None:
    """In its place; they may stand on lines or beside each other."""
    assert list(words(["a", "-", "b"], ["c d\n", "\n", " e\n"])) == ["a", "c", "d", "e", "b"]
