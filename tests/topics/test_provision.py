"""Creating and verifying the app's topics on a real broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError, UnsupportedFormat
from dlq_stream.settings import Settings
from dlq_stream.tables import MAJOR
from dlq_stream.tables.marker import MARKER_KEY, Marker, decode, encode
from dlq_stream.topics import AppTopics, create_or_verify, markers, plan, provision, verify
from dlq_stream.topics.markers import Markers
from tests.kafka_clients import (
    Outgoing,
    admin,
    create_topics,
    delete_topic,
    list_topics,
    produce,
    read_topic,
    topic_config,
)
from tests.kafka_fixture import LocalKafka, unique_name

PARTITIONS = 2


@pytest.fixture
def settings(kafka: LocalKafka) -> Settings:
    return Settings(brokers=kafka.bootstrap, app_id=unique_name("app"), partitions=PARTITIONS, wait_seconds=5)


async def alter(settings: Settings, topic: str, **configs: object) -> None:
    """Change a topic as an operator might."""
    changed = await topic_config(settings.brokers, topic)
    named = {name.replace("_", "."): str(value) for name, value in configs.items()}
    kept = {
        expected.setting: str(changed[expected.setting])
        for planned in plan(settings, 1)
        if planned.name == topic
        for expected in planned.expectations
    }
    async with admin(settings.brokers) as client:
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, kept | named)])
    for _ in range(200):
        if named.items() <= (await topic_config(settings.brokers, topic)).items():
            return
        await asyncio.sleep(0.05)
    raise TimeoutError(f"{topic} was not altered")


async def markers_in(settings: Settings, topic: str) -> list[tuple[int, Marker]]:
    records = await read_topic(settings.brokers, topic)
    first = {
        record.partition: record for record in reversed(records)
    }  # of those committed: an init may have been fenced
    assert all(record.key == MARKER_KEY for record in first.values()), "the marker is the first record"
    return [(record.partition, decode(record.value)) for record in records if record.key == MARKER_KEY]


async def problems_of(settings: Settings) -> str:
    with pytest.raises(ConfigurationError) as caught:
        await verify(settings)
    return str(caught.value)


async def test_init_creates_everything_as_planned(settings: Settings) -> None:
    """Every topic exists with the planned partitions and settings, and every changelog partition is marked."""
    topics = AppTopics(settings.app_id)
    done = await create_or_verify(settings)
    assert done.created == list(topics.all)
    assert done.markers_written == PARTITIONS * len(topics.changelogs)
    assert any("one copy" in warning for warning in done.warnings)
    for planned in plan(settings, 1):
        actual = await topic_config(settings.brokers, planned.name)
        assert planned.configs.items() <= actual.items()
    there = await list_topics(settings.brokers)
    assert {there[name] for name in topics.all} == {PARTITIONS}
    found = [one for topic in topics.changelogs for one in await markers_in(settings, topic)]
    assert [partition for partition, _ in found] == list(range(PARTITIONS)) * len(topics.changelogs)
    assert {(one.app_id, one.format) for _, one in found} == {(settings.app_id, MAJOR)}
    assert len({one.incarnation for _, one in found}) == 1


async def test_init_again_changes_nothing(settings: Settings) -> None:
    """The second run verifies, writes nothing, and the worker's check agrees."""
    await create_or_verify(settings)
    before = await verify(settings)
    done = await create_or_verify(settings)
    assert (done.created, done.markers_written) == ([], 0)
    assert done.verified == list(AppTopics(settings.app_id).all)
    assert await verify(settings) == before
    assert before.cluster_id
    assert before.tombstones_kept_ms == 86_400_000
    assert set(before.incarnations) == set(AppTopics(settings.app_id).changelogs)


async def test_an_init_interrupted_before_the_markers_is_completed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Topics without markers are no app yet: a worker refuses them, the next init finishes them."""

    async def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(provision, "complete_markers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            await create_or_verify(settings)
    assert "has no incarnation marker: run `dlq-stream init`" in await problems_of(settings)
    done = await create_or_verify(settings)
    assert done.created == []
    assert done.markers_written == PARTITIONS * len(AppTopics(settings.app_id).changelogs)
    await verify(settings)


async def test_an_init_interrupted_between_topics_is_completed(settings: Settings) -> None:
    """What exists is verified, the rest is created."""
    topics = AppTopics(settings.app_id)
    await create_or_verify(settings)
    for gone in (topics.commands, topics.changelogs[1]):
        await delete_topic(settings.brokers, gone)
    assert f"topic {topics.commands} does not exist; run `dlq-stream init`" in await problems_of(settings)
    before = {topic: await markers_in(settings, topic) for topic in (topics.changelogs[0], topics.changelogs[2])}
    done = await create_or_verify(settings)
    assert done.created == [topics.commands, topics.changelogs[1]]
    assert done.markers_written == PARTITIONS
    verified = await verify(settings)
    for topic, found in before.items():
        assert await markers_in(settings, topic) == found
        assert verified.incarnations[topic] != verified.incarnations[topics.changelogs[1]], "recreated: another life"


async def test_a_changelog_marked_in_part_keeps_its_incarnation(settings: Settings) -> None:
    """Only what is missing is written, with the topic's own incarnation."""
    topics = AppTopics(settings.app_id)
    await create_or_verify(settings)
    part, rest = topics.changelogs[0], topics.changelogs[1:]
    await delete_topic(settings.brokers, part)
    configs = {topic.name: topic.configs for topic in plan(settings, 1)}[part]
    await create_topics(settings.brokers, part, partitions=PARTITIONS, config=configs)
    await produce(settings.brokers, [Outgoing(part, encode(Marker("mine", settings.app_id)), MARKER_KEY, partition=1)])
    done = await create_or_verify(settings)
    assert done.markers_written == PARTITIONS - 1
    verified = await verify(settings)
    assert verified.incarnations[part] == "mine"
    assert len({verified.incarnations[topic] for topic in rest}) == 1


async def test_init_returns_when_its_markers_can_be_read(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the commit was answered: partitions hear of it later, and a worker that starts then would refuse to."""
    unseen: list[Markers] = []
    written: list[int] = []

    async def read_late(*arguments: Any) -> Markers:
        found = await read_markers(*arguments)
        if not written or len(unseen) == 3:
            return found
        unseen.append(found)
        return dict.fromkeys(found)

    async def write(*arguments: Any) -> int:
        written.append(await write_missing(*arguments))
        return written[-1]

    read_markers, write_missing = markers.read_markers, markers._write_missing
    monkeypatch.setattr(markers, "read_markers", read_late)
    monkeypatch.setattr(markers, "_write_missing", write)
    done = await create_or_verify(settings)
    assert written == [done.markers_written]
    assert len(unseen) == 3


async def test_inits_at_once_write_one_marker_each(settings: Settings) -> None:
    """Pods that all run init at the same time: every one succeeds, and no partition gets two markers."""
    done = await asyncio.gather(*(create_or_verify(settings) for _ in range(3)))
    assert sum(one.markers_written for one in done) == PARTITIONS * len(AppTopics(settings.app_id).changelogs)
    await verify(settings)
    for topic in AppTopics(settings.app_id).changelogs:
        assert len(await markers_in(settings, topic)) == PARTITIONS


@pytest.mark.parametrize(
    ("which", "configs", "told"),
    [
        ("failures", {"cleanup_policy": "compact"}, "cleanup.policy is compact, expected delete"),
        ("failures", {"message_timestamp_type": "CreateTime"}, "message.timestamp.type is CreateTime"),
        ("failures", {"max_message_bytes": 1000}, "max.message.bytes is 1000, expected at least 1114112"),
        ("commands", {"retention_ms": -1}, "retention.ms is -1, expected at most 604800000"),
        ("commands", {"retention_bytes": 1_000_000}, "retention.bytes is 1000000, expected -1"),
        ("quarantine", {"retention_ms": 1000}, "retention.ms is 1000, expected at least 2592000000"),
        ("changelog", {"cleanup_policy": "compact,delete"}, "cleanup.policy is compact,delete, expected compact"),
        ("changelog", {"delete_retention_ms": 1000}, "delete.retention.ms is 1000, expected at least 86400000"),
    ],
)
async def test_a_mismatch_names_topic_setting_value_and_fix(
    settings: Settings, which: str, configs: Mapping[str, object], told: str
) -> None:
    """For the worker and for init alike, with the command that puts it right; nothing is changed by itself."""
    topics = AppTopics(settings.app_id)
    await create_or_verify(settings)
    topic = topics.changelogs[0] if which == "changelog" else f"{settings.app_id}-{which}"
    await alter(settings, topic, **configs)
    text = await problems_of(settings)
    assert f"topic {topic}: {told}" in text
    assert f"--alter --entity-type topics --entity-name {topic} --add-config" in text
    with pytest.raises(ConfigurationError) as caught:
        await create_or_verify(settings)
    assert str(caught.value) == text
    await alter(settings, topic, **{name: dict(_expected(settings, topic))[name] for name in configs})
    await verify(settings)


def _expected(settings: Settings, topic: str) -> Mapping[str, str]:
    (configs,) = (planned.configs for planned in plan(settings, 1) if planned.name == topic)
    return {name.replace(".", "_"): value for name, value in configs.items()}


async def test_looser_settings_will_do(settings: Settings) -> None:
    """Larger records, longer tombstones and a shorter intake are the owner's choice."""
    topics = AppTopics(settings.app_id)
    await create_or_verify(settings)
    await alter(settings, topics.failures, max_message_bytes=9_000_000, retention_ms=1000)
    await alter(settings, topics.changelogs[0], delete_retention_ms=-1 + 2**40)
    await verify(settings)


async def test_another_partition_count_is_refused_with_the_way_out(settings: Settings) -> None:
    """The count is fixed for an app id; both ways out are said, for every topic."""
    await create_or_verify(settings)
    text = await problems_of(settings.model_copy(update={"partitions": 3}))
    assert text.count("partitions is 2, expected 3") == len(AppTopics(settings.app_id).all)
    assert "set partitions to 2 (--partitions / DLQ_PARTITIONS), or choose another app_id" in text


async def test_too_few_copies_are_refused_on_demand(settings: Settings) -> None:
    """One copy warns; require_replication refuses it; more copies than brokers are refused before anything is made."""
    await create_or_verify(settings)
    text = await problems_of(settings.model_copy(update={"require_replication": 2}))
    assert "replication factor is 1, expected at least 2" in text
    other = settings.model_copy(update={"app_id": unique_name("app")})
    for changes, told in (
        ({"replication_factor": 3}, "replication_factor is 3, the cluster has 1 brokers"),
        ({"require_replication": 2}, "would get 1 copies, require_replication is 2"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            await create_or_verify(other.model_copy(update=changes))
    assert not set(AppTopics(other.app_id).all) & set(await list_topics(other.brokers))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        (b"key", b"value", "begins with a record that `dlq-stream init` did not write"),
        (MARKER_KEY, encode(Marker("x", "another-app")), "belongs to the app 'another-app'"),
    ],
)
async def test_a_changelog_of_something_else_is_refused(
    settings: Settings, key: bytes, value: bytes, told: str
) -> None:
    """State that is not ours is neither used nor marked."""
    topic = AppTopics(settings.app_id).changelogs[0]
    configs = {planned.name: planned.configs for planned in plan(settings, 1)}[topic]
    await create_topics(settings.brokers, topic, partitions=PARTITIONS, config=configs)
    await produce(settings.brokers, [Outgoing(topic, value, key, partition=0)])
    with pytest.raises(ConfigurationError, match=told):
        await create_or_verify(settings)
    assert len(await read_topic(settings.brokers, topic)) == 1


async def test_a_newer_format_is_refused_by_name(settings: Settings) -> None:
    """A worker that is too old says so before it has touched anything."""
    topic = AppTopics(settings.app_id).changelogs[0]
    configs = {planned.name: planned.configs for planned in plan(settings, 1)}[topic]
    await create_topics(settings.brokers, topic, partitions=PARTITIONS, config=configs)
    newer = json.dumps({"incarnation": "x", "format": MAJOR + 1, "app_id": settings.app_id}).encode()
    await produce(settings.brokers, [Outgoing(topic, newer, MARKER_KEY, partition=0)])
    with pytest.raises(UnsupportedFormat, match="upgrade this worker"):
        await create_or_verify(settings)


async def test_an_aborted_first_record_is_no_record(settings: Settings) -> None:
    """A marker that was never committed does not count, and reading past it does not hang."""
    topics = AppTopics(settings.app_id)
    configs = {planned.name: planned.configs for planned in plan(settings, 1)}[topics.changelogs[0]]
    await create_topics(settings.brokers, topics.changelogs[0], partitions=PARTITIONS, config=configs)
    aborted = Outgoing(topics.changelogs[0], encode(Marker("x", settings.app_id)), MARKER_KEY, partition=0)
    await produce(settings.brokers, [aborted], transactional_id=unique_name("t"), commit=False)
    await create_or_verify(settings)
    assert "x" not in (await verify(settings)).incarnations.values()


async def test_nobody_there(settings: Settings) -> None:
    """Both commands say so after the time given."""
    absent = settings.model_copy(update={"brokers": "127.0.0.1:1", "wait_seconds": 0.1})
    with pytest.raises(BrokersUnavailable):
        await create_or_verify(absent)
    with pytest.raises(BrokersUnavailable):
        await verify(absent)


async def test_reading_markers_has_a_deadline(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changelog that promises records and delivers none is an error, not a wait for ever."""
    await create_or_verify(settings)
    monkeypatch.setattr(markers, "READ_SECONDS_MAX", -1.0)

    class Mute:
        """A consumer whose partitions hold something that never comes."""

        async def end_offsets(self, partitions: list[object]) -> dict[object, int]:
            return dict.fromkeys(partitions, 1)

        async def beginning_offsets(self, partitions: list[object]) -> dict[object, int]:
            return dict.fromkeys(partitions, 0)

        async def getmany(self, *_: object, **__: object) -> dict[object, object]:
            return {}

        async def position(self, _: object) -> int:
            return 0

        def assign(self, _: object) -> None: ...

        def seek(self, *_: object) -> None: ...

        def pause(self, *_: object) -> None: ...

    with pytest.raises(BrokersUnavailable, match="not readable"):
        await markers.read_markers(Mute(), "a", {"t": 1})
