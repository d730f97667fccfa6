"""How a worker follows policies when the topic is not what it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.errors import InvalidTopicError, KafkaError, KafkaTimeoutError, NotLeaderForPartitionError

from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError
from dlq_stream.core.policy import Policies
from dlq_stream.settings.published import PublishedPolicies, encode
from dlq_stream.settings.queues import QueueSettings
from dlq_stream.worker import policies as module
from dlq_stream.worker.policies import PolicyFollower
from tests.integration.harness import eventually
from tests.kafka_clients import Outgoing, create_topics, delete_topic, produce
from tests.kafka_fixture import LocalKafka, unique_name


def record(topic: str, queue: str, retries: int) -> Outgoing:
    key, value = encode(queue, QueueSettings(max_retries=retries))
    return Outgoing(topic, value, key)


def reading(monkeypatch: pytest.MonkeyPatch, errors: Sequence[KafkaError]) -> None:
    """Each try to read the topic raises the next of these; with the last it has been read."""
    left = list(errors)

    @asynccontextmanager
    async def no_reader(brokers: Any) -> AsyncIterator[None]:
        yield

    async def take_all(consumer: Any, topic: str, partitions: int, published: PublishedPolicies) -> None:
        if left:
            raise left.pop(0)
        published.take(*encode("heat", QueueSettings(max_retries=9)))

    monkeypatch.setattr(module, "reader", no_reader)
    monkeypatch.setattr(module, "take_all", take_all)
    monkeypatch.setattr(module, "PAUSE_SECONDS_FIRST", 0.001)


async def test_a_partition_without_a_leader_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no mistake in the settings: a worker that ended with that would not be started again."""
    reading(monkeypatch, [KafkaTimeoutError("no offsets within 40 s"), NotLeaderForPartitionError()])
    seen: list[Policies] = []
    await PolicyFollower("nobody:1", "policies", 1, Policies(), seen.append).read(30)
    assert [policies.for_queue("heat").max_retries for policies in seen] == [9]
    reading(monkeypatch, [KafkaTimeoutError()])
    with pytest.raises(BrokersUnavailable, match="topic policies could not be read"):
        await PolicyFollower("nobody:1", "policies", 1, Policies(), seen.append).read(0)


async def test_what_no_other_try_cures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, however long there is to wait."""
    reading(monkeypatch, [InvalidTopicError()])
    with pytest.raises(ConfigurationError, match="topic policies cannot be read"):
        await PolicyFollower("nobody:1", "policies", 1, Policies(), lambda policies: None).read(30)


@pytest.mark.kafka
async def test_a_topic_that_was_deleted_and_made_anew(kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running worker goes by what a new one reads, though the new topic's offsets look like the old one's."""
    monkeypatch.setattr(module, "READ_AGAIN_SECONDS", 1.0)
    topic, brokers = unique_name("policies"), kafka.bootstrap
    seen: list[Policies] = []

    async def latest() -> tuple[int, int]:
        return tuple(seen[-1].for_queue(queue).max_retries for queue in ("heat", "ovens")) if seen else (0, 0)

    await create_topics(brokers, topic, partitions=1)
    await produce(brokers, [record(topic, "heat", 7)])
    following = asyncio.create_task(PolicyFollower(brokers, topic, 1, Policies(), seen.append).run())
    await eventually(latest, wanted=lambda found: found == (7, 3))
    await delete_topic(brokers, topic)
    await create_topics(brokers, topic, partitions=1)
    await produce(brokers, [record(topic, "ovens", 8)])
    await eventually(latest, wanted=lambda found: found == (3, 8))
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
