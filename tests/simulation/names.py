"""Names and bounds of the simulated system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from dlq_stream.core.ids import partition_of
from dlq_stream.core.policy import Policies, RetryPolicy
from dlq_stream.topics.names import AppTopics

APP = "dlq-sim"
PARTITIONS = 3
TOPICS = AppTopics(APP)
FAILURES, COMMANDS, QUARANTINE = TOPICS.failures, TOPICS.commands, TOPICS.quarantine

STEPS = 500
"""What chaos does per seed, unless told otherwise."""

WORKERS = (1, 2, 3, 3, 4, 5)
"""How many workers there are, one of these."""

STANDBY_REPLICAS = (0, 0, 0, 1, 2)
"""How many copies of each partition workers keep, one of these."""

HEAT = "heat"
OVENS = "ovens"
OVENS_RETRY = "ovens-retry"
BOILERS = "boilers"
SOURCES = (HEAT, OVENS, BOILERS)
SOURCE_PARTITIONS = 2

RETENTION_MS = (60_000, 600_000)
"""Retention of closed messages, one of these; under the longer one the intake topics keep everything."""

TOMBSTONES_KEPT_MS = 100_000
"""A local state that was last complete longer ago is built anew."""

QUEUES_MAX = 3
ATTEMPTS_KEPT_MAX = 3
QUARANTINE_BYTES_MAX = 80_000

BOILERS_PER_SECOND_MAX = 6.0
"""What may be emitted of this queue, by all partitions together."""

_DEFAULT = RetryPolicy(
    max_retries=3, initial_backoff_ms=1_000, backoff_multiplier=2.0, max_backoff_ms=3_000, outcome_timeout_ms=6_000
)

POLICIES = Policies(
    default=_DEFAULT,
    by_queue={
        BOILERS: replace(_DEFAULT, emit_per_second_max=BOILERS_PER_SECOND_MAX),
        OVENS: RetryPolicy(
            max_retries=2,
            initial_backoff_ms=500,
            backoff_multiplier=3.0,
            max_backoff_ms=4_000,
            jitter="full",
            outcome_timeout_ms=5_000,
            emit_to="retry",
        ),
    },
)

PUBLISHED = (
    POLICIES,
    Policies(
        replace(_DEFAULT, max_retries=1, initial_backoff_ms=300),
        {**POLICIES.by_queue, BOILERS: replace(_DEFAULT, emit_per_second_max=BOILERS_PER_SECOND_MAX / 2)},
    ),
    Policies(replace(_DEFAULT, backoff_multiplier=1.0, jitter="equal"), {OVENS: POLICIES.by_queue[OVENS]}),
)
"""What an operator publishes, one after the other by chance; a worker goes by the latest that it has heard of."""


@lru_cache(maxsize=100_000)
def home_of(id_: bytes) -> int:
    """The partition of a message."""
    return partition_of(id_, PARTITIONS)


OUTCOME_TIMEOUT_SECONDS_MAX = 6.0
"""The longest of the policies above; whoever lags for longer is not waited for."""


@dataclass(frozen=True)
class Conditions:
    """What a run is like, where chance shall not decide.

    ``losses``: how many requests or answers get lost; ``doom``: whether processes are meant to die at crash points;
    ``weights``: how often chaos does what, by the names of its steps.
    """

    losses: float | None = None
    doom: bool = True
    weights: Mapping[str, float] = field(default_factory=dict)


ANY_CONDITIONS = Conditions()
