"""What `init --source` finds out, says and creates."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from aiokafka import TopicPartition

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.settings import QueueSettings, Settings
from dlq_stream.topics import SourceReport, create_or_verify
from tests.kafka_clients import commit_offsets, create_topics, list_topics, topic_config
from tests.kafka_fixture import LocalKafka, unique_name


@pytest.fixture
def settings(kafka: LocalKafka) -> Settings:
    return Settings(brokers=kafka.bootstrap, app_id=unique_name("app"), partitions=1, wait_seconds=5)


async def source_of(settings: Settings, partitions: int = 3, **config: object) -> str:
    name = unique_name("source")
    named = {key.replace("_", "."): value for key, value in config.items()}
    await create_topics(settings.brokers, name, partitions=partitions, config=named)
    return name


async def report_of(settings: Settings, source: str, **queue: object) -> SourceReport:
    changed = settings.model_copy(update={"queues": {source: QueueSettings(**queue)}})
    (report,) = (await create_or_verify(changed, [source, source])).sources
    return report


async def commit(settings: Settings, topic: str, group: str) -> None:
    await commit_offsets(settings.brokers, group, {TopicPartition(topic, 0): 0})


async def test_the_groups_that_read_a_source_are_listed(settings: Settings) -> None:
    """All groups with committed offsets on it, and none that has them elsewhere only."""
    source, other = await source_of(settings), await source_of(settings)
    groups = [unique_name("g-b"), unique_name("g-a")]
    for group in groups:
        await commit(settings, source, group)
    await commit(settings, other, unique_name("g-c"))
    report = await report_of(settings, source)
    assert report.groups == sorted(groups)
    assert (report.partitions, report.retry_topics, report.warnings) == (3, [], [])


async def test_a_source_without_readers(settings: Settings) -> None:
    """Nobody is an answer, too."""
    assert (await report_of(settings, await source_of(settings))).groups == []


async def test_sources_that_cannot_be_retried_are_all_named(settings: Settings) -> None:
    """Missing ones, other apps' topics, and dead-letter topics; sources are never created."""
    missing = unique_name("missing")
    sources = [missing, "__consumer_offsets", f"{settings.app_id}-failures", "orders-dlq"]
    with pytest.raises(ConfigurationError) as caught:
        await create_or_verify(settings, sources)
    lines = str(caught.value).splitlines()
    assert [line.split()[1].rstrip(":") for line in lines] == sources
    assert "does not exist" in lines[0]
    assert missing not in await list_topics(settings.brokers)


async def test_a_retry_topic_is_created_where_the_policy_wants_one(settings: Settings) -> None:
    """With the source's partitions and room for our headers; a second run finds it."""
    source = await source_of(settings, max_message_bytes=500_000)
    report = await report_of(settings, source, emit_to="retry")
    retry = f"{source}-retry"
    assert report.created == report.retry_topics == [retry]
    assert (await list_topics(settings.brokers))[retry] == 3
    assert (await topic_config(settings.brokers, retry))["max.message.bytes"] == str(500_000 + 64 * 1024)
    again = await report_of(settings, source, emit_to="retry")
    assert (again.created, again.retry_topics) == ([], [retry])


async def test_retry_topics_per_group(settings: Settings) -> None:
    """A template that names the group makes one for each group that is known, and says where none is."""
    source, group = await source_of(settings), unique_name("g")
    queue: Mapping[str, object] = {"emit_to": "retry", "retry_topic": "{topic}.{group}.retry"}
    report = await report_of(settings, source, **queue)
    assert report.retry_topics == []
    assert any("none has committed offsets yet" in warning for warning in report.warnings)
    await commit(settings, source, group)
    assert (await report_of(settings, source, **queue)).created == [f"{source}.{group}.retry"]


async def test_a_retry_topic_of_another_width_is_remarked(settings: Settings) -> None:
    """It is used as it is, and what that means is said."""
    source = await source_of(settings)
    await create_topics(settings.brokers, f"{source}-retry", partitions=2)
    report = await report_of(settings, source, emit_to="retry")
    assert report.created == []
    assert any("has 2 partitions, the source 3" in warning for warning in report.warnings)


async def test_a_retry_topic_among_the_apps_own_is_refused(settings: Settings) -> None:
    """No policy may write into the app's state."""
    source = await source_of(settings)
    with pytest.raises(ConfigurationError, match="its retry topic"):
        await report_of(settings, source, emit_to="retry", retry_topic=f"{settings.app_id}-failures")


@pytest.mark.parametrize(
    ("queue", "warned"),
    [({}, True), ({"write_compacted": True}, False), ({"emit_to": "retry"}, False)],
)
async def test_a_compacted_source_is_remarked(settings: Settings, queue: Mapping[str, object], warned: bool) -> None:
    """Its failures are escalated unless the queue says otherwise."""
    source = await source_of(settings, cleanup_policy="compact")
    report = await report_of(settings, source, **queue)
    assert any("compacted" in warning for warning in report.warnings) is warned


async def test_a_source_with_larger_records_is_remarked(settings: Settings) -> None:
    """Failures of records beyond record_bytes_max cannot be reported."""
    source = await source_of(settings, max_message_bytes=9_000_000)
    report = await report_of(settings, source)
    assert any("9000000 bytes, record_bytes_max is 1048576" in warning for warning in report.warnings)
