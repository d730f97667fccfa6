"""The topics in which a queue's retries come, where they do not come in the source topic itself.

Policy says where: the workers' default template, which cannot be seen from here and is ``{topic}-retry`` unless
somebody changed it, and the policies topic of the app, which can.  Topics that do not exist yet are looked for again,
since `init` or an operator may create them while consumers run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence

from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from dlq_stream.client.targets import check_topic
from dlq_stream.core.connection import Brokers
from dlq_stream.core.destinations import RETRY_TOPIC_TEMPLATE, check_retry_topic_template, retry_topic
from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError, NotAllowed
from dlq_stream.core.shown import shown
from dlq_stream.kafka import UNREACHABLE, admin_client, reader
from dlq_stream.reading import read_table

log = logging.getLogger(__name__)


def template_of(policy: bytes) -> str | None:
    """The template that a row of the policies topic names; None where it names none, or cannot be understood.

    More is read here than by a worker (`dlq_stream.settings.published`), which wants to understand all of it: a topic
    that is read in vain costs nothing, one that is not read loses retries of workers that are newer than this agent.
    """
    try:
        template = json.loads(policy).get("policy", {}).get("retry_topic")
        if template is None:
            return None
        if not isinstance(template, str):
            raise ConfigurationError(f"retry_topic: {shown(template)} is not a text")
        check_retry_topic_template(template)
    except (ValueError, AttributeError, RecursionError, ConfigurationError) as problem:
        log.warning("a policy cannot be understood, its retry topic is not read: %s", problem)
        return None
    return template


def candidates(topics: Iterable[str], queue: str | None, group: str, policies: Mapping[bytes, bytes]) -> set[str]:
    """Where retries of ``topics`` may come; ``queue`` is whose policy applies, each topic's own where it is None."""
    found: set[str] = set()
    for topic in topics:
        policy = policies.get((queue or topic).encode())
        named = None if policy is None else template_of(policy)
        found |= {retry_topic(template, topic, group) for template in (RETRY_TOPIC_TEMPLATE, named) if template}
    return found


class RetryTopics:
    """Looks for the retry topics of ``topics``: the ``given`` ones, else those that policy names."""

    def __init__(
        self,
        brokers: Brokers,
        app_id: str,
        group: str,
        topics: Sequence[str],
        *,
        queue: str | None = None,
        given: Sequence[str] | None = None,
    ) -> None:
        self._brokers = brokers
        self._policies = f"{app_id}-policies"
        self._group = group
        self._topics = topics
        self._queue = queue
        self._given = given
        self._forbidden: set[str] = set()
        self._told = False

    async def check_sources(self) -> None:
        """Raise ConfigurationError unless the topics themselves are there, and BrokersUnavailable."""
        for topic, code in (await self._codes(self._topics)).items():
            check_topic(topic, code, right="Read", fix="create it, or correct its name")

    async def look(self) -> frozenset[str]:
        """The retry topics that exist at the moment.  Raises BrokersUnavailable."""
        if self._given is not None:
            wanted = set(self._given)
        else:
            wanted = candidates(self._topics, self._queue, self._group, await self._read_policies())
        wanted -= set(self._topics)
        if not wanted:
            return frozenset()
        codes = await self._codes(sorted(wanted))
        self._tell_of_forbidden({topic for topic, code in codes.items() if code == TopicAuthorizationFailedError.errno})
        return frozenset(topic for topic, code in codes.items() if code == 0)

    def _tell_of_forbidden(self, topics: set[str]) -> None:
        for topic in sorted(topics - self._forbidden):
            log.warning("retry topic %s: not authorised to look at it; grant Describe and Read", topic)
        self._forbidden = topics

    async def _read_policies(self) -> Mapping[bytes, bytes]:
        try:
            async with admin_client(self._brokers) as admin:
                (described,) = await admin.describe_topics([self._policies])
            if described["error_code"]:
                return {}
            async with reader(self._brokers) as consumer:
                return await read_table(consumer, self._policies, len(described["partitions"]))
        except UNREACHABLE as error:
            raise BrokersUnavailable(f"{self._policies} could not be read: {error!r}") from error
        except (KafkaError, NotAllowed) as error:
            if not self._told:
                log.warning("%s could not be read, it may name retry topics: %s", self._policies, error)
            self._told = True
            return {}

    async def _codes(self, topics: Sequence[str]) -> dict[str, int]:
        """The error code of each topic; 0 where it exists and may be seen."""
        try:
            async with admin_client(self._brokers) as admin:
                described = await admin.describe_topics(list(topics))
        except (*UNREACHABLE, KafkaError) as error:
            raise BrokersUnavailable(f"topics {', '.join(topics)} could not be looked at: {error!r}") from error
        return {each["topic"]: each["error_code"] for each in described}
