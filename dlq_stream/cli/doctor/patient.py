"""What is examined: one app on one cluster, with a started admin client and what several checks want to know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Any

from aiokafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    NotCoordinatorError,
    for_code,
)
from aiokafka.protocol.offset import OffsetRequest

from dlq_stream.cli.doctor.protocol import DescribeGroupRequest, RightsRequest
from dlq_stream.cli.figures import Figures, read_figures
from dlq_stream.kafka import UNREACHABLE
from dlq_stream.settings import Settings
from dlq_stream.topics import AppTopics
from dlq_stream.topics.cluster import Cluster

Place = tuple[str, int]
"""A topic and one of its partitions."""

_LATEST, _EARLIEST = -1, -2
_CONSUMER = -1  # as replica id
_NO_ERROR = 0
_TOPIC_REFUSED = 29
_GROUP_ID_NOT_FOUND = 69
_MOVED = (CoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorError)
_PAUSE_SECONDS = 0.1

ANSWER_SECONDS_MAX = 5.0
"""So long one broker has before another one is asked."""


class Patient:
    """Asked by checks that run side by side; nothing here writes."""

    def __init__(self, settings: Settings, admin: Any) -> None:
        self.settings = settings
        self.topics = AppTopics(settings.app_id)
        self.cluster = Cluster(admin)
        self._admin = admin
        self._figures: asyncio.Task[Figures] | None = None

    def now_ms(self) -> int:
        """This machine's clock."""
        return time.time_ns() // 1_000_000

    async def figures(self) -> Figures:
        """The figures of ``dlq-stream status``, read once.  Raises as `read_figures` does."""
        if self._figures is None:
            self._figures = asyncio.create_task(read_figures(self.settings))
        return await asyncio.shield(self._figures)

    async def close(self) -> None:
        """End what nobody waits for any more."""
        if self._figures is not None:
            self._figures.cancel()
            await asyncio.gather(self._figures, return_exceptions=True)

    async def ask(self, node: int, request: Any) -> Any:
        """A broker's answer to one request."""
        return await self._admin._send_request_to_node(node, request)

    async def ask_any(self, request: Any) -> Any:
        """The answer of whichever broker answers first, tried one after the other."""
        nodes = await self.nodes()
        for number, node in enumerate(nodes, 1):
            try:
                async with asyncio.timeout(ANSWER_SECONDS_MAX):
                    return await self.ask(node, request)
            except UNREACHABLE:
                if number == len(nodes):
                    raise
        raise AssertionError("a cluster that answered has a broker")

    async def listed(self) -> list[tuple[int, str]]:
        """The brokers that the cluster says it has, with the address that each tells its clients."""
        answer = await self._admin.describe_cluster()
        return [(int(each["node_id"]), f"{each['host']}:{each['port']}") for each in answer["brokers"]]

    async def nodes(self) -> list[int]:
        """The brokers that the cluster says it has."""
        return (await self.cluster.id_and_brokers())[1]

    async def metadata(self, topics: Collection[str]) -> dict[str, dict[str, Any]]:
        """The topics that exist and may be looked at, by name, with ``partitions`` and ``authorized_operations``."""
        return {
            name: topic for name, topic in (await self._told_of(topics)).items() if topic["error_code"] == _NO_ERROR
        }

    async def granted(self, topics: Collection[str]) -> dict[str, int]:
        """Which operations are allowed on topics that exist, a bit each; 0 where not even looking is."""
        told = await self._told_of(topics)
        refused = dict.fromkeys((name for name, topic in told.items() if topic["error_code"] == _TOPIC_REFUSED), 0)
        return refused | {
            name: topic["authorized_operations"] for name, topic in told.items() if topic["error_code"] == _NO_ERROR
        }

    async def _told_of(self, topics: Collection[str]) -> dict[str, dict[str, Any]]:
        if not topics:
            return {}
        answer = (await self.ask_any(RightsRequest(sorted(topics)))).to_object()
        return {topic["topic"]: topic for topic in answer["topics"]}

    async def group(self) -> dict[str, Any]:
        """The app's consumer group as its coordinator describes it; an unknown one is in the state Dead."""
        group = self.settings.app_id
        while True:  # a young cluster makes its topic of offsets on the first question; checks have their time
            try:
                coordinator = await self._admin.find_coordinator(group)
                described = (await self.ask(coordinator, DescribeGroupRequest(group))).to_object()["groups"][0]
                if described["error_code"] in (_NO_ERROR, _GROUP_ID_NOT_FOUND):
                    return dict(described)
                raise for_code(described["error_code"])(f"group {group}")
            except _MOVED:
                await asyncio.sleep(_PAUSE_SECONDS)

    async def coordinator_of(self, transactional_id: str) -> int:
        """The broker that decides about a transactional id."""
        return int(await self._admin.find_coordinator(transactional_id, 1))

    async def places(self, topics: Collection[str]) -> dict[Place, int]:
        """The partitions that have a leader, and which broker that is."""
        return {
            (name, partition["partition"]): partition["leader"]
            for name, topic in (await self.metadata(topics)).items()
            for partition in topic["partitions"]
            if partition["leader"] >= 0
        }

    async def ends(
        self, leaders: Mapping[Place, int], *, committed: bool = False, first: bool = False
    ) -> dict[Place, int]:
        """Where each partition ends by its leader: for readers of committed records where ``committed``.

        ``first``: where it begins instead.  Partitions whose leader does not tell are left out.
        """
        instant = _EARLIEST if first else _LATEST
        by_leader: dict[int, dict[str, list[tuple[int, int]]]] = {}
        for (topic, partition), leader in leaders.items():
            by_leader.setdefault(leader, {}).setdefault(topic, []).append((partition, instant))
        answers = await asyncio.gather(
            *(
                self.ask(leader, OffsetRequest(_CONSUMER, int(committed), list(topics.items())))
                for leader, topics in by_leader.items()
            )
        )
        return {
            (topic, partition): offset
            for answer in answers
            for topic, partitions in answer.topics
            for partition, code, _, offset in partitions
            if code == _NO_ERROR
        }
