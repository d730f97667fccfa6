"""The workers' consumer group: generations, eager rebalances, session time-outs, static members."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from tests.simulation.life import Life, Surroundings

SESSION_SECONDS = 10.0
HEARTBEAT_SECONDS = 1.0


class Share(NamedTuple):
    """What a member has: partitions to work on, and others to keep copies of."""

    partitions: tuple[int, ...] = ()
    copies: tuple[int, ...] = ()


NOTHING = Share()


@dataclass
class _Member:
    life: Life
    share: Share = NOTHING
    joining: asyncio.Future[tuple[int, Share]] | None = None


@dataclass
class Group:
    """The coordinator.  With ``static`` a restarted worker takes its old place without a rebalance.

    Of each partition ``standby_replicas`` members keep a copy that do not own it, where there are so many; who gets a
    partition next is chance, so that some find a copy of it on their disk, and some find nothing or an old state.
    """

    world: Surroundings
    random: Random
    partitions: int
    static: bool
    standby_replicas: int = 0
    generation: int = 0
    _members: dict[str, _Member] = field(default_factory=dict)
    _preparing: bool = False

    def _id(self, life: Life) -> str:
        return life.name.partition(".")[0] if self.static else life.name

    async def join(self, life: Life) -> tuple[int, Share]:
        """Join, or join again; returns the generation and what is assigned."""
        life.rebalance.clear()
        life.expelled = False
        known = self._members.get(self._id(life))
        if known is not None and known.life is not life and not self._preparing:
            known.life = life
            self._watch(life)
            return self.generation, known.share
        future: asyncio.Future[tuple[int, Share]] = asyncio.get_running_loop().create_future()
        member = _Member(life, known.share if known else NOTHING, future)
        self._members[self._id(life)] = member
        if known is None or known.life is not life:
            self._watch(life)
        self._prepare()
        self._complete_if_all_joined()
        return await future

    def leave(self, life: Life) -> None:
        """A clean stop; a static member keeps its place until its session ends."""
        if not self.static and self._members.pop(self._id(life), None) is not None:
            self._prepare()
            self._complete_if_all_joined()

    def counts(self, life: Life) -> bool:
        """Whether the process is a member of the present generation; what a heartbeat tells it."""
        member = self._members.get(self._id(life))
        return member is not None and member.life is life

    def rebalance(self) -> None:
        """Partitions are dealt anew, though nobody came or went."""
        self._prepare()

    def _watch(self, life: Life) -> None:
        """Expire the member once its process was silent for a session."""
        loop = asyncio.get_running_loop()

        def look(silent_since: float | None = None) -> None:
            member = self._members.get(self._id(life))
            if member is None or member.life is not life:
                return
            silent = life.dead or life.frozen_since is not None or life.ended.is_set()
            if not silent:
                loop.call_later(HEARTBEAT_SECONDS, look)
            elif silent_since is None or loop.time() - silent_since < SESSION_SECONDS:
                loop.call_later(HEARTBEAT_SECONDS, look, loop.time() if silent_since is None else silent_since)
            else:
                self.world.note("group", f"expels {life.name}")
                life.expelled = True
                del self._members[self._id(life)]
                self._tell_when_awake(life)
                self._prepare()
                self._complete_if_all_joined()

        loop.call_later(HEARTBEAT_SECONDS, look)

    def _tell_when_awake(self, life: Life) -> None:
        """A zombie goes on with its old generation until its next heartbeat is refused."""
        awake = life.frozen_since is None
        after = self.random.uniform(0.0, 2 * HEARTBEAT_SECONDS)
        loop = asyncio.get_running_loop()
        loop.call_later(after, life.rebalance.set if awake else lambda: self._tell_when_awake(life))

    def _prepare(self) -> None:
        if self._preparing or not self._members:
            return
        self._preparing = True
        loop = asyncio.get_running_loop()
        for member in self._members.values():
            if member.joining is None:
                self._tell_when_awake(member.life)
        loop.call_later(SESSION_SECONDS, self._deadline, self.generation)

    def _deadline(self, generation: int) -> None:
        """Whoever has not joined in time is out."""
        if self._preparing and self.generation == generation:
            for member in self._members.values():
                member.life.expelled = member.joining is None
            self._members = {id_: member for id_, member in self._members.items() if member.joining is not None}
            self._complete()

    def _complete_if_all_joined(self) -> None:
        if self._preparing and all(member.joining is not None for member in self._members.values()):
            self._complete()

    def _complete(self) -> None:
        self._preparing = False
        self.generation += 1
        members = list(self._members.values())
        self.random.shuffle(members)
        shares: list[list[int]] = [[] for _ in members]
        for number in range(self.partitions):
            if shares:
                shares[number % len(shares)].append(number)
        copies = self._copies(shares)
        for member, share, kept in zip(members, shares, copies, strict=True):
            member.share = Share(tuple(share), tuple(kept))
            future, member.joining = member.joining, None
            assert future is not None
            if not future.done():
                future.set_result((self.generation, member.share))
        self.world.note("group", f"generation {self.generation}: {[(m.life.name, *m.share) for m in members]}")

    def _copies(self, shares: Sequence[Sequence[int]]) -> list[list[int]]:
        """Of which partitions each member keeps a copy."""
        copies: list[list[int]] = [[] for _ in shares]
        replicas = min(self.standby_replicas, len(shares) - 1)
        for number in range(self.partitions if replicas > 0 else 0):
            others = [kept for share, kept in zip(shares, copies, strict=True) if number not in share]
            for kept in self.random.sample(others, replicas):
                kept.append(number)
        return copies
