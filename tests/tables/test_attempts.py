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
BEFORE = bytes(range(15)) + b"\x0e"


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


@given(st.sets(st.integers(0, 40) | st.just(ATTEMPT_MAX)), st.sets(st.integers(0, 3)), st.booleans())
def test_all_rows_of_a_message_are_found_and_no_others(kept: set[int], others: set[int], staged: bool) -> None:
    """In pages, up to the largest number, with what reading them took; those just written or deleted included."""
    home = MemoryPartition()

    def write(tx: Any) -> None:
        for number in kept:
            attempts.put(tx, ID, number, attempt("x" * (number % 1_000)))
        for number in others:
            attempts.put(tx, NEXT, number, attempt())
            attempts.put(tx, BEFORE, number, attempt())

    if not staged:
        home.run(write)

    def find(tx: Any) -> tuple[list[bytes], int]:
        if staged:
            write(tx)
        return attempts.keys_and_bytes(tx, ID)

    keys, size = home.run(find)
    assert keys == [attempts.attempt_key(ID, number) for number in sorted(kept)]
    assert size == sum(len(home.rows["attempts"][key]) for key in keys)

    def delete(tx: Any) -> tuple[list[bytes], int]:
        for key in keys:
            attempts.delete(tx, key)
        return attempts.keys_and_bytes(tx, ID)

    assert home.run(delete) == ([], 0)
    assert len(home.rows["attempts"]) == 2 * len(others)
