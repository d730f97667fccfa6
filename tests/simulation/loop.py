"""An event loop in virtual time: nothing sleeps, the clock jumps to the next timer.

A run of many virtual minutes takes milliseconds, and the same seed gives the same run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stuck(Exception):
    """Nobody waits for anything that could still happen."""


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop without sockets whose ``time()`` moves only when everybody waits."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self  # all that the base class asks of it is `select`

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Stuck("every task waits, and no timer is set")
        self._now += timeout
        return []

    def _process_events(self, events: list[Any]) -> None:
        return None

    def _write_to_self(self) -> None:
        return None


def run(main: Coroutine[Any, Any, T], loop: VirtualLoop | None = None) -> T:
    """Run a coroutine in virtual time; tasks that are left over are cancelled."""
    with asyncio.Runner(loop_factory=lambda: loop or VirtualLoop()) as runner:
        return runner.run(main)
