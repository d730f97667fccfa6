"""How many copies topics have, against a cluster of three brokers that is a fake."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.settings import Settings
from dlq_stream.topics import AppTopics, plan, provision
from dlq_stream.topics.cluster import Cluster

TOPIC_AUTHORIZATION_FAILED, INVALID_REPLICATION, CLUSTER_AUTHORIZATION_FAILED = 29, 38, 31


class FakeAdmin:
    """Answers like aiokafka's admin client about topics that all have so many copies."""

    def __init__(self, settings: Settings, *, copies: int, insync: int = 1, default: int | None = 1) -> None:
        self.topics = {topic.name: topic for topic in plan(settings, copies)}
        self.copies = copies
        self.insync = insync
        self.default = default
        self.created: list[Any] = []
        self.refusal = 0

    async def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        partition = {"leader": 1, "replicas": list(range(self.copies))}
        return [
            {"error_code": self.refusal, "topic": name, "partitions": [partition] * self.topics[name].partitions}
            for name in names
        ]

    async def describe_cluster(self) -> dict[str, Any]:
        return {"cluster_id": "cluster", "brokers": [{"node_id": 1}]}

    async def _send_request_to_node(self, broker: int, request: object) -> Any:
        topics = await self.describe_topics(list(self.topics))
        return SimpleNamespace(to_object=lambda: {"topics": topics})

    async def describe_configs(self, resources: list[Any]) -> list[Any]:
        answers = []
        for one in resources:
            if one.name in self.topics:
                found = self.topics[one.name].configs | {"min.insync.replicas": str(self.insync)}
            elif self.default is None:
                answers.append((CLUSTER_AUTHORIZATION_FAILED, "no", one.resource_type, one.name, []))
                continue
            else:
                found = {"default.replication.factor": str(self.default)}
            answers.append((0, "", one.resource_type, one.name, [(name, found[name]) for name in found]))
        return [SimpleNamespace(resources=answers)]

    async def create_topics(self, topics: list[Any]) -> Any:
        self.created += topics
        code, text = (INVALID_REPLICATION, "too many") if self.refusal else (0, None)
        return SimpleNamespace(topic_errors=[(topic.name, code, text) for topic in topics])


async def described(admin: FakeAdmin, settings: Settings) -> dict[str, Any]:
    return await Cluster(admin).describe(AppTopics(settings.app_id).all)


@pytest.mark.parametrize(
    ("copies", "insync", "told"),
    [(3, 1, "min.insync.replicas is 1, expected at least 2"), (3, 2, ""), (3, 3, ""), (2, 1, ""), (1, 1, "")],
)
async def test_two_copies_of_three_must_have_a_record(copies: int, insync: int, told: str) -> None:
    """The actual number of copies decides what min.insync.replicas must be."""
    settings = Settings()
    admin = FakeAdmin(settings, copies=copies, insync=insync)
    there = await described(admin, settings)
    if not told:
        await provision._raise_mismatches(Cluster(admin), settings, there)
        return
    with pytest.raises(ConfigurationError, match=told):
        await provision._raise_mismatches(Cluster(admin), settings, there)


async def test_fewer_copies_than_set_are_refused_more_are_not() -> None:
    """A replication factor that was set is the least."""
    settings = Settings(replication_factor=3)
    for copies in (3, 4):
        admin = FakeAdmin(settings, copies=copies, insync=2)
        await provision._raise_mismatches(Cluster(admin), settings, await described(admin, settings))
    admin = FakeAdmin(settings, copies=2, insync=2)
    with pytest.raises(ConfigurationError, match="replication factor is 2, expected at least 3"):
        await provision._raise_mismatches(Cluster(admin), settings, await described(admin, settings))


@pytest.mark.parametrize(
    ("copies", "brokers", "told"),
    [(1, 1, "losing that broker loses messages"), (1, 3, "3 brokers allow 3"), (2, 5, "5 brokers allow 3"), (3, 3, "")],
)
async def test_copies_that_the_cluster_would_allow_are_missed(copies: int, brokers: int, told: str) -> None:
    """A warning, with the fix, where there are fewer copies than three or than brokers."""
    settings = Settings()
    there = await described(FakeAdmin(settings, copies=copies), settings)
    warnings = provision._warnings(settings, there, brokers)
    assert ([told] if told else []) == [told for warning in warnings if told in warning]


async def test_the_brokers_default_is_asked_for() -> None:
    """With -1 topics get the brokers' default; where that is not told, it has to be set."""
    settings = Settings()
    admin = FakeAdmin(settings, copies=3, default=3)
    assert await provision._copies_to_come(Cluster(admin), settings, [1, 2, 3]) == 3
    admin.default = None
    with pytest.raises(ConfigurationError, match="set replication_factor"):
        await provision._copies_to_come(Cluster(admin), settings, [1, 2, 3])
    fixed = Settings(replication_factor=2)
    assert await provision._copies_to_come(Cluster(admin), fixed, [1, 2, 3]) == 2


async def test_minus_one_is_passed_on() -> None:
    """The brokers choose; aiokafka's own `NewTopic` would refuse the number."""
    settings = Settings()
    admin = FakeAdmin(settings, copies=3)
    await Cluster(admin).create(plan(settings, 3))
    assert {topic.replication_factor for topic in admin.created} == {-1}


async def test_refusals_of_the_brokers_are_told() -> None:
    """What may not be described or created is named with the brokers' reason."""
    settings = Settings()
    admin = FakeAdmin(settings, copies=3)
    admin.refusal = TOPIC_AUTHORIZATION_FAILED
    with pytest.raises(ConfigurationError, match=r"not allowed: Describe on topic .*dlq-stream-failures"):
        await described(admin, settings)
    with pytest.raises(ConfigurationError, match=r"dlq-stream-failures: not created: InvalidReplication.*too many"):
        await Cluster(admin).create(plan(settings, 3))
