"""The table `attempts`: keys, order, how many rows are kept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.model import ErrorCategory
from dlq_stream.tables import attempts
from dlq_stream.tables.attempts import ATTEMPT_MAX, Attempt
from tests.memory import MemoryPartition

ID = bytes(range(16))
NEXT = bytes(range(15)) + b"\x10"


def attempt(text: str = "") -> Attempt:
    return Attempt(("TimeoutError",), text, ErrorCategory.TRANSIENT, "default", 1)


@given(st.binary(min_size=16, max_size=16), st.integers(0, ATTEMPT_MAX))
def test_keys_round_trip(message_id: bytes, number: int) -> None:
    """Message id and number."""
    assert attempts.split_key(attempts.attempt_key(message_id, number)) == (message_id, number)


@pytest.mark.parametrize("first", [0, 3])
def test_the_first_row_and_the_latest_are_kept(first: int) -> None:
    """At most the named number, whatever the number of deliveries."""
    home = MemoryPartition()
    for number in range(first, first + 40):

        def stage(tx: Any, number: int = number) -> None:
            attempts.put(tx, ID, number, attempt(str(number)))
            attempts.trim(tx, ID, first, number, 4)

        home.run(stage)
        assert len(home.rows["attempts"]) <= 4
    history = attempts.history(home.transaction(), ID, 10)
    assert [number for number, _ in history] == [first, first + 37, first + 38, first + 39]
    assert [row.error_message for _, row in history] == [str(number) for number, _ in history]


def test_a_single_kept_row_is_the_first() -> None:
    """Fewer than the first and the latest is the first alone, plus the one just written."""
    home = MemoryPartition()
    for number in range(3):
        home.run(lambda tx, number=number: attempts.put(tx, ID, number, attempt()))
        home.run(lambda tx, number=number: attempts.trim(tx, ID, 0, number, 1))
    assert [number for number, _ in attempts.history(home.transaction(), ID, 10)] == [0]


def test_all_rows_of_a_message_are_deleted_and_no_others() -> None:
    """In pages, up to the largest number."""
    home = MemoryPartition()
    for number in (0, 1, 2, 3, ATTEMPT_MAX):
        home.run(lambda tx, number=number: attempts.put(tx, ID, number, attempt()))
    home.run(lambda tx: attempts.put(tx, NEXT, 0, attempt()))
    home.run(lambda tx: attempts.delete_all(tx, ID, page=2))
    assert attempts.get(home.transaction(), ID, 0) is None
    assert list(home.rows["attempts"]) == [attempts.attempt_key(NEXT, 0)]
