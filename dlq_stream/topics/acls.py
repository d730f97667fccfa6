"""What each role may do in Kafka, and no more: from the settings and the names of our topics, without asking brokers.

Rights that others imply are left out: Kafka takes Read and Write for Describe.  Producers without transactions need no
right on the cluster since Kafka 2.8, where Write on any topic allows idempotent writes (KIP-679).

A name that ends in ``*`` is a prefix (a prefixed ACL, KIP-290), except ``*`` alone, which is every resource.  The app's
own topics are allowed by prefix, so that a later version's new table needs no new ACL; so an app id should not begin
with another one's and a dash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from dlq_stream.core.destinations import dead_letter_topic, retry_topic
from dlq_stream.settings import Settings
from dlq_stream.topics.names import AppTopics

Kind = Literal["topic", "group", "transactional-id", "cluster"]
"""Kinds of resources, as the options of ``kafka-acls.sh`` name them."""

Role = Literal["init", "worker", "agent", "operator"]

ROLES: Final[dict[Role, str]] = {
    "init": "creates the app's topics and looks at sources, by `dlq-stream init`",
    "worker": "`dlq-stream worker`",
    "agent": "a consumer that reports its failures with the SDK",
    "operator": "a person with the commands of `dlq-stream`",
}
"""The roles, and who has them."""

SOURCE: Final = "<source>"
"""Stands for a source topic where none is named."""

AGENT_GROUP: Final = "<agent group>"
"""Stands for the consumer group of an agent, which only its owner knows."""


@dataclass(frozen=True, slots=True)
class Right:
    """``role`` may do ``operations`` to the resource of this kind and name; ``why`` where the operations do not say."""

    role: Role
    operations: tuple[str, ...]
    kind: Kind
    name: str
    why: str = ""

    @property
    def is_prefix(self) -> bool:
        """Whether all resources are meant whose names begin so."""
        return self.name.endswith("*") and self.name != "*"

    @property
    def literal(self) -> str:
        """The name as an ACL has it."""
        return self.name[:-1] if self.is_prefix else self.name


def rights_of(settings: Settings, sources: Sequence[str] = ()) -> tuple[Right, ...]:
    """All rights, role by role; for each of the ``sources``, or for one that is still to be named."""
    sources = sources or (SOURCE,)
    return (*_init(settings, sources), *_worker(settings, sources), *_agent(settings, sources), *_operator(settings))


def _init(settings: Settings, sources: Sequence[str]) -> Iterator[Right]:
    topics = AppTopics(settings.app_id)
    yield Right("init", ("Create", "Read", "Write", "DescribeConfigs"), "topic", _own(settings))
    yield Right("init", ("Write",), "transactional-id", topics.init_transaction)
    if settings.replication_factor == -1:
        yield Right("init", ("DescribeConfigs",), "cluster", "kafka-cluster", "not if replication_factor is set")
    for source in sources:
        yield Right("init", ("Describe", "DescribeConfigs"), "topic", source)
        for name in _retry_topics(settings, source):
            yield Right("init", ("Create", "Describe"), "topic", name)
    yield Right("init", ("Describe",), "group", "*", "to say who else reads the sources")


def _worker(settings: Settings, sources: Sequence[str]) -> Iterator[Right]:
    topics = AppTopics(settings.app_id)
    yield Right("worker", ("Read", "Write", "DescribeConfigs"), "topic", _own(settings))
    yield Right("worker", ("Read",), "group", settings.app_id)
    yield Right("worker", ("Write",), "transactional-id", f"{topics.worker_transactions}*")
    yield Right("worker", ("Describe",), "group", "*", "to warn of others that read the sources")
    for source in sources:
        yield Right("worker", ("Write", "DescribeConfigs"), "topic", source)
        yield Right("worker", ("Create", "Write", "DescribeConfigs"), "topic", dead_letter_topic(source))
        for name in _retry_topics(settings, source):
            yield Right("worker", ("Write", "DescribeConfigs"), "topic", name)


def _agent(settings: Settings, sources: Sequence[str]) -> Iterator[Right]:
    topics = AppTopics(settings.app_id)
    yield Right("agent", ("Write", "DescribeConfigs"), "topic", topics.failures)
    yield Right("agent", ("Write",), "topic", topics.commands, "outcomes")
    yield Right("agent", ("Read",), "topic", topics.policies, "where retries come")
    for source in sources:
        yield Right("agent", ("Read",), "topic", source)
        for name in _retry_topics(settings, source):
            yield Right("agent", ("Read",), "topic", name)
    yield Right("agent", ("Read",), "group", AGENT_GROUP)


def _operator(settings: Settings) -> Iterator[Right]:
    topics = AppTopics(settings.app_id)
    yield Right("operator", ("Read", "DescribeConfigs"), "topic", _own(settings))
    yield Right("operator", ("Write",), "topic", topics.commands)
    yield Right("operator", ("Write",), "topic", topics.policies, "policy set and apply")
    yield Right("operator", ("Write",), "topic", topics.failures, "quarantine retry")
    yield Right("operator", ("Describe",), "transactional-id", f"{topics.worker_transactions}*", "doctor")
    yield Right("operator", ("Describe",), "cluster", "kafka-cluster", "doctor")
    yield Right("operator", ("Describe",), "group", settings.app_id)


def _own(settings: Settings) -> str:
    return f"{settings.app_id}-*"


def _retry_topics(settings: Settings, source: str) -> tuple[str, ...]:
    """Where retries of a source go, if not to itself; a prefix where the name depends on the agents' groups."""
    policy = settings.policies().for_queue(source)
    if policy.emit_to != "retry":
        return ()
    template, group, _ = policy.retry_topic.partition("{group}")
    return (retry_topic(template, source, "") + ("*" if group else ""),)
