"""A pace: never faster than asked, and no burst after a stall."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.view.pace import CATCH_UP_SECONDS_MAX, Pace


@given(st.floats(0.1, 5_000), st.lists(st.floats(0, 3), min_size=1, max_size=40))
def test_no_window_holds_more_than_the_rate(rate: float, work_seconds: list[float]) -> None:
    """Whatever is done between turns takes some time; the clock is the test's."""
    now = 100.0
    turns: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        assert seconds > 0
        now += seconds

    async def work() -> None:
        nonlocal now
        pace = Pace(rate, lambda: now, sleep)
        for seconds in work_seconds:
            await pace.turn()
            turns.append(now)
            now += seconds

    asyncio.run(work())
    for first, start in enumerate(turns):
        for last, end in enumerate(turns[first:], first):
            assert last - first <= rate * (end - start + CATCH_UP_SECONDS_MAX) + 1e-6 * rate + 1e-6


def test_it_is_as_fast_as_asked() -> None:
    """Where nothing else takes time, turns come evenly; without a rate at once."""
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    async def work(rate: float | None) -> None:
        pace = Pace(rate, lambda: now, sleep)
        for _ in range(101):
            await pace.turn()

    asyncio.run(work(None))
    assert now == 0
    asyncio.run(work(10))
    assert abs(now - 10) < 1e-6
