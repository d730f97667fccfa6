"""What is known of the topics that records may be sent to: a cache, filled outside the partitions' turns.

Staging reads it and never waits.  A topic asked for the first time is looked up in the background by an admin client
that cannot create topics by asking; what is known is refreshed while it is used.  ``{topic}-dlq`` is created when it is
missing and the brokers allow it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

from dlq_stream.core.transaction import Destination

log = logging.getLogger(__name__)

DESTINATIONS_MAX = 10_000
"""Topics remembered; beyond it the one not asked for longest is forgotten (and looked up again when it is)."""

FRESH_SECONDS = 30.0
"""Age beyond which a known destination is looked up again when it is asked for.  Also how long a refusal to write
counts, for finding out whether it still holds costs a transaction."""

UNUSABLE_SECONDS = 1.0
"""How long counts what a look-up found to be unusable.  After that nothing is known of it: whoever tries again after a
pause of his own gets an answer of now."""

LOOK_UP_SECONDS_MAX = 3.0
"""A look-up that takes longer is given up; what was known stays."""

PAUSE_SECONDS = 0.2
"""Pause after a look-up that failed."""

LOOK_UPS_AT_ONCE_MAX = 200
"""Topics asked for in one request."""


class TopicSource(Protocol):
    """Asks the brokers about topics."""

    async def describe(self, topics: Collection[str]) -> Mapping[str, Destination]:
        """What the brokers say of each topic, missing ones included; creates missing ``-dlq`` topics."""
        ...


class _Entry(NamedTuple):
    """What was found out, when, and how long it counts as it stands."""

    destination: Destination
    at: float
    fresh_seconds: float


class DestinationCache:
    """`dlq_stream.runtime.ports.Destinations` for a worker."""

    def __init__(self, source: TopicSource, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._monotonic = monotonic
        self._known: OrderedDict[str, _Entry] = OrderedDict()
        self._wanted: set[str] = set()
        self._looking_up = asyncio.Lock()
        self._failed_at = -math.inf
        self._asked = asyncio.Event()

    def known(self, topic: str) -> Destination | None:
        """See `Destinations.known`."""
        entry = self._known.get(topic)
        if entry is None:
            self._want(topic)
            return None
        self._known.move_to_end(topic)
        if self._monotonic() - entry.at > entry.fresh_seconds:
            self._want(topic)
            if entry.destination.refusal is not None:
                return None
        return entry.destination

    def _want(self, topic: str) -> None:
        if len(self._wanted) < DESTINATIONS_MAX:
            self._wanted.add(topic)
            self._asked.set()

    def refuse(self, topic: str, reason: str) -> None:
        """See `Destinations.refuse`."""
        entry = self._known.get(topic)
        self._remember(replace(entry.destination if entry else Destination(topic), refusal=reason), FRESH_SECONDS)

    def _remember(self, destination: Destination, fresh_seconds: float) -> None:
        self._known[destination.topic] = _Entry(destination, self._monotonic(), fresh_seconds)
        self._known.move_to_end(destination.topic)
        while len(self._known) > DESTINATIONS_MAX:
            self._known.popitem(last=False)

    async def look_up(self, topics: Collection[str]) -> None:
        """See `Destinations.look_up`; gives up quietly, since whoever waits asks again."""
        asked_at = self._monotonic()
        async with self._looking_up:
            if self._failed_at > asked_at:  # while we waited for our turn, which would fail as well
                return
            wanted = [topic for topic in sorted(topics) if not self._known_since(topic, asked_at)]
            wanted = wanted[:LOOK_UPS_AT_ONCE_MAX]
            if not wanted:
                return
            try:
                async with asyncio.timeout(LOOK_UP_SECONDS_MAX):
                    found = await self._source.describe(wanted)
            except Exception as error:  # whatever went wrong, what was known stays and the next asking tries again
                log.warning("looking up %d destinations failed: %r", len(wanted), error)
                await asyncio.sleep(PAUSE_SECONDS)
                self._failed_at = self._monotonic()
                return
            for destination in found.values():
                self._remember(destination, FRESH_SECONDS if destination.refusal is None else UNUSABLE_SECONDS)

    def _known_since(self, topic: str, instant: float) -> bool:
        """Whether somebody else's look-up has answered while this one waited for its turn."""
        entry = self._known.get(topic)
        return entry is not None and entry.at >= instant

    async def missing(self, topics: Collection[str]) -> bool:
        """Whether one of ``topics`` does not exist any more, asked afresh."""
        await self.look_up(topics)
        return any((known := self.known(topic)) is not None and known.refusal == "missing" for topic in topics)

    async def run(self) -> None:
        """Look up what was asked for, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            wanted = set(list(self._wanted)[:LOOK_UPS_AT_ONCE_MAX])
            await self.look_up(wanted)
            self._wanted -= wanted
            if self._wanted:
                self._asked.set()
