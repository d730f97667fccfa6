"""Having a partition: fencing whoever had it, knowing everything that was committed, and noticing when it is lost.

Fencing ends what the former owner left open, and nobody else writes to the changelogs from then on.  So what they hold
is final, with one exception that has to be made good: *a decided transaction that the brokers have not ended*.

A transaction is decided in the coordinator's log, and then ended by a marker in each partition that it wrote to.  A
broker that was killed in between and starts again loads its coordinator while it is still fenced itself; its partitions
have no leader then, the coordinator takes them for deleted, and notes the transaction as complete: with markers where
they were written before the kill, without any elsewhere (Apache Kafka 4.3.1: "Couldn't find leader endpoint for
partitions ...").  Partitions that have replicas on other brokers are not concerned; with a single broker all are.

Where there is no marker, what was decided is neither visible nor gone: the next marker of the same producer ends it
along with its own transaction.  If we did the work again first, both would become visible; if only the group's offsets
have none, input is read twice.  So the latest transaction is ended once more, as it was decided, right after fencing:
where it was ended already, that is one marker more.  A producer whose coordinator went away, and who cannot know what
that has forgotten, asks for the same before anything else is written (`Producer.in_doubt`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dlq_stream.runtime.ports import Changelog, Fenced, Latest, Producer, Unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

BACKOFF_SECONDS_FIRST = 0.05
BACKOFF_SECONDS_MAX = 2.0
"""Pauses between tries while brokers do not answer: doubling from the first to the last."""


class Tenure:
    """One ownership of a partition.

    ``still_ours`` asks for the group's current generation.  A process that was frozen does not know what became of it
    meanwhile; ``confirm`` asks the brokers first.
    """

    def __init__(
        self,
        number: int,
        *,
        producer: Producer,
        changelog: Changelog,
        still_ours: Callable[[], bool],
        confirm: Callable[[], Awaitable[None]],
    ) -> None:
        self.closed = False
        self._number = number
        self._producer = producer
        self._changelog = changelog
        self._still_ours = still_ours
        self._confirm = confirm

    async def begin(self) -> int:
        """Fence former owners, then catch up with the changelog; returns how many rows that took."""
        await self._fence()
        return await self.patiently(self._changelog.catch_up)

    async def renew(self) -> bool:
        """Void the open transaction by fencing ourselves; False when the partition is not ours any more.

        Between our last commit and now another worker may have owned the partition (this process may have been frozen).
        Fencing it out again would be wrong unless nothing happened: so we ask whether we are still a member; and should
        the answer be out of date, what the changelog holds beyond our own last write decides, for after the fencing
        nobody can add to it.
        """
        if self.lost():
            return False
        await self._fence(again=True)
        if self.lost():
            return False
        rows = await self.patiently(self._changelog.catch_up)
        if rows:
            raise Fenced(f"{rows} rows in the changelog are not ours")
        return not self.lost()

    async def _fence(self, *, again: bool = False) -> None:
        """Fence, and end the latest transaction; nothing comes in between, since fencing makes brokers forget it."""

        async def fence() -> None:
            latest = await self._changelog.latest()
            if again and await self.lost_for_sure():
                raise Fenced("given to another worker")
            await self._producer.start()
            await self._settle(latest)

        await self.patiently(fence)

    async def _settle(self, latest: Latest) -> None:
        """End the latest transaction, and make sure that no request to end it can arrive when the next one is open."""
        tries = 0

        async def settle() -> None:
            nonlocal tries
            tries += 1
            await self._producer.settle(latest)

        try:
            await self.patiently(settle)
        except Fenced as error:  # by the coordinator, should brokers have been away for longer than a transaction
            if await self.lost_for_sure():
                raise
            raise Unavailable(str(error)) from error
        if tries > 1:
            raise Unavailable("what was not answered may arrive late, and has to be fenced")

    def lost(self) -> bool:
        """Whether the partition is not ours any more; then no turn can be taken, for a transaction may be open."""
        self.closed = self.closed or not self._still_ours()
        return self.closed

    async def lost_for_sure(self) -> bool:
        """The same, after asking the brokers."""
        await self._confirm()
        return self.lost()

    async def rest(self, seconds: float) -> None:
        """A pause, which a closed partition does not make."""
        if not self.closed:
            await asyncio.sleep(seconds)

    async def patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do it, again after growing pauses while the brokers do not answer; a closed partition stops trying."""
        pause = BACKOFF_SECONDS_FIRST
        while True:
            try:
                return await step()
            except Unavailable as error:
                log.warning("partition %d: brokers do not answer (%s), next try in %.2f s", self._number, error, pause)
                await self.rest(pause)
                if self.closed:  # trying again might fence the next owner
                    raise Fenced("closed while the brokers were away") from error
                pause = min(pause * 2, BACKOFF_SECONDS_MAX)
