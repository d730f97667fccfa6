"""A pace: so many turns a second at most, evenly spread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

CATCH_UP_SECONDS_MAX = 0.05
"""Whoever comes late catches up on no more than this: after a stall there is no burst."""


class Pace:
    """Hands out turns ``rate`` per second at most (None: at once, all of them), by a monotonic clock.

    Within any ``t`` seconds there are at most ``rate * (t + CATCH_UP_SECONDS_MAX) + 1`` turns.
    """

    def __init__(
        self, rate: float | None, clock: Callable[[], float], sleep: Callable[[float], Awaitable[object]]
    ) -> None:
        self._interval = None if rate is None else 1 / rate
        self._clock = clock
        self._sleep = sleep
        self._next = clock()

    async def turn(self) -> None:
        """Return when it is one's turn."""
        if self._interval is None:
            return
        while (now := self._clock()) < self._next:
            await self._sleep(self._next - now)
        self._next = max(self._next, now - CATCH_UP_SECONDS_MAX) + self._interval
