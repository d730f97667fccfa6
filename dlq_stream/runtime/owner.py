"""The partitions this worker has, from assignment to revocation, their timers, and its standbys of others.

Opening is serial: a rebalance may begin while the former one is still restoring, and what that one opened has to be
released first.  It also cancels the former one, at any await; a release goes on nevertheless, and whoever opens next
waits for it.  Closing interrupts a restore, which may take longer than the group or a supervisor has patience; the next
one goes on where it ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from dlq_stream.runtime.feed import Apply, BatchLimits, Feed, Held, Seek, StepSize
from dlq_stream.runtime.outcomes import Fatal
from dlq_stream.runtime.partition import Partition
from dlq_stream.runtime.ports import Destinations, Fenced, Run
from dlq_stream.runtime.standby import Standby, Standbys
from dlq_stream.runtime.timers import PartitionTimer, TimerSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Poll:
    """One item of an agent's stream: what one fetch brought of one topic, by partition."""

    topic: str
    runs: Mapping[int, Run]


class Interrupted(Exception):
    """Partitions were closed before they were open."""


class Owner:
    """Opens, feeds and closes partitions.

    ``new_partition(number, generation)`` makes one, ``seek(topic, partition, position)`` makes the consumer read on
    from elsewhere, ``new_standby(number)`` makes a copy of a partition that another worker owns.
    """

    def __init__(
        self,
        *,
        new_partition: Callable[[int, int], Partition],
        seek: Seek,
        destinations: Destinations,
        limits: BatchLimits,
        fatal: Fatal,
        new_standby: Callable[[int], Standby] | None = None,
    ) -> None:
        self.partitions: dict[int, Partition] = {}
        self.timers: list[TimerSpec] = []
        self._new_partition = new_partition
        self._seek = seek
        self._destinations = destinations
        self.limits = limits
        self._fatal = fatal
        self._size = StepSize(limits.hold_ms_target)
        self._held = Held()
        self._opened: dict[int, Partition] = {}
        self._feeds: dict[tuple[str, int], Feed] = {}
        self._timer_tasks: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        self._releasing: asyncio.Future[None] | None = None
        self._opening: asyncio.Future[list[int]] | None = None
        self._closings = 0
        self._standbys = Standbys(new_standby)
        self._assigned = False

    @property
    def held_bytes(self) -> int:
        """Input that waits or is being processed."""
        return self._held.bytes

    # --- assignment ---------------------------------------------------------------------------------------------

    async def open(self, numbers: Collection[int], generation: int) -> None:
        """Release what was owned, then fence and restore these partitions; nothing is processed before `ready`.

        Raises `Interrupted` where `close` was called meanwhile.
        """
        async with self._changing:
            if self._closings:
                raise Interrupted(f"partitions {sorted(numbers)} were closed before they were opened")
            await self._close()
            began = time.monotonic()
            try:
                for number in sorted(numbers):
                    self._opened[number] = self._new_partition(number, generation)
                self._opening = asyncio.gather(*(partition.open() for partition in self._opened.values()))
                rows = await self._opening
            except BaseException as error:  # another rebalance cancels us, or something is wrong: let go of everything
                await self._close()
                if isinstance(error, Fenced) or (isinstance(error, asyncio.CancelledError) and not _is_cancelled()):
                    raise Interrupted(f"partitions {sorted(numbers)} were closed while they were opened") from error
                raise
            finally:
                self._opening = None
            self._assigned = True
            log.info(
                "opened partitions %s in %.2f s, %d rows restored", sorted(numbers), time.monotonic() - began, sum(rows)
            )

    def ready(self, positions: Mapping[tuple[str, int], int]) -> None:
        """The consumer was seeked to these committed positions by (topic, partition): start."""
        self.partitions, self._opened = self._opened, {}
        for (topic, number), position in positions.items():
            if number in self.partitions:
                self.partitions[number].expected[topic] = position
        for partition in self.partitions.values():
            for spec in self.timers:
                timer = PartitionTimer(spec, partition, self._destinations, self._fatal)
                partition.watchers.append(timer)
                task = asyncio.create_task(timer.run(), name=f"{spec.name}-{partition.number}")
                self._timer_tasks.add(task)
                task.add_done_callback(self._timer_tasks.discard)

    def follow(self, numbers: Collection[int], caught_up: Callable[[], None]) -> None:
        """Keep copies of these partitions, which others own, until the next `open` or `close`.

        Does nothing after a `close`: whoever calls may not have noticed it yet.
        """
        if self._assigned:
            self._standbys.start(numbers, caught_up)

    async def close(self) -> None:
        """Finish running turns, interrupt a restore, and release every partition; at rebalances and at the end."""
        self._closings += 1
        try:
            if self._opening is not None:
                self._opening.cancel()
            async with self._changing:
                await self._close()
        finally:
            self._closings -= 1

    async def _close(self) -> None:
        """Release everything; cancelling the caller does not cancel that."""
        released: list[Partition | Standby] = [
            *self.partitions.values(),
            *self._opened.values(),
            *self._standbys.take(),
        ]
        self.partitions, self._opened = {}, {}
        self._assigned = False
        self._feeds.clear()  # what waits in them finds its partition closed
        self._releasing = asyncio.ensure_future(self._release(self._releasing, released, list(self._timer_tasks)))
        await asyncio.shield(self._releasing)

    @staticmethod
    async def _release(
        former: asyncio.Future[None] | None, released: list[Partition | Standby], timers: list[asyncio.Task[None]]
    ) -> None:
        if former is not None:
            await former
        await asyncio.gather(*(each.close() for each in released))
        for task in timers:
            task.cancel()
        await asyncio.gather(*timers, return_exceptions=True)

    # --- input --------------------------------------------------------------------------------------------------

    async def consume(self, poll: Poll, apply: Apply) -> None:
        """Hand over one poll, its partitions side by side; whoever polls asks `full` before."""
        for number, run in poll.runs.items():
            partition = self.partitions.get(number)
            if partition is not None:
                self._feed(partition, poll.topic, apply).put(run)

    def full(self, topic: str, number: int) -> bool:
        """Whether so much of this input is held already that no more of it should be polled."""
        feed = self._feeds.get((topic, number))
        return feed is not None and feed.full

    async def room(self, seconds: float) -> None:
        """Wait until `full` may have changed, at most so long."""
        await self._held.wait(seconds)

    def _feed(self, partition: Partition, topic: str, apply: Apply) -> Feed:
        feed = self._feeds.get((topic, partition.number))
        if feed is None:
            feed = self._feeds[topic, partition.number] = Feed(
                partition,
                topic,
                apply,
                seek=self._seek,
                limits=self.limits,
                size=self._size,
                held=self._held,
                fatal=self._fatal,
            )
        return feed


def _is_cancelled() -> bool:
    """Whether somebody cancelled the running task itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
