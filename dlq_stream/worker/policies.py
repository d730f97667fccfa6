"""The policies topic as a running worker follows it: read whole before a partition opens, then as it grows.

It is read by every worker, so without a group.  Each start of reading begins at the beginning and swaps the result in
only when it is complete: so what was compacted away while nobody looked (a tombstone, a day after it was written) is
gone here, too.  While brokers are away, what was read last holds.

From time to time it is read whole again, since positions do not tell whether the topic is the one that was there: after
somebody deleted it, and `init` made it anew, this worker must not go on by other policies than one that starts then.
While there is none, that is said at each try.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, NoReturn

from aiokafka.errors import KafkaError, KafkaTimeoutError

from dlq_stream.core.connection import Brokers
from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError, DLQError
from dlq_stream.core.policy import Policies
from dlq_stream.kafka import UNREACHABLE, reader
from dlq_stream.settings import QueueSettings
from dlq_stream.settings.published import Check, PublishedPolicies
from dlq_stream.topics.policies import take_all

log = logging.getLogger(__name__)

WAIT_MS = 500
"""How long a look at the topic waits for a record; with one it ends at once."""

PAUSE_SECONDS_FIRST = 0.2
PAUSE_SECONDS_MAX = 5.0
"""Pauses between tries while the topic cannot be read: doubling from the first to the last."""

READ_AGAIN_SECONDS = 300.0
"""So often everything is read anew, also after the process was frozen: tombstones may be gone by then."""

_LATER = (*UNREACHABLE, KafkaTimeoutError)
"""Errors that another try may not meet, besides those that say so: one is a partition without a leader for a while."""


class PolicyFollower:
    """Reads the topic, and hands over the `Policies` that hold, whenever they change.

    ``brokers`` goes to `dlq_stream.kafka.reader`; ``base``: what the settings say, ``check``: what else is asked of a
    policy; ``changed`` is called between two turns of any partition, for it is called from a task of the event loop.
    """

    def __init__(
        self,
        brokers: Brokers,
        topic: str,
        partitions: int,
        base: Policies,
        changed: Callable[[Policies], None],
        check: Check | None = None,
    ) -> None:
        self._brokers = brokers
        self._topic = topic
        self._partitions = partitions
        self._base = base
        self._changed = changed
        self._check = check
        self._told: dict[str, str] = {}
        self._known: dict[str, QueueSettings] = {}
        self._pause = PAUSE_SECONDS_FIRST

    async def read(self, wait_seconds: float) -> None:
        """Read the topic whole, trying again for ``wait_seconds`` while brokers are away.

        Raises `BrokersUnavailable` after that, and `ConfigurationError` where this worker may not read it.
        """
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                async with reader(self._brokers) as consumer:
                    await self._read_whole(consumer)
                    return
            except (KafkaError, *UNREACHABLE, BrokersUnavailable) as error:
                if isinstance(error, KafkaError) and not (error.retriable or isinstance(error, _LATER)):
                    raise ConfigurationError(f"topic {self._topic} cannot be read: {error!r}") from error
                if time.monotonic() >= deadline:
                    raise BrokersUnavailable(f"topic {self._topic} could not be read: {error!r}") from error
                await self._rest(error)

    async def run(self) -> NoReturn:
        """Follow the topic until cancelled; what goes wrong is logged, and tried again: what was read holds."""
        while True:
            try:
                async with reader(self._brokers) as consumer:
                    while True:
                        published = await self._read_whole(consumer)
                        self._pause = PAUSE_SECONDS_FIRST
                        await self._follow(consumer, published)
            except (KafkaError, TimeoutError, DLQError) as error:
                await self._rest(error)

    async def _rest(self, error: Exception) -> None:
        log.warning("topic %s cannot be read, next try in %.1f s: %r", self._topic, self._pause, error)
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, PAUSE_SECONDS_MAX)

    async def _read_whole(self, consumer: Any) -> PublishedPolicies:
        published = PublishedPolicies(self._base, self._check)
        await take_all(consumer, self._topic, self._partitions, published)
        if published.queues != self._known:
            log.info("policies: %d queues have one that was published", len(published.queues))
        self._tell_problems(published)
        self._known = published.queues
        self._changed(published.policies)
        return published

    async def _follow(self, consumer: Any, published: PublishedPolicies) -> None:
        """Take what comes; returns where everything has to be read anew."""
        until = time.monotonic() + READ_AGAIN_SECONDS
        while True:
            found = await consumer.getmany(timeout_ms=WAIT_MS)
            if time.monotonic() > until:
                return
            for record in (record for records in found.values() for record in records):
                queue = published.take(record.key, record.value)
                own = published.queues.get(queue)
                now = own.model_dump(exclude_defaults=True) if own is not None else "what the settings say"
                log.info("policy of queue %s is now: %s", queue, now)
            if found:
                self._tell_problems(published)
                self._changed(published.policies)

    def _tell_problems(self, published: PublishedPolicies) -> None:
        """Say loudly, once each, which records count as none."""
        for queue, problem in published.problems.items():
            if self._told.get(queue) != problem:
                log.error("a published policy is not understood, so its queue goes by the settings: %s", problem)
        self._told = dict(published.problems)
