"""Source topics: what `init --source` checks, tells and creates for them.

A source is somebody else's topic, so nothing about it is changed.  What its owner should know is said: which other
consumer groups will see its retries, and what about it keeps retries from being written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from dlq_stream.core.destinations import refusal_of_name, refusal_of_target, retry_topic
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.policy import Policies, RetryPolicy
from dlq_stream.kafka import admin_client
from dlq_stream.settings import Settings
from dlq_stream.topics.cluster import Cluster, Described
from dlq_stream.topics.plan import RECORD_ROOM_BYTES, Expectation, PlannedTopic, insync_expectation


@dataclass(slots=True)
class SourceReport:
    """What there is to say about one source topic."""

    topic: str
    partitions: int
    groups: list[str] = field(default_factory=list)
    """Consumer groups with committed offsets on it: all of them see retries that are emitted to it."""
    retry_topics: list[str] = field(default_factory=list)
    """Retry topics of its queue, where its policy emits to them."""
    created: list[str] = field(default_factory=list)
    """Those of them that were created now."""
    warnings: list[str] = field(default_factory=list)


async def prepare_sources(
    cluster: Cluster, settings: Settings, policies: Policies, sources: Sequence[str], copies: int
) -> list[SourceReport]:
    """Check the sources, find out who reads them, and create the retry topics that their ``policies`` want.

    Raises ConfigurationError that names every source that does not exist or may not be retried.
    """
    described = await cluster.describe(sources)
    problems = [problem for source in sources for problem in _problems(source, described, settings)]
    if problems:
        raise ConfigurationError("\n".join(problems))
    configs = await cluster.configs(sources)
    groups, hidden = await cluster.groups_of(sources)
    reports = []
    for source in sources:
        report = SourceReport(source, described[source].partitions, groups[source])
        policy = policies.for_queue(source)
        report.warnings += _warnings(configs[source], policy, settings)
        if hidden:
            report.warnings.append(f"{len(hidden)} consumer groups could not be looked at: {', '.join(hidden[:5])}")
        if policy.emit_to == "retry":
            report.retry_topics = _retry_topics(report, policy, settings)
            report.created = await _create_retry_topics(cluster, report, _limit(configs[source]), settings, copies)
        reports.append(report)
    return reports


async def readers_of(settings: Settings, topics: Collection[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The consumer groups with committed offsets, by topic; and the groups that we may not look at."""
    async with admin_client(settings.connection) as admin:
        return await Cluster(admin).groups_of(topics)


def _problems(source: str, described: Mapping[str, Described], settings: Settings) -> list[str]:
    refusal = refusal_of_name(source, app_id=settings.app_id, allowed=settings.allowed_topics)
    if refusal is not None:
        return [f"source {source}: {refusal}"]
    if source not in described:
        return [f"source {source} does not exist; create it first (sources are never created here)"]
    return []


def _limit(configs: Mapping[str, str | None]) -> int:
    return int(configs.get("max.message.bytes") or 0)


def _warnings(configs: Mapping[str, str | None], policy: RetryPolicy, settings: Settings) -> list[str]:
    warnings = []
    compacted = "compact" in (configs.get("cleanup.policy") or "")
    if compacted and policy.emit_to == "source" and not policy.write_compacted:
        warnings.append(
            "it is compacted, where a retry would make an old value the latest: its failures are escalated instead; "
            "set emit_to to retry, or write_compacted, for this queue"
        )
    if _limit(configs) > settings.record_bytes_max + RECORD_ROOM_BYTES:
        warnings.append(
            f"it takes records of up to {_limit(configs)} bytes, record_bytes_max is {settings.record_bytes_max}: "
            f"failures of larger ones cannot be reported"
        )
    return warnings


def _retry_topics(report: SourceReport, policy: RetryPolicy, settings: Settings) -> list[str]:
    """The names that the policy's template makes for this source: one, or one per group where it names the group."""
    per_group = "{group}" in policy.retry_topic
    if per_group and not report.groups:
        report.warnings.append(
            f"its retry topics {policy.retry_topic!r} are named after groups, and none has committed offsets yet: "
            f"create them, or run init again once there are some"
        )
    names = {retry_topic(policy.retry_topic, report.topic, group) for group in (report.groups if per_group else [""])}
    for name in sorted(names):
        refusal = refusal_of_target(name, app_id=settings.app_id)
        if refusal is not None:
            raise ConfigurationError(f"source {report.topic}: its retry topic: {refusal}")
    return sorted(names)


async def _create_retry_topics(
    cluster: Cluster, report: SourceReport, limit: int, settings: Settings, copies: int
) -> list[str]:
    existing = await cluster.describe(report.retry_topics)
    for name, there in existing.items():
        if there.partitions != report.partitions:
            report.warnings.append(
                f"retry topic {name} has {there.partitions} partitions, the source {report.partitions}: "
                f"retries of partitions that are missing there go by key"
            )
    missing = [
        PlannedTopic(
            name,
            report.partitions,
            settings.replication_factor,
            (
                Expectation("cleanup.policy", "delete"),
                Expectation("max.message.bytes", str(limit + RECORD_ROOM_BYTES), "at least"),
                insync_expectation(settings, copies),
            ),
            {},
        )
        for name in report.retry_topics
        if name not in existing
    ]
    await cluster.create(missing)
    return [topic.name for topic in missing]
