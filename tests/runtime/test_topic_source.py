"""What a worker asks the brokers about topics, and the ``-dlq`` topics that it creates, on a real broker.

The broker's defaults are as bad for dead letters as they get: it compacts, keeps a megabyte, and creates topics for
whoever asks for one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from dlq_stream.core.transaction import Destination
from dlq_stream.kafka import client_options
from dlq_stream.runtime import topic_source
from dlq_stream.runtime.topic_source import DEAD_LETTER_EXTRA_BYTES, SOURCELESS_MAX, KafkaTopicSource
from tests.integration.acls import allow_again, forbid
from tests.kafka_clients import admin, create_topics, delete_topic, leaders, list_topics, topic_config, until_described
from tests.kafka_fixture import LocalKafka, local_kafka, unique_name

pytestmark = pytest.mark.kafka

RETENTION_MS = 12_345_678
OWN_PARTITIONS = 5
RECORD_BYTES_MAX = 300_000
DESCRIBE = 8  # from the protocol's AclOperation


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalKafka]:
    defaults = {"log_cleanup_policy": "compact", "log_retention_bytes": 1 << 20, "log_retention_ms": 60_000}
    with local_kafka(auto_create=True, authorizer=True, **defaults) as kafka:
        yield kafka


@pytest_asyncio.fixture
async def source(broker: LocalKafka) -> AsyncIterator[KafkaTopicSource]:
    options = {**client_options(broker.bootstrap), "client_id": "test"}
    made = KafkaTopicSource(
        options,
        dead_letter_retention_ms=RETENTION_MS,
        replication_factor=-1,
        partitions=OWN_PARTITIONS,
        record_bytes_max=RECORD_BYTES_MAX,
    )
    yield made
    await made.close()


async def until_known(broker: LocalKafka, topic: str, partitions: int) -> None:
    """Wait for a topic that was created: the answer to that comes first."""
    async with admin(broker.bootstrap) as client:
        await until_described(client, [topic], lambda known: leaders(known) == partitions)


async def test_a_dead_letter_topic_takes_after_its_source(broker: LocalKafka, source: KafkaTopicSource) -> None:
    """Its partitions and its limit; but dead letters are neither compacted nor deleted for their number."""
    topic = unique_name("heat")
    await create_topics(broker.bootstrap, topic, partitions=3, config={"max.message.bytes": 200_000})
    found = await source.describe([topic, f"{topic}-dlq"])
    assert found[topic] == Destination(topic, partitions=3, compacted=True, record_bytes_max=200_000)
    limit = 200_000 + DEAD_LETTER_EXTRA_BYTES
    assert found[f"{topic}-dlq"] == Destination(f"{topic}-dlq", partitions=3, record_bytes_max=limit)
    await until_known(broker, f"{topic}-dlq", 3)
    config = await topic_config(broker.bootstrap, f"{topic}-dlq")
    settings = ("cleanup.policy", "retention.ms", "retention.bytes", "max.message.bytes")
    assert [config[name] for name in settings] == ["delete", str(RETENTION_MS), "-1", str(limit)]
    assert (await source.describe([f"{topic}-dlq"]))[f"{topic}-dlq"] == found[f"{topic}-dlq"]


async def test_a_dead_letter_topic_outlives_its_source(broker: LocalKafka, source: KafkaTopicSource) -> None:
    """Created as wide as the app's topics where the source is gone, which asking about it does not bring back."""
    topic = unique_name("heat")
    await create_topics(broker.bootstrap, topic, partitions=3)
    await delete_topic(broker.bootstrap, topic)
    found = await source.describe([f"{topic}-dlq", topic])
    limit = RECORD_BYTES_MAX + DEAD_LETTER_EXTRA_BYTES
    assert found[f"{topic}-dlq"] == Destination(f"{topic}-dlq", partitions=OWN_PARTITIONS, record_bytes_max=limit)
    assert found[topic].refusal == "missing"
    await until_known(broker, f"{topic}-dlq", OWN_PARTITIONS)
    topics = await list_topics(broker.bootstrap)
    assert topic not in topics


async def test_other_missing_topics_are_not_created(broker: LocalKafka, source: KafkaTopicSource) -> None:
    """Nobody gives up into a retry topic."""
    topic = unique_name("heat")
    found = await source.describe([topic, f"{topic}-retry"])
    assert {known.refusal for known in found.values()} == {"missing"}
    assert not {topic, f"{topic}-retry"} & set(await list_topics(broker.bootstrap))


async def test_a_source_that_may_not_be_looked_at_is_not_taken_for_gone(
    broker: LocalKafka, source: KafkaTopicSource
) -> None:
    """Its dead letters wait until it may, and then get a topic like it."""
    topic = unique_name("heat")
    await create_topics(broker.bootstrap, topic, partitions=3)
    await forbid(broker.bootstrap, topic, DESCRIBE)
    found = await source.describe([topic, f"{topic}-dlq"])
    assert (found[topic].refusal, found[f"{topic}-dlq"].refusal) == ("not-authorised", "missing")
    await allow_again(broker.bootstrap, topic)
    assert (await source.describe([f"{topic}-dlq"]))[f"{topic}-dlq"].partitions == 3


async def test_a_topic_that_is_there_by_now_is_taken_as_it_is(broker: LocalKafka, source: KafkaTopicSource) -> None:
    """Two workers look at the same moment, and one is faster."""
    topic = unique_name("heat")
    await create_topics(broker.bootstrap, f"{topic}-dlq", partitions=2, config={"max.message.bytes": 400_000})
    created = await source._create(f"{topic}-dlq", Destination(topic, partitions=3))
    assert (created.partitions, created.record_bytes_max, created.refusal) == (2, 400_000, None)


async def test_topics_without_a_source_are_bounded(
    broker: LocalKafka, source: KafkaTopicSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes names up fills no cluster; sources that exist are not concerned."""
    assert SOURCELESS_MAX >= 10
    monkeypatch.setattr(topic_source, "SOURCELESS_MAX", 2)
    names = [f"{unique_name('invented')}-dlq" for _ in range(3)]
    found = await source.describe(names)
    refused = [(topic, known.refusal) for topic, known in found.items() if known.refusal is not None]
    ((topic, reason),) = refused
    assert "create it, or restart the worker" in reason
    assert topic not in await list_topics(broker.bootstrap)
    existing = unique_name("heat")
    await create_topics(broker.bootstrap, existing, topic, partitions=3)
    found = await source.describe([*names, f"{existing}-dlq"])
    assert {known.refusal for known in found.values()} == {None}
