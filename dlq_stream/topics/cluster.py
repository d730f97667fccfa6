"""What the brokers are asked about topics and groups, in a form without aiokafka's quirks.

The admin client returns errors as codes inside of its answers and raises only some of them; `NewTopic` refuses the
replication factor -1, which brokers understand since 2.4 (KIP-464).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError, NotAllowed
from dlq_stream.topics.plan import PlannedTopic

SETTLE_SECONDS_MAX = 20.0
"""How long a topic that was created may take until every partition has a leader that everybody knows."""

DEAD_SECONDS_MAX = 15.0
"""How long brokers that do not answer are asked again: a dead one is listed for ``broker.session.timeout.ms``, 9 s."""

GROUPS_AT_ONCE_MAX = 16
"""Consumer groups that are asked for their offsets at the same time."""

_POLL_SECONDS = 0.05
_NO_ERROR, _UNKNOWN_TOPIC, _LEADER_NOT_AVAILABLE, _TOPIC_EXISTS = 0, 3, 5, 36
_TOPIC_REFUSED, _CLUSTER_REFUSED = 29, 31


@dataclass(frozen=True, slots=True)
class Described:
    """An existing topic: its partitions, the fewest copies of any of them, and whether all of them have a leader."""

    name: str
    partitions: int
    copies: int
    settled: bool


class Cluster:
    """Questions to a cluster through a started admin client that creates nothing by asking."""

    def __init__(self, admin: Any) -> None:
        self._admin = admin

    async def id_and_brokers(self) -> tuple[str, list[int]]:
        """The cluster's id and its brokers' numbers."""
        answer = await _answer_of(self._admin.describe_cluster)
        return str(answer.get("cluster_id") or ""), [int(broker["node_id"]) for broker in answer["brokers"]]

    async def describe(self, names: Collection[str]) -> dict[str, Described]:
        """The topics of ``names`` that exist.  Raises NotAllowed where we may not look at one."""
        return self._described(await _answer_of(self._admin.describe_topics, list(names)) if names else [])

    def _described(self, topics: Collection[Mapping[str, Any]]) -> dict[str, Described]:
        refused = sorted(str(topic["topic"]) for topic in topics if topic["error_code"] == _TOPIC_REFUSED)
        if refused:
            raise NotAllowed("Describe", "topic", ", ".join(refused))
        found = {}
        for topic in topics:
            name, code, partitions = topic["topic"], topic["error_code"], topic["partitions"]
            if code == _UNKNOWN_TOPIC:
                continue
            if code not in (_NO_ERROR, _LEADER_NOT_AVAILABLE):
                raise ConfigurationError(f"topic {name}: the brokers refuse to describe it: {_words(code)}")
            copies = min((len(partition["replicas"]) for partition in partitions), default=0)
            settled = bool(partitions) and all(partition["leader"] >= 0 for partition in partitions)
            found[name] = Described(name, len(partitions), copies, settled and code == _NO_ERROR)
        return found

    async def configs(self, names: Collection[str]) -> dict[str, dict[str, str | None]]:
        """All settings of existing topics, defaults included."""
        return await self._configs(ConfigResourceType.TOPIC, names)

    async def default_copies(self, broker: int) -> int | None:
        """``default.replication.factor`` of a broker; None where we may not ask."""
        try:
            configs = await self._configs(ConfigResourceType.BROKER, [str(broker)])
            return int(configs[str(broker)]["default.replication.factor"] or 1)
        except (ConfigurationError, KeyError):
            return None

    async def _configs(self, kind: Any, names: Collection[str]) -> dict[str, dict[str, str | None]]:
        if not names:
            return {}
        found = {}
        resources = [ConfigResource(kind, name) for name in names]
        for answer in await _answer_of(self._admin.describe_configs, resources):
            for code, message, _, name, entries in answer.resources:
                if code in (_TOPIC_REFUSED, _CLUSTER_REFUSED):
                    is_topic = kind is ConfigResourceType.TOPIC
                    raise NotAllowed("DescribeConfigs", "topic" if is_topic else "cluster", name)
                if code:
                    raise ConfigurationError(
                        f"{kind.name.lower()} {name}: its settings cannot be read: {_words(code, message)}"
                    )
                found[str(name)] = {entry[0]: entry[1] for entry in entries}
        return found

    async def create(self, topics: Collection[PlannedTopic]) -> None:
        """Create topics and wait until they can be used; one that somebody else creates meanwhile is fine."""
        if not topics:
            return
        answer = await self._admin.create_topics([_new_topic(topic) for topic in topics])
        refused = [name for name, code, *_ in answer.topic_errors if code in (_TOPIC_REFUSED, _CLUSTER_REFUSED)]
        if refused:
            raise NotAllowed("Create", "topic", ", ".join(sorted(refused)))
        problems = [
            f"topic {name}: not created: {_words(code, *message)}"
            for name, code, *message in answer.topic_errors
            if code not in (_NO_ERROR, _TOPIC_EXISTS)
        ]
        if problems:
            raise ConfigurationError("\n".join(problems))
        await self.settle([topic.name for topic in topics])

    async def settle(self, names: Collection[str]) -> None:
        """Wait until every partition of these topics has a leader, and every broker knows it.

        Brokers learn of a new topic one after the other, and whoever asks next may ask any of them.
        """
        deadline = time.monotonic() + SETTLE_SECONDS_MAX
        while True:
            waiting = await self._unsettled(names, deadline)
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise BrokersUnavailable(f"no leader after {SETTLE_SECONDS_MAX:g} s: {', '.join(waiting)}")
            await asyncio.sleep(_POLL_SECONDS)

    async def _unsettled(self, names: Collection[str], deadline: float) -> list[str]:
        """Which of the topics which broker does not know of; a broker that does not answer counts as one, too."""
        waiting = []
        _, brokers = await self.id_and_brokers()
        for broker in brokers:
            try:
                async with asyncio.timeout(max(_POLL_SECONDS, deadline - time.monotonic())):
                    # describe_topics() asks whichever broker it likes, and there is no public way to name one.
                    answer = await self._admin._send_request_to_node(broker, MetadataRequest(list(names)))
            except (KafkaError, TimeoutError) as error:
                waiting.append(f"broker {broker} does not answer ({error!r})")
                continue
            found = self._described(answer.to_object()["topics"])
            missing = [name for name in names if name not in found or not found[name].settled]
            waiting += [f"{name} (broker {broker})" for name in missing]
        return waiting

    async def groups_of(self, names: Collection[str]) -> tuple[dict[str, list[str]], list[str]]:
        """The consumer groups with committed offsets, by topic; and the groups that we may not look at."""
        groups = sorted({str(group[0]) for group in await self._admin.list_consumer_groups()})
        gate = asyncio.Semaphore(GROUPS_AT_ONCE_MAX)
        hidden: list[str] = []

        async def topics_of(group: str) -> set[str]:
            async with gate:
                try:
                    offsets = await self.offsets(group)
                except (KafkaError, NotAllowed):
                    hidden.append(group)
                    return set()
            return {topic for topic, _ in offsets}

        committed = dict(zip(groups, await asyncio.gather(*map(topics_of, groups)), strict=True))
        return {name: [group for group in groups if name in committed[group]] for name in names}, sorted(hidden)

    async def offsets(self, group: str) -> Mapping[tuple[str, int], int]:
        """What a group has committed, by topic and partition.

        A coordinator that is not there yet (a young cluster makes its topic of offsets on the first question) is
        waited for.  Raises NotAllowed where we may not look at the group.
        """
        deadline = time.monotonic() + SETTLE_SECONDS_MAX
        while True:
            try:
                found = await self._admin.list_consumer_group_offsets(group)
            except (CoordinatorNotAvailableError, CoordinatorLoadInProgressError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_POLL_SECONDS)
            except GroupAuthorizationFailedError as error:
                raise NotAllowed("Describe", "group", group) from error
            else:
                return {(tp.topic, tp.partition): at.offset for tp, at in found.items() if at.offset >= 0}


async def _answer_of(question: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """The answer to a question that any broker can answer.

    The admin client puts it to one by chance.  One that has just died is still among them, while the others answer.
    """
    deadline = time.monotonic() + DEAD_SECONDS_MAX
    while True:
        try:
            return await question(*arguments)
        except (NodeNotReadyError, KafkaConnectionError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_POLL_SECONDS)


def _new_topic(topic: PlannedTopic) -> Any:
    new = NewTopic(topic.name, topic.partitions, max(1, topic.replication_factor), topic_configs=topic.configs)
    new.replication_factor = topic.replication_factor
    return new


def _words(code: int, message: str | None = None) -> str:
    error = for_code(code)
    return f"{error.__name__}{f': {message}' if message else ''}"
