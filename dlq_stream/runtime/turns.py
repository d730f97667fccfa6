"""Who goes first: what is due before what comes in, and of the large batches of a worker one after the other."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType


class Turns:
    """Mutual exclusion between coroutines of one event loop; first come, first served within each urgency."""

    def __init__(self) -> None:
        self._taken = False
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._patient: deque[asyncio.Future[None]] = deque()

    @property
    def taken(self) -> bool:
        """Whether somebody has the turn."""
        return self._taken

    def turn(self, *, urgent: bool = False) -> Turn:
        """An async context manager that holds the lock."""
        return Turn(self, urgent)

    async def acquire(self, urgent: bool) -> None:
        """Wait for the turn."""
        if not self._taken:
            self._taken = True
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._urgent if urgent else self._patient).append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release()  # the turn was handed over in the same loop pass: pass it on
            raise

    def release(self) -> None:
        """Hand the turn to the next waiter; the lock is never free in between."""
        for queue in (self._urgent, self._patient):
            while queue:
                waiter = queue.popleft()
                if not waiter.done():
                    waiter.set_result(None)
                    return
        self._taken = False


class Turn:
    """One turn; see `Turns.turn`."""

    __slots__ = ("_turns", "_urgent")

    def __init__(self, turns: Turns, urgent: bool) -> None:
        self._turns = turns
        self._urgent = urgent

    async def __aenter__(self) -> None:
        await self._turns.acquire(self._urgent)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._turns.release()


class Place:
    """The place of one batch among those of a worker that are staged one after the other.

    It is waited for before the batch takes its partition's turn, so that ticks go on meanwhile; and given up where the
    turn is another's, which may have it for as long as brokers are away.  At the end of the context it is left anyway.
    """

    def __init__(self, queue: asyncio.Lock) -> None:
        self._queue = queue
        self._taken = False

    async def take(self) -> None:
        """Wait for it, unless it is taken already."""
        if not self._taken:
            await self._queue.acquire()
            self._taken = True

    def leave(self) -> None:
        """Let the next one stage."""
        if self._taken:
            self._taken = False
            self._queue.release()

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.leave()
