"""Reading topics up to where they ended, again and again."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition

from dlq_stream.kafka import reader
from dlq_stream.reading import records_between
from tests.kafka_clients import Outgoing, create_topics, produce
from tests.kafka_fixture import LocalKafka, unique_name


@pytest.mark.kafka
async def test_between_two_looks_nothing_is_lost_and_nothing_comes_twice(kafka: LocalKafka) -> None:
    """Though a fetch brings more than was asked for: what lies beyond the end comes with the next look."""
    topic = unique_name("topic")
    await create_topics(kafka.bootstrap, topic, partitions=2)
    await produce(kafka.bootstrap, [Outgoing(topic, b"%d" % n, partition=n % 2) for n in range(40)])
    places = [TopicPartition(topic, number) for number in range(2)]
    positions = dict.fromkeys(places, 2)
    seen: list[int] = []
    async with reader(kafka.bootstrap) as consumer:
        consumer.assign(places)
        for ends in ((5, 3), (5, 12), (4, 20), (20, 20)):
            wanted = dict(zip(places, ends, strict=True))
            async for record in records_between(consumer, positions, wanted):
                assert record.offset < wanted[TopicPartition(topic, record.partition)]
                seen.append(int(record.value))
    assert sorted(seen) == list(range(4, 40))
    assert positions == dict.fromkeys(places, 20)
