"""Asks the brokers about destinations, and creates missing ``-dlq`` topics, through an admin client."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code

from dlq_stream.core.destinations import DEAD_LETTER_SUFFIX
from dlq_stream.core.transaction import Destination
from dlq_stream.kafka import no_topic_creation

log = logging.getLogger(__name__)

_TOPIC_ERRORS = {3: "missing", 17: "invalid-name", 29: "not-authorised"}
_ALREADY_EXISTS = 36
DEAD_LETTER_EXTRA_BYTES = 65_536
"""A ``-dlq`` topic takes records this much larger than its source: the record plus our headers."""

SOURCELESS_MAX = 100
"""``-dlq`` topics that one process creates for sources that do not exist.  Whoever writes failure events names their
topics, and must not fill a cluster with them; at the bound dead letters wait, with a reason that says what to do."""


class KafkaTopicSource:
    """`dlq_stream.runtime.destinations.TopicSource` on Kafka's admin protocol.

    A ``-dlq`` topic takes after its source.  Where the source does not exist (it was deleted while its messages were
    on their way round), the topic is created all the same, or they would stay unwritten until somebody brought the
    source back: with ``partitions``, the app's own number, and room for records of ``record_bytes_max``.  A source that
    may not be looked at is no such case: it may well exist, with other numbers.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        dead_letter_retention_ms: int,
        replication_factor: int,
        partitions: int,
        record_bytes_max: int,
    ) -> None:
        self._options = options
        self._retention_ms = dead_letter_retention_ms
        self._replication_factor = replication_factor
        self._partitions = partitions
        self._record_bytes_max = record_bytes_max
        self._sourceless = 0
        self._client: AIOKafkaAdminClient | None = None

    async def describe(self, topics: Collection[str]) -> Mapping[str, Destination]:
        """See `TopicSource.describe`."""
        try:
            found = await self._describe(topics)
            await self._create_dead_letters(found)
            return found
        except BaseException:
            await self.close()  # the next look-up starts afresh
            raise

    async def close(self) -> None:
        """End the admin client."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _started(self) -> AIOKafkaAdminClient:
        if self._client is None:
            client = no_topic_creation(AIOKafkaAdminClient(**self._options))
            await client.start()
            self._client = client
        return self._client

    async def _describe(self, topics: Collection[str]) -> dict[str, Destination]:
        client = await self._started()
        found: dict[str, Destination] = {}
        for description in await client.describe_topics(list(topics)):
            topic = description["topic"]
            error = description["error_code"]
            refusal = _TOPIC_ERRORS.get(error, f"unusable ({for_code(error).__name__})") if error else None
            found[topic] = Destination(topic, partitions=len(description["partitions"]), refusal=refusal)
        present = [topic for topic, known in found.items() if known.refusal is None]
        for topic, config in (await self._configs(client, present)).items():
            known = found[topic]
            found[topic] = Destination(
                topic,
                partitions=known.partitions,
                compacted="compact" in config.get("cleanup.policy", ""),
                record_bytes_max=int(config.get("max.message.bytes", known.record_bytes_max)),
            )
        return found

    async def _configs(self, client: AIOKafkaAdminClient, topics: list[str]) -> dict[str, dict[str, str]]:
        """Settings by topic; a topic whose settings we may not read is left out, and counts as an ordinary one."""
        if not topics:
            return {}
        wanted = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
        found: dict[str, dict[str, str]] = {}
        for response in await client.describe_configs(wanted):
            for error, _message, _kind, topic, entries in response.resources:
                if error:
                    log.warning("the settings of topic %s cannot be read: %s", topic, for_code(error).__name__)
                else:
                    found[topic] = {entry[0]: entry[1] for entry in entries}
        return found

    async def _create_dead_letters(self, found: dict[str, Destination]) -> None:
        for topic in [t for t, known in found.items() if known.refusal == "missing" and t.endswith(DEAD_LETTER_SUFFIX)]:
            source = topic.removesuffix(DEAD_LETTER_SUFFIX)
            like = (await self._describe([source]))[source]
            if like.refusal is None:
                found[topic] = await self._create(topic, like)
            elif like.refusal == "missing":
                found[topic] = await self._create_sourceless(topic, source)

    async def _create_sourceless(self, topic: str, source: str) -> Destination:
        if self._sourceless >= SOURCELESS_MAX:
            return Destination(
                topic,
                refusal=f"missing, like its source, and this worker has created {SOURCELESS_MAX} such topics already: "
                f"create it, or restart the worker",
            )
        like = Destination(source, partitions=self._partitions, record_bytes_max=self._record_bytes_max)
        created = await self._create(topic, like)
        if created.refusal is None:
            self._sourceless += 1
            log.warning("topic %s does not exist; %s is as wide as the app's own topics", source, topic)
        return created

    async def _create(self, topic: str, like: Destination) -> Destination:
        client = await self._started()
        limit = like.record_bytes_max + DEAD_LETTER_EXTRA_BYTES
        configs = {
            "cleanup.policy": "delete",  # whatever the brokers' defaults are: every letter is kept
            "retention.ms": str(self._retention_ms),  # for so long,
            "retention.bytes": "-1",  # however many there are
            "max.message.bytes": str(limit),
        }
        new = NewTopic(topic, like.partitions, max(1, self._replication_factor), topic_configs=configs)
        new.replication_factor = self._replication_factor  # NewTopic refuses -1, the brokers' default (KIP-464)
        response = await client.create_topics([new])
        for _name, error, *message in response.topic_errors:
            if error == _ALREADY_EXISTS:  # another worker was faster
                return (await self._describe([topic]))[topic]
            if error:
                reason = f"missing, and its creation was refused: {for_code(error).__name__} {message[0] or ''}".strip()
                log.warning("topic %s: %s", topic, reason)
                return Destination(topic, refusal=reason)
        log.info("created topic %s with %d partitions", topic, like.partitions)
        return Destination(topic, partitions=like.partitions, record_bytes_max=limit)
