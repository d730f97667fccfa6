"""Warm copies of partitions that other workers own, so that a take-over has little left to restore.

A standby is what an owner's local state is: the same directory, built from the changelogs by the same code, index
entries included, values and offsets in one write.  It reads ``read_committed``, so it never holds what may still be
aborted, and knows nothing of the group's offsets.  When its partition becomes this worker's own, it is closed before
the owner opens the directory, and only the tail is read.

Faust's assignor says who keeps which copy (``table_standby_replicas``); its own standbys are not used: they write
values and offsets apart, swallow what goes wrong, and never count as ready behind a commit marker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import NoReturn, Protocol

from dlq_stream.core.errors import DLQError
from dlq_stream.runtime.crash import Refuse
from dlq_stream.runtime.outcomes import Fatal
from dlq_stream.runtime.ports import Store, Unavailable

log = logging.getLogger(__name__)

BACKOFF_SECONDS_FIRST = 0.1
BACKOFF_SECONDS_MAX = 5.0
"""Pauses between tries while brokers do not answer: doubling from the first to the last."""


class Followed(Protocol):
    """The changelogs of one partition, which somebody else writes."""

    async def follow(self, caught_up: Callable[[int], None]) -> NoReturn:
        """Apply to the store what is committed, as it comes, until cancelled.

        Calls ``caught_up`` once the end was reached, with the number of rows that this took.  Raises `Unavailable`.
        """
        ...


class Standby:
    """The copy of one partition, from `start` to `close`."""

    def __init__(self, number: int, *, store: Store, changelog: Followed, refuse: Refuse, fatal: Fatal) -> None:
        self.number = number
        self._store = store
        self._changelog = changelog
        self._refuse = refuse
        self._fatal = fatal
        self._pause = BACKOFF_SECONDS_FIRST
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self, caught_up: Callable[[int, int], None]) -> None:
        """Follow the changelogs from now on; ``caught_up`` gets the partition and how many rows that took."""

        def reached(rows: int) -> None:
            self._pause = BACKOFF_SECONDS_FIRST
            caught_up(self.number, rows)

        self._task = asyncio.create_task(self._run(reached), name=f"standby-{self.number}")

    async def close(self) -> None:
        """Stop and release the store."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)  # what it raised has ended the process already
        self._store.close()

    async def _run(self, reached: Callable[[int], None]) -> None:
        while True:
            try:
                await self._changelog.follow(reached)
            except Unavailable as error:
                log.warning("standby of partition %d: %s, next try in %.1f s", self.number, error, self._pause)
            except DLQError as error:
                self._refuse(error)
            except asyncio.CancelledError as error:
                if self._closing:
                    raise
                self._fatal(f"standby of partition {self.number}", error)
            except Exception as error:
                self._fatal(f"standby of partition {self.number}", error)
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, BACKOFF_SECONDS_MAX)


class Standbys:
    """All copies that this worker keeps under one assignment."""

    def __init__(self, new_standby: Callable[[int], Standby] | None) -> None:
        self._new_standby = new_standby
        self._standbys: dict[int, Standby] = {}
        self._behind: set[int] = set()
        self._rows = 0

    def start(self, numbers: Collection[int], ready: Callable[[], None]) -> None:
        """Begin to follow these partitions; ``ready`` is called once all of them were caught up with."""
        self._behind, self._rows = set(numbers), 0
        if not numbers:
            ready()
            return
        if self._new_standby is None:
            raise RuntimeError(f"copies of partitions {sorted(numbers)} were asked for, and nothing makes them")

        def caught_up(number: int, rows: int) -> None:
            if number not in self._behind:  # again, after a pause of the brokers
                return
            self._behind.discard(number)
            self._rows += rows
            if not self._behind:
                log.info("standbys caught up: partitions %s, %d rows restored", sorted(numbers), self._rows)
                ready()

        for number in sorted(numbers):
            self._standbys[number] = self._new_standby(number)
            self._standbys[number].start(caught_up)

    def take(self) -> list[Standby]:
        """All of them, for whoever closes them; none is kept any more."""
        standbys, self._standbys = list(self._standbys.values()), {}
        self._behind = set()
        return standbys
