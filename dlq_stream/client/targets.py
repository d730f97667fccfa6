"""The topics that a reporter writes to, looked at once before the first report.

A missing topic is found here, with its fix, and not by the first failure in the middle of the night.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError, for_code

from dlq_stream.core.connection import Brokers
from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError, NotAllowed
from dlq_stream.kafka import UNREACHABLE, admin_client

RECORD_BYTES_MAX_ASSUMED = 1_048_576 + 65_536
"""What the failures topic takes by default; assumed where the brokers do not tell (no right to DescribeConfigs)."""

_LIMIT = "max.message.bytes"


@dataclass(frozen=True, slots=True)
class Targets:
    """Names; no ``commands`` where outcomes are not reported."""

    failures: str
    commands: str | None


async def look_at_topics(brokers: Brokers, targets: Targets) -> int:
    """Check that the topics are there; returns the largest record in bytes that the failures topic takes.

    Raises ConfigurationError for a topic that is missing or that we may not see, and BrokersUnavailable.
    """
    topics = [topic for topic in (targets.failures, targets.commands) if topic is not None]
    try:
        async with admin_client(brokers) as admin:
            for described in await admin.describe_topics(topics):
                topic = described["topic"]
                fix = f"run `dlq-stream init --app-id {topic.rpartition('-')[0]}`, or set app_id"
                check_topic(topic, described["error_code"], right="Write", fix=fix)
            return await _limit_of(admin, targets.failures)
    except UNREACHABLE as error:
        raise BrokersUnavailable(f"the brokers at {brokers} went away: {error!r}") from error


def check_topic(topic: str, code: int, *, right: str, fix: str) -> None:
    """Raise what the error ``code`` of a described topic means; 0 is none.

    ConfigurationError for a missing topic (``fix`` says what helps), NotAllowed of ``right``, BrokersUnavailable.
    """
    if not code:
        return
    error = for_code(code)
    if error is UnknownTopicOrPartitionError:
        raise ConfigurationError(f"topic {topic} does not exist: {fix}")
    if error is TopicAuthorizationFailedError:
        raise NotAllowed(right, "topic", topic)
    if error.retriable:
        raise BrokersUnavailable(f"topic {topic}: {error.__name__}")
    raise ConfigurationError(f"topic {topic}: {error.__name__}")


async def _limit_of(admin: Any, topic: str) -> int:
    try:
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {_LIMIT: ""})])
        return next(int(entry[1]) for *_, entries in answer.resources for entry in entries if entry[0] == _LIMIT)
    except (KafkaError, StopIteration, ValueError):
        return RECORD_BYTES_MAX_ASSUMED
