"""Tells, once per topic, that consumer groups besides the one that failed see a topic's retries.

Whoever wrote "retries go to the source topic" may not know who else reads it.  `dlq-stream init --source` says so
before anything happens; but it is asked for, and groups come later.  So a worker looks for itself, at the topics that
it has emitted to: in the background, seldom, with one round of an admin client's requests.  Turns are not involved,
they only leave the topic's name here.

It is a courtesy: whatever goes wrong (rights, brokers) is said once and changes nothing.  Names that are logged are the
brokers': a topic that somebody made up in a failure event is read by no group.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

from aiokafka.errors import KafkaError

from dlq_stream.core.errors import DLQError
from dlq_stream.core.events import RetryEmitted
from dlq_stream.core.policy import Policies

log = logging.getLogger(__name__)

FIRST_SECONDS: Final = 5.0
"""From a topic's first retry to the look at it: those that begin together are looked at together."""

LOOK_SECONDS: Final = 600.0
"""At least so long from one look to the next, whatever is emitted; groups that came meanwhile are found then."""

LOOK_SECONDS_MAX: Final = 30.0
"""A look that takes longer is given up until the next."""

TOPICS_MAX: Final = 1_000
"""Topics that are remembered; whoever may send failures names them, and beyond it none is looked at."""

GROUPS_TOLD_MAX: Final = 10
"""Groups that a warning names; of the others it tells how many there are."""


class GroupSource(Protocol):
    """Asks the brokers who reads topics."""

    async def __call__(self, topics: Collection[str]) -> tuple[Mapping[str, list[str]], list[str]]:
        """By topic, the groups with committed offsets on it; and the groups that we may not look at.

        Raises what an admin client raises.
        """
        ...


class Bystanders:
    """Of one worker; `run` looks, `emitted` is told of each retry."""

    def __init__(
        self,
        groups_of: GroupSource,
        policies: Callable[[], Policies],
        *,
        first_seconds: float = FIRST_SECONDS,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._groups_of = groups_of
        self._policies = policies
        self._first_seconds = first_seconds
        self._look_seconds = look_seconds
        self._queues: dict[str, str] = {}
        """By topic, the queue of its first retry."""
        self._told: set[str] = set()
        self._new = asyncio.Event()
        self._complained: set[str] = set()

    def emitted(self, event: RetryEmitted) -> None:
        """Remember where a retry went; this is called for each of them, so it does next to nothing."""
        topic = event.destination
        if topic in self._queues:
            return
        if len(self._queues) < TOPICS_MAX:
            self._queues[topic] = event.queue
            self._new.set()

    async def run(self) -> None:
        """Look, until cancelled: soon after a topic's first retry, and now and then."""
        while True:
            await self._new.wait()
            await asyncio.sleep(self._first_seconds)
            self._new.clear()
            await self.look()
            await asyncio.sleep(self._look_seconds)
            if self._waiting():
                self._new.set()

    async def look(self) -> None:
        """Warn of every topic that more than one group reads, and that has not been told of."""
        topics = self._waiting()
        if not topics:
            return
        try:
            async with asyncio.timeout(LOOK_SECONDS_MAX):
                groups, hidden = await self._groups_of(topics)
        except (KafkaError, DLQError, OSError) as error:  # a TimeoutError is an OSError
            self._complain("who else reads the topics of retries could not be looked up", type(error).__name__)
            return
        for topic in topics:
            if len(groups.get(topic, ())) > 1:
                self._warn(topic, groups[topic])
        if hidden:
            self._complain("some consumer groups may not be looked at (right DESCRIBE)", ", ".join(hidden[:3]))

    def _waiting(self) -> list[str]:
        policies = self._policies()
        return sorted(
            topic
            for topic, queue in self._queues.items()
            if topic not in self._told and policies.for_queue(queue).emit_to == "source"
        )

    def _warn(self, topic: str, groups: list[str]) -> None:
        self._told.add(topic)
        more = f" and {len(groups) - GROUPS_TOLD_MAX} more" if len(groups) > GROUPS_TOLD_MAX else ""
        log.warning(
            "retries go to topic %s, which consumer groups %s%s read: each of them sees every retry. Have them skip "
            'records whose header dlq-group names another group, or set emit_to = "retry" for this queue',
            topic,
            ", ".join(groups[:GROUPS_TOLD_MAX]),
            more,
        )

    def _complain(self, what: str, why: str) -> None:
        level = logging.DEBUG if what in self._complained else logging.INFO
        self._complained.add(what)
        log.log(level, "%s: %s", what, why)
