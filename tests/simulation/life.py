"""The life of a worker's process: where it can end, freeze, or hear nothing from the brokers.

Ending is `kill -9`: whatever the process was about to do is not done, its memory is gone, and requests on their way may
still arrive.  Code under test unwinds by `Died`, a BaseException, and every later call into the world raises it again,
so nothing that a dying process does on its way out has an effect.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from random import Random
from typing import Any, NoReturn, Protocol, TypeVar

from tests.simulation import broker
from tests.simulation.loop import VirtualLoop
from tests.simulation.outcome import Outcome

T = TypeVar("T")

ANSWER_SECONDS_MAX = 4.0
"""How long a request is waited for; below the transaction time-out, as in the real producer."""

_WHERE = ("before", "in flight", "after")
_REQUESTS = ("fence", "write", "commit", "read changelog", "read offsets", "describe", "heartbeat")
IN_WRITE = ("write: begun", "write: after an output", "write: after rows", "write: after the offsets")
POINTS: tuple[str, ...] = (
    *(f"{request}: {where}" for request in _REQUESTS for where in _WHERE),
    *IN_WRITE,
    "store: before",
    "store: after",
    "effects: among",
    "restore: between chunks",
    "follow: between chunks",
    "stop producer",
    "close store",
    "any time",
)
"""Where a worker can die: around every await of the protocol, between any two effects of a commit, at any other time.

The effects are: the transaction begun; each output, each batch of rows and the offsets written to it; the commit; the
store; what hears of it afterwards.
"""

RARE = (
    "restore: between chunks",
    "follow: between chunks",
    "heartbeat: before",
    "heartbeat: in flight",
    "heartbeat: after",
) * 2
"""Points that few processes come by; more of them are meant to die there."""

BROKER_ERRORS = (
    broker.ProducerFenced,
    broker.Concurrent,
    broker.ConnectionBroken,
    broker.NoSuchTopic,
    broker.BatchRefused,
    broker.TopicSilent,
)
_current: ContextVar[Life | None] = ContextVar("life", default=None)


class Died(BaseException):
    """The process is dead."""


class NoAnswer(Exception):
    """The brokers did not answer in time; the request may have been carried out or not, or will be yet."""


class Surroundings(Protocol):
    """What a life needs of the world."""

    loop: VirtualLoop
    outcome: Outcome
    losses: float
    slowness: float
    doom: bool
    away_until: float
    crashes: bool

    def note(self, who: str, text: str) -> None: ...

    def violated(self, text: str) -> None: ...


def track_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Have every task remembered by the life that made it."""

    def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        life = _current.get()
        if life is not None:
            life.remember(task)
        return task

    loop.set_task_factory(make)


class Life:
    """One process of a worker.  Many are doomed from the start to die at one of `POINTS`, at a certain pass."""

    def __init__(self, name: str, world: Surroundings, random: Random) -> None:
        self.name = name
        self.world = world
        self.random = random
        self.dead = False
        self.frozen_since: float | None = None
        self.expelled = False
        self.rebalance = asyncio.Event()
        self.ended = asyncio.Event()
        self._thawed = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []
        self._freezes = random.random() < 0.25
        self._doom = random.choice(POINTS + RARE) if world.doom and random.random() < 0.5 else ""
        if self._freezes and random.random() < 0.5:
            self._doom = "write: in flight"  # the makings of a zombie: it will not know what became of that
        often = self._doom.startswith(("write", "commit", "store", "effects", "follow"))
        self._passes = random.choice((1, 2, 3, 5, 8, 20) if often else (1, 1, 2))

    # --- tasks --------------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task of this process."""
        token = _current.set(self)
        try:
            return self.world.loop.create_task(work)
        finally:
            _current.reset(token)

    def remember(self, task: asyncio.Task[Any]) -> None:
        self._tasks.append(task)
        if len(self._tasks) > 200:
            self._tasks = [task for task in self._tasks if not task.done()]

    # --- death --------------------------------------------------------------------------------------------------

    def die(self, why: str) -> NoReturn:
        """The process ends here, in the middle of its own code."""
        self.kill(why)
        raise Died(why)

    def kill(self, why: str) -> None:
        """The process is ended from outside."""
        if self.dead:
            return
        self.dead = True
        self.world.note(self.name, f"dies: {why}")
        self.ended.set()
        for task in self._tasks:
            task.cancel()

    def check(self) -> None:
        """Nothing has an effect any more after death."""
        if self.dead:
            raise Died("dead already")

    def point(self, name: str) -> None:
        """A place where the process may die."""
        self.check()
        if self._doomed_at(name):
            self.world.outcome.points[name] += 1
            self.die(name)

    def _doomed_at(self, name: str) -> bool:
        """Whether the process dies here; some freeze instead."""
        if name != self._doom or not self.world.crashes:
            return False
        self._passes -= 1
        if self._passes:
            return False
        if self._freezes:
            self.world.outcome.figures[f"frozen at {name}"] += 1
            self.freeze()
        return not self._freezes

    # --- freezing -----------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """SIGSTOP, for less or more than a session: nothing gets out or in, and time goes on elsewhere."""
        if self.frozen_since is None:
            seconds = self.random.choice((1.0, 6.0, 14.0, 25.0))
            self.frozen_since = self.world.loop.time()
            self.world.note(self.name, f"freezes for {seconds} s")
            self.world.loop.call_later(seconds, self.thaw)

    def thaw(self) -> None:
        """SIGCONT."""
        if self.frozen_since is not None:
            self.frozen_since = None
            if not self.dead:
                self.world.note(self.name, "wakes up")
                self.world.outcome.figures["zombies woken"] += self.expelled
            self._thawed.set()
            self._thawed = asyncio.Event()

    async def awake(self) -> None:
        """Go on only while the process is not frozen."""
        while self.frozen_since is not None:
            await self._thawed.wait()
        self.check()

    # --- requests -----------------------------------------------------------------------------------------------

    async def request(self, name: str, apply: Callable[[], T]) -> T:
        """Ask the brokers; ``apply`` is what they do at one instant.

        Raises `NoAnswer` where the request is lost or too late, the answer is lost, or this process froze for too long.
        """
        loop, random = self.world.loop, self.random
        await self.awake()
        self.point(f"{name}: before")
        began = loop.time()
        lost = began < self.world.away_until or random.random() < self.world.losses
        await asyncio.sleep(self._latency())
        self.check()
        if self._doomed_at(f"{name}: in flight"):
            self._die_in_flight(name, apply)
        if lost:
            await self._lose(name, apply)
        result = apply()
        await asyncio.sleep(self._latency())
        await self.awake()
        if loop.time() - began > ANSWER_SECONDS_MAX:
            raise NoAnswer(f"{name}: took too long")
        self.point(f"{name}: after")
        return result

    def _latency(self) -> float:
        random, chance = self.random, self.random.random()
        if chance < self.world.slowness:
            return random.uniform(0.8, 3.5)
        return random.uniform(0.05, 0.8) if chance < 0.01 else random.uniform(0.0003, 0.003)

    async def _lose(self, name: str, apply: Callable[[], Any]) -> NoReturn:
        """The request is lost, or its answer, or it comes through when nobody waits for it any more."""
        chance, late = self.random.random(), self.random.uniform(0.0, 2 * ANSWER_SECONDS_MAX)
        if chance < 0.4:
            _quietly(apply)
        elif chance < 0.7:
            self.world.loop.call_later(late, _quietly, apply)
        await asyncio.sleep(ANSWER_SECONDS_MAX)
        await self.awake()
        raise NoAnswer(f"{name}: {'answer' if chance < 0.4 else 'request'} lost")

    def _die_in_flight(self, name: str, apply: Callable[[], Any]) -> NoReturn:
        """The request arrives after the death of its sender, maybe long after, or never."""
        if self.random.random() < 0.7:
            self.world.loop.call_later(self.random.uniform(0.0, 3.0), _quietly, apply)
        self.world.outcome.points[f"{name}: in flight"] += 1
        self.die(f"{name}: in flight")


def _quietly(apply: Callable[[], Any]) -> None:
    """Nobody is there to hear that the brokers refused."""
    with contextlib.suppress(*BROKER_ERRORS):
        apply()
