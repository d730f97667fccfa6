"""What the app's topics should be like, worked out from the settings alone: no broker is asked here.

A topic is created with all of it; of an existing one the expectations are verified, the rest is tuning and anybody's
choice.  Why each is what it is:

* *LogAppendTime*: the brokers' clock stamps what comes in, so that skew can be measured and no producer's clock counts.
* *Failures and commands are kept* for ``min(7 days, retention_days / 2)``, which is less than closed messages are, so
  that even a replay of all of them finds every row still there and changes nothing.  Segments roll in a fraction of
  that time, since only whole segments are deleted.
* *Sizes*: room for the original record and our headers; the quarantine adds the reason to what was too large already.
* *Changelogs are compacted*, with deleted rows' tombstones kept for a day: a local state older than that is rebuilt.
  Segments are small and roll daily, because the open one is never compacted and every restore reads it whole.
* *Policies* are compacted alike: the latest record of each queue is kept for as long as there is one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dlq_stream.settings import Settings
from dlq_stream.topics.names import AppTopics

DAY_MS = 86_400_000

INTAKE_RETENTION_MS_MAX = 7 * DAY_MS
"""Failures and commands are never kept longer than this."""

TOMBSTONES_KEPT_MS = DAY_MS
"""``delete.retention.ms`` of what is compacted; a local state that is older may have missed a deletion."""

COMPACTION_LAG_MS_MAX = 7 * DAY_MS
"""Purged rows, payloads included, are gone from the changelogs' files after about this time."""

RECORD_ROOM_BYTES = 64 * 1024
"""What app topics accept beyond ``record_bytes_max``: our headers, a capped stack trace included."""

QUARANTINE_ROOM_BYTES = 128 * 1024
"""What the quarantine accepts beyond ``record_bytes_max``."""

SEGMENT_MS_MIN = 60_000
CHANGELOG_SEGMENT_BYTES = 64 * 1024 * 1024

Rule = Literal["exactly", "at least", "at most"]


@dataclass(frozen=True, slots=True)
class Expectation:
    """A topic setting that must hold; -1 means "no limit" to Kafka, so it is more than every number."""

    setting: str
    value: str
    rule: Rule = "exactly"

    def holds(self, actual: str | None) -> bool:
        """Whether an existing topic's value will do."""
        if actual is None:
            return False
        if self.rule == "exactly":
            return _parts(actual) == _parts(self.value)
        low, high = (self.value, actual) if self.rule == "at least" else (actual, self.value)
        return _number(low) <= _number(high)

    def __str__(self) -> str:
        return f"{'' if self.rule == 'exactly' else f'{self.rule} '}{self.value}"


@dataclass(frozen=True, slots=True)
class PlannedTopic:
    """A topic as `init` creates it; replication factor -1 is the brokers' default."""

    name: str
    partitions: int
    replication_factor: int
    expectations: tuple[Expectation, ...]
    tuning: Mapping[str, str]

    @property
    def configs(self) -> dict[str, str]:
        """What the topic is created with."""
        return {expected.setting: expected.value for expected in self.expectations} | dict(self.tuning)


def plan(settings: Settings, copies: int) -> tuple[PlannedTopic, ...]:
    """All of the app's topics, given how many ``copies`` (replicas) a topic has or gets in this cluster."""
    topics = AppTopics(settings.app_id)
    intake = intake_retention_ms(settings)
    kept = {"retention.ms": str(intake), "segment.ms": str(max(SEGMENT_MS_MIN, min(intake // 4, DAY_MS)))}
    room = settings.record_bytes_max + RECORD_ROOM_BYTES

    def topic(name: str, cleanup: str, bytes_max: int, *more: Expectation, **tuning: str) -> PlannedTopic:
        expectations = (
            Expectation("cleanup.policy", cleanup),
            Expectation("message.timestamp.type", "LogAppendTime"),
            Expectation("max.message.bytes", str(bytes_max), "at least"),
            insync_expectation(settings, copies),
            *more,
        )
        named = {name.replace("_", "."): value for name, value in tuning.items()}
        return PlannedTopic(name, settings.partitions, settings.replication_factor, expectations, named)

    intake_rules = (
        Expectation("retention.ms", kept["retention.ms"], "at most"),
        Expectation("retention.bytes", "-1"),  # a full disk is seen, a dropped failure is not
    )
    return (
        topic(topics.failures, "delete", room, *intake_rules, segment_ms=kept["segment.ms"]),
        topic(topics.commands, "delete", room, *intake_rules, segment_ms=kept["segment.ms"]),
        topic(
            topics.quarantine,
            "delete",
            settings.record_bytes_max + QUARANTINE_ROOM_BYTES,
            Expectation("retention.ms", str(settings.retention_ms), "at least"),
            Expectation("retention.bytes", "-1"),
        ),
        *(
            topic(
                name,
                "compact",
                room,
                Expectation("delete.retention.ms", str(TOMBSTONES_KEPT_MS), "at least"),
                segment_bytes=str(CHANGELOG_SEGMENT_BYTES),
                segment_ms=str(DAY_MS),
                min_cleanable_dirty_ratio="0.2",
                max_compaction_lag_ms=str(COMPACTION_LAG_MS_MAX),
            )
            for name in (topics.policies, *topics.changelogs)
        ),
    )


def intake_retention_ms(settings: Settings) -> int:
    """How long failures and commands are kept: less than closed messages, whatever happens."""
    return max(1, min(INTAKE_RETENTION_MS_MAX, settings.retention_ms // 2))


def insync_expectation(settings: Settings, copies: int) -> Expectation:
    """``min.insync.replicas`` for so many copies: one broker may always be down, except where there is one copy."""
    return Expectation("min.insync.replicas", str(max(1, min(settings.min_insync_replicas, copies - 1))), "at least")


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.nan  # compares as false: an unreadable value does not hold
    return math.inf if number == -1 else number


def _parts(text: str) -> set[str]:
    return {part.strip() for part in text.split(",")}
