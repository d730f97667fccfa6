"""Create the app's topics, or verify them: what `init` does, and what a worker asks before it joins its group.

What exists is never changed: a topic's settings are its owner's.  A mismatch is an error that names topic, setting,
value, what is expected, and the command that fixes it; all mismatches are said at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dlq_stream.core.destinations import is_legal_topic
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.policy import Policies
from dlq_stream.kafka import admin_client, reader, wait_for_brokers
from dlq_stream.settings import Settings
from dlq_stream.settings.published import PublishedPolicies
from dlq_stream.topics.cluster import Cluster, Described
from dlq_stream.topics.markers import complete_markers, incarnations_of, read_markers
from dlq_stream.topics.names import AppTopics
from dlq_stream.topics.plan import PlannedTopic, insync_expectation, plan
from dlq_stream.topics.policies import take_all
from dlq_stream.topics.sources import SourceReport, prepare_sources

COPIES_WANTED = 3
"""Copies that a topic should have where the cluster has as many brokers."""


@dataclass(slots=True)
class Provisioned:
    """What `init` did and found."""

    created: list[str] = field(default_factory=list)
    verified: list[str] = field(default_factory=list)
    markers_written: int = 0
    warnings: list[str] = field(default_factory=list)
    sources: list[SourceReport] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verified:
    """What a worker may rely on once its topics are verified."""

    cluster_id: str
    incarnations: dict[str, str]
    """By changelog topic: which life of it this is."""
    tombstones_kept_ms: int
    """The smallest ``delete.retention.ms`` of the changelogs: older local state must be rebuilt."""
    warnings: tuple[str, ...]


async def create_or_verify(settings: Settings, sources: Sequence[str] = ()) -> Provisioned:
    """Create what is missing, verify what is there, mark the changelogs, and look at the ``sources``.

    Idempotent: run again, it completes what an interrupted run left and changes nothing else.  Raises
    ConfigurationError (a topic does not fit or cannot be created) and BrokersUnavailable.
    """
    await wait_for_brokers(settings.connection, settings.wait_seconds)
    done = Provisioned()
    topics = AppTopics(settings.app_id)
    async with admin_client(settings.connection) as admin:
        cluster = Cluster(admin)
        _, brokers = await cluster.id_and_brokers()
        copies = await _copies_to_come(cluster, settings, brokers)
        existing = await cluster.describe(topics.all)
        await _raise_mismatches(cluster, settings, existing)
        missing = [topic for topic in plan(settings, copies) if topic.name not in existing]
        if missing and copies < settings.require_replication:
            raise ConfigurationError(
                f"the app's topics would get {copies} copies, require_replication is {settings.require_replication}: "
                f"set replication_factor (--replication-factor / DLQ_REPLICATION_FACTOR); nothing was created"
            )
        await cluster.create(missing)
        done.created = [topic.name for topic in missing]
        done.verified = [name for name in topics.all if name in existing]
        described = await cluster.describe(topics.all)
        await _raise_mismatches(cluster, settings, described, complete=True)
        done.warnings = _warnings(settings, described, len(brokers))
        done.markers_written = await complete_markers(
            settings.connection, settings.app_id, _changelogs(topics, described)
        )
        if sources:
            published = PublishedPolicies(settings.policies())
            async with reader(settings.connection) as consumer:
                await take_all(consumer, topics.policies, described[topics.policies].partitions, published)
            done.warnings += published.problems.values()
            distinct = list(dict.fromkeys(sources))
            done.sources = await prepare_sources(cluster, settings, published.policies, distinct, copies)
    return done


async def create_retry_topics(
    settings: Settings, policies: Policies, queues: Sequence[str]
) -> tuple[list[SourceReport], list[str]]:
    """Create the retry topics of these queues' sources as ``init --source`` does, where ``policies`` want any.

    Returns what there is to say about each source, and the queues that are no topics: a queue is its source, unless
    failures name it otherwise.  Raises ConfigurationError and BrokersUnavailable.
    """
    wanted = [queue for queue in queues if policies.for_queue(queue).emit_to == "retry"]
    if not wanted:
        return [], []
    async with admin_client(settings.connection) as admin:
        cluster = Cluster(admin)
        _, brokers = await cluster.id_and_brokers()
        there = await cluster.describe([queue for queue in wanted if is_legal_topic(queue)])
        sources = [queue for queue in wanted if queue in there]
        copies = await _copies_to_come(cluster, settings, brokers) if sources else 0
        reports = await prepare_sources(cluster, settings, policies, sources, copies) if sources else []
    return reports, [queue for queue in wanted if queue not in there]


async def verify(settings: Settings) -> Verified:
    """What a worker asks before it joins: raises ConfigurationError unless every topic is as `init` leaves it.

    Waits for brokers for ``wait_seconds`` and raises BrokersUnavailable after that; raises UnsupportedFormat where the
    changelogs hold rows of a newer major version.
    """
    await wait_for_brokers(settings.connection, settings.wait_seconds)
    topics = AppTopics(settings.app_id)
    async with admin_client(settings.connection) as admin:
        cluster = Cluster(admin)
        cluster_id, brokers = await cluster.id_and_brokers()
        described = await cluster.describe(topics.all)
        await _raise_mismatches(cluster, settings, described, complete=True)
        configs = await cluster.configs(topics.changelogs)
    async with reader(settings.connection) as consumer:
        markers = await read_markers(consumer, settings.app_id, _changelogs(topics, described))
    return Verified(
        cluster_id=cluster_id,
        incarnations=incarnations_of(markers),
        tombstones_kept_ms=min(int(config["delete.retention.ms"] or 0) for config in configs.values()),
        warnings=tuple(_warnings(settings, described, len(brokers))),
    )


def _changelogs(topics: AppTopics, described: dict[str, Described]) -> dict[str, int]:
    return {name: described[name].partitions for name in topics.changelogs}


async def _copies_to_come(cluster: Cluster, settings: Settings, brokers: Sequence[int]) -> int:
    """How many copies a topic will get that is created now."""
    if settings.replication_factor > len(brokers):
        raise ConfigurationError(
            f"replication_factor is {settings.replication_factor}, the cluster has {len(brokers)} brokers: "
            f"lower it (--replication-factor / DLQ_REPLICATION_FACTOR), or add brokers"
        )
    if settings.replication_factor != -1:
        return settings.replication_factor
    default = await cluster.default_copies(brokers[0]) if brokers else None
    if default is None:
        raise ConfigurationError(
            "replication_factor is -1, the brokers' default, but the brokers do not tell it (permission "
            "DescribeConfigs on the cluster): set replication_factor (--replication-factor / DLQ_REPLICATION_FACTOR)"
        )
    return default


async def _raise_mismatches(
    cluster: Cluster, settings: Settings, described: dict[str, Described], *, complete: bool = False
) -> None:
    """Raise ConfigurationError with every mismatch of the topics described; ``complete``: and with those missing."""
    configs = await cluster.configs(list(described))
    problems = []
    for topic in plan(settings, 0):
        there = described.get(topic.name)
        if there is not None:
            problems += _mismatches(topic, there, configs[topic.name], settings)
        elif complete:
            problems.append(f"topic {topic.name} does not exist; run `dlq-stream init` for app_id {settings.app_id!r}")
    if problems:
        raise ConfigurationError("\n".join(problems))


def _mismatches(topic: PlannedTopic, there: Described, configs: dict[str, str | None], settings: Settings) -> list[str]:
    problems = []
    if there.partitions != topic.partitions:
        problems.append(
            f"topic {topic.name}: partitions is {there.partitions}, expected {topic.partitions}; it is fixed for an "
            f"app id: set partitions to {there.partitions} (--partitions / DLQ_PARTITIONS), or choose another app_id"
        )
    wanted = max(settings.require_replication, settings.replication_factor)
    if there.copies < wanted:
        problems.append(
            f"topic {topic.name}: replication factor is {there.copies}, expected at least {wanted}; "
            f"raise it with kafka-reassign-partitions.sh, or lower replication_factor / require_replication"
        )
    insync = insync_expectation(settings, there.copies)
    for expected in topic.expectations:
        expected = insync if expected.setting == insync.setting else expected
        if not expected.holds(configs.get(expected.setting)):
            problems.append(
                f"topic {topic.name}: {expected.setting} is {configs.get(expected.setting)}, expected {expected}; "
                f"kafka-configs.sh --bootstrap-server {settings.brokers} --alter --entity-type topics "
                f"--entity-name {topic.name} --add-config {expected.setting}={expected.value}"
            )
    return problems


def _warnings(settings: Settings, described: dict[str, Described], brokers: int) -> list[str]:
    copies = min(topic.copies for topic in described.values())
    wanted = min(COPIES_WANTED, brokers)
    if copies == 1:
        fix = f"; {brokers} brokers allow {wanted}: raise it with kafka-reassign-partitions.sh" if wanted > 1 else ""
        return [f"the topics of {settings.app_id} have one copy: losing that broker loses messages{fix}"]
    if copies < wanted:
        return [f"the topics of {settings.app_id} have {copies} copies, {brokers} brokers allow {wanted}"]
    return []
