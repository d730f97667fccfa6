"""One run of the demo as a value: names, seed, times and the shortened retry policy.

Every process of the demo gets the same plan (as JSON on its command line), so that they agree on the outage's instants
without talking to each other, and the verdict recomputes from it what ought to have happened.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from dlq_stream.core.connection import Connection
from dlq_stream.core.destinations import dead_letter_topic
from dlq_stream.core.policy import RetryPolicy
from dlq_stream.settings import load
from dlq_stream.settings.model import SECURITY_NAMES
from dlq_stream.settings.sources import PREFIX
from dlq_stream.topics.names import AppTopics

PARTITIONS = 4
WORKERS = 2
MAX_RETRIES = 6
INITIAL_BACKOFF_MS = 1_000
BACKOFF_MULTIPLIER = 2.0
MAX_BACKOFF_MS = 4_000
OUTAGE_SECONDS_MAX = 8.0
"""The outage ends well before the retries of its first victims do: 1 + 2 + 4 + 4 + 4 + 4 s."""
DRAIN_SLACK_SECONDS = 20.0
"""What a drain may take beyond the longest chain of backoffs: a worker's restart, a slow machine."""

_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does and when.  ``start_ms`` (epoch milliseconds) is when production starts."""

    name: str
    brokers: str
    seed: int
    seconds: float
    rate: float
    start_ms: int

    @property
    def connection(self) -> Connection:
        """The brokers, and how they let us in: that is in the environment, since passwords are no command line's."""
        return load({"brokers": self.brokers}).connection

    @property
    def app_id(self) -> str:
        """The workers' app id; not a prefix of the source's name, for workers write to no topic of that prefix."""
        return f"{self.name}-app"

    @property
    def source(self) -> str:
        """The topic with the readings."""
        return f"{self.name}-heat-processing"

    @property
    def dead_letters(self) -> str:
        """Where what was given up goes."""
        return dead_letter_topic(self.source)

    @property
    def results(self) -> str:
        """Where the agent appends its successes."""
        return f"{self.name}-heat-results"

    @property
    def failures(self) -> str:
        """Where failures are reported."""
        return AppTopics(self.app_id).failures

    @property
    def commands(self) -> str:
        """Where outcomes are reported."""
        return AppTopics(self.app_id).commands

    @property
    def group(self) -> str:
        """The agent's consumer group."""
        return f"{self.name}-heat-agents"

    @property
    def events_planned(self) -> int:
        """How many readings a full run writes."""
        return max(1, round(self.seconds * self.rate))

    @property
    def outage(self) -> tuple[float, float]:
        """When the sensor backend is down, in seconds from the start."""
        begin = 0.4 * self.seconds
        return begin, begin + min(0.15 * self.seconds, OUTAGE_SECONDS_MAX)

    @property
    def drain_seconds_max(self) -> float:
        """How long after the last reading everything has to be settled."""
        policy = retry_policy()
        chain = sum(
            min(policy.initial_backoff_ms * policy.backoff_multiplier**n, policy.max_backoff_ms)
            for n in range(policy.max_retries)
        )
        return chain / 1000 + DRAIN_SLACK_SECONDS

    def to_json(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote."""
        return cls(**json.loads(text))


def new_name() -> str:
    """``demo-`` and a random part, so that two demos on one cluster never meet."""
    return "demo-" + "".join(secrets.choice(_ALPHABET) for _ in range(6))


def retry_policy() -> RetryPolicy:
    """The shortened policy, as the workers and the verdict both compute it; no jitter, so the schedule is exact."""
    return RetryPolicy(
        max_retries=MAX_RETRIES,
        initial_backoff_ms=INITIAL_BACKOFF_MS,
        backoff_multiplier=BACKOFF_MULTIPLIER,
        max_backoff_ms=MAX_BACKOFF_MS,
    )


def worker_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: the shortened policy, and of the user's own settings how the brokers let us in."""
    security = {f"{PREFIX}{name.upper()}" for name in SECURITY_NAMES.values()}
    kept = {key: value for key, value in inherited.items() if not key.startswith(PREFIX) or key in security}
    return kept | {
        "DLQ_MAX_RETRIES": str(MAX_RETRIES),
        "DLQ_INITIAL_BACKOFF_SECONDS": str(INITIAL_BACKOFF_MS / 1000),
        "DLQ_BACKOFF_MULTIPLIER": str(BACKOFF_MULTIPLIER),
        "DLQ_MAX_BACKOFF_SECONDS": str(MAX_BACKOFF_MS / 1000),
    }
