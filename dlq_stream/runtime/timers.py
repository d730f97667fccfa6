"""Timers of a partition: run when something is due, sleep until the next is.

A timer's tick is a turn like an agent's batch, so what it emits and what it writes are atomic.  It sleeps until the
earliest instant that its index holds, a second at most (to notice clock steps), and is woken when an earlier one is
committed.  Ticks keep a small distance, so that what falls due at about the same time shares a transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dlq_stream.core.transaction import INDEX_SUFFIX_BYTES, Transaction
from dlq_stream.runtime.outcomes import Fatal, NotOurs
from dlq_stream.runtime.partition import Partition
from dlq_stream.runtime.ports import Destinations
from dlq_stream.runtime.transaction import StagedTransaction

SLEEP_SECONDS_MAX = 1.0
"""Longest sleep of a timer; bounds how long a clock step goes unnoticed."""

TICK_SECONDS_MIN = 0.03
"""From the beginning of a tick to that of the next, unless the former left something over: so late may a retry be for
the sake of those that fall due next.  After a pause the first is emitted at once.

A transaction costs the same whatever is in it (see `dlq_stream.runtime.feed`).  Without the distance, partitions with
something due all the time would take one after the other, as many as brokers stand: the more partitions, the later.
"""


class Tick(Protocol):
    """What a tick says of the next one."""

    @property
    def next_due_ms(self) -> int | None:
        """When the next entry is due; None where there is none."""
        ...

    @property
    def more(self) -> bool:
        """Whether there is more to do at once."""
        ...

    @property
    def unknown(self) -> frozenset[str]:
        """Topics that must be looked up before the rows that wait for them can go on."""
        ...


@dataclass(frozen=True, slots=True)
class NextLook:
    """The `Tick` of a stage that only knows when to look again; an instant that has come means at once."""

    next_due_ms: int | None
    now_ms: int
    unknown: frozenset[str] = frozenset()

    @property
    def more(self) -> bool:
        """Whether the instant has come."""
        return self.next_due_ms is not None and self.next_due_ms <= self.now_ms


@dataclass(frozen=True, slots=True)
class TimerSpec:
    """A timer that every owned partition runs: the index it follows and what one tick stages.

    An index entry is due ``delay_ms`` after its own instant.  ``urgent`` ticks go before intake when both wait, those
    ``with_input`` take along what little of it waits.
    """

    name: str
    index: str
    stage: Callable[[Transaction], Tick]
    urgent: bool = False
    with_input: bool = False
    delay_ms: int = 0


class PartitionTimer:
    """One timer of one partition."""

    def __init__(self, spec: TimerSpec, partition: Partition, destinations: Destinations, fatal: Fatal) -> None:
        self._spec = spec
        self._partition = partition
        self._destinations = destinations
        self._fatal = fatal
        self._earlier = asyncio.Event()
        self._sleeps_until_ms: int | None = None
        self._lowest_ms: int | None = None  # the earliest instant committed since the latest look began

    def committed(self, tx: StagedTransaction) -> None:
        """An earlier entry than the one slept for wakes the timer (see `Watcher`).

        Where the timer does not sleep at the moment, it will not sleep beyond that entry.
        """
        lowest = tx.lowest_added(self._spec.index)
        if lowest is None:
            return
        at_ms = int.from_bytes(lowest[-INDEX_SUFFIX_BYTES:-16], "big") + self._spec.delay_ms
        self._lowest_ms = _earliest(self._lowest_ms, at_ms)
        if self._sleeps_until_ms is None or at_ms < self._sleeps_until_ms:
            self._earlier.set()

    async def run(self) -> None:
        """Tick until the partition is not ours any more."""
        loop = asyncio.get_running_loop()
        try:
            while not self._partition.closed:
                self._lowest_ms = None
                began = loop.time()
                tick = await self._partition.run(
                    self._spec.stage, urgent=self._spec.urgent, with_input=self._spec.with_input
                )
                if isinstance(tick, NotOurs):
                    return
                if tick.unknown:
                    await self._destinations.look_up(tick.unknown)
                if not tick.more:
                    await asyncio.sleep(began + TICK_SECONDS_MIN - loop.time())
                    await self._sleep_until(_earliest(tick.next_due_ms, self._lowest_ms))
        except Exception as error:
            self._fatal(f"timer {self._spec.name} of partition {self._partition.number}", error)

    async def _sleep_until(self, due_ms: int | None) -> None:
        self._earlier.clear()
        self._sleeps_until_ms = due_ms
        seconds = SLEEP_SECONDS_MAX
        if due_ms is not None:
            seconds = min(seconds, max(0.0, (due_ms - self._partition.now_ms()) / 1000))
        try:
            async with asyncio.timeout(seconds):
                await self._earlier.wait()
        except TimeoutError:
            pass


def _earliest(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
