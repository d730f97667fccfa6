"""An event loop in virtual time: nothing sleeps, the clock jumps to the next timer.

A run of many virtual minutes takes a fraction of a second, and the same seed gives the same run: timers of the same
instant fire in the order in which they were set, everything else runs in the order in which it was scheduled.  The
base class would ask a selector between any two steps and keep its timers in a heap of Python objects, which costs a
third of a run; here a step is a step and the heap holds tuples.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from contextvars import Context
from heapq import heappop, heappush
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Stuck(Exception):
    """Nobody waits for anything that could still happen."""


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop without sockets whose ``time()`` moves only when everybody waits."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self._now

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It stays in the heap until its time comes, and is passed over then."""

    def _run_once(self) -> None:
        """What the base class calls again and again: run what is ready, or else go to the next instant."""
        ready: Any = self._ready  # type: ignore[attr-defined]
        if not ready:
            self._jump(ready.append)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _jump(self, run: Callable[[asyncio.Handle], object]) -> None:
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heappop(timers)
        if not timers:
            raise Stuck("every task waits, and no timer is set")
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            run(heappop(timers)[2])


def run(main: Coroutine[Any, Any, T], loop: VirtualLoop | None = None) -> T:
    """Run a coroutine in virtual time; tasks that are left over are cancelled."""
    with asyncio.Runner(loop_factory=lambda: loop or VirtualLoop()) as runner:
        return runner.run(main)
