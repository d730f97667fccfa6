"""Committed offsets: what an answer means, and what it does not mean."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition, errors
from aiokafka.structs import OffsetAndMetadata

from dlq_stream.kafka import client_options
from dlq_stream.runtime.committed import committed_offsets_of
from tests.kafka_clients import create_topics
from tests.kafka_fixture import LocalKafka, unique_name
from tests.runtime.fakes import in_virtual_time

ONE, TWO = TopicPartition("failures", 0), TopicPartition("failures", 1)


class Coordinator:
    """Answers as told."""

    group_id = "workers"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.dead = 0

    async def ensure_coordinator_known(self) -> None:
        return None

    def coordinator_dead(self) -> None:
        self.dead += 1

    async def _send_req(self, request: Any) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(*partitions: tuple[int, int, int], code: int = 0) -> Any:
    """Partition, offset and error code of each, and the code of the whole."""
    rows: Sequence[Any] = [(number, offset, -1, "", error, {}) for number, offset, error in partitions]
    return SimpleNamespace(error_code=code, topics=[("failures", rows, {})] if rows else [])


@in_virtual_time
async def test_offsets_are_those_that_were_committed() -> None:
    """-1 means that nothing was."""
    coordinator = Coordinator(answer((0, 17, 0), (1, -1, 0)))
    assert await committed_offsets_of(coordinator, [ONE, TWO]) == {ONE: 17, TWO: None}


@pytest.mark.parametrize("code", [14, 15, 16], ids=["loading", "not available", "moved"])
@in_virtual_time
async def test_a_coordinator_that_is_not_ready_has_not_said_that_nothing_was_committed(code: int) -> None:
    """The input would be read from its beginning."""
    coordinator = Coordinator(answer(code=code), answer((0, 17, 0)))
    assert await committed_offsets_of(coordinator, [ONE]) == {ONE: 17}
    assert coordinator.dead == (code != 14)


@in_virtual_time
async def test_what_is_not_answered_is_asked_again() -> None:
    """Partitions that are missing, offsets that are pending, an answer that is lost."""
    pending = answer((0, -1, 88), (1, 4, 0))
    coordinator = Coordinator(
        answer((1, 4, 0)), pending, errors.RequestTimedOutError(), pending, answer((0, 5, 0), (1, 4, 0))
    )
    assert await committed_offsets_of(coordinator, [ONE, TWO]) == {ONE: 5, TWO: 4}


@in_virtual_time
async def test_a_refusal_is_an_error() -> None:
    """Waiting would not help."""
    with pytest.raises(errors.GroupAuthorizationFailedError):
        await committed_offsets_of(Coordinator(answer(code=30)), [ONE])


async def test_a_real_coordinator(kafka: LocalKafka) -> None:
    """It speaks that version of the request."""
    topic, group = unique_name("input"), unique_name("workers")
    await create_topics(kafka.bootstrap, topic, partitions=2)
    one, two = TopicPartition(topic, 0), TopicPartition(topic, 1)
    async with AIOKafkaConsumer(**client_options(kafka.bootstrap), group_id=group) as consumer:
        consumer.assign([one, two])
        await consumer.commit({one: OffsetAndMetadata(3, "")})
        assert await committed_offsets_of(consumer._coordinator, [one, two]) == {one: 3, two: None}
