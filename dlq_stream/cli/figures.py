"""The cluster-wide figures, read from Kafka alone: no worker is asked, none needs to run.

The changelog of the table `stats` is read whole, committed records only; the latest row of each queue and partition
counts, and a queue's figures are the sums over its partitions.  What no worker has processed yet is the group's lag on
the failures and commands topics.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.kafka import admin_client, reader, wait_for_brokers
from dlq_stream.reading import read_table, records_until
from dlq_stream.settings import Settings
from dlq_stream.tables import stats
from dlq_stream.tables.marker import MARKER_KEY
from dlq_stream.tables.stats import PARTITION_QUEUE, Stats
from dlq_stream.topics import AppTopics
from dlq_stream.topics.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Figures:
    """What there is to know at one moment; instants are epoch milliseconds."""

    app_id: str
    as_of_ms: int
    """When this was read, by this machine's clock."""
    partitions: int
    queues: Mapping[str, Stats]
    """By queue, summed over partitions; in the order of names."""
    own: Stats
    """What belongs to no queue: events quarantined and forwarded, commands without a message."""
    lag: Mapping[str, int]
    """Records that the workers have not processed yet, for ``failures`` and ``commands``."""

    @property
    def total(self) -> Stats:
        """The sum over queues."""
        return stats.total(self.queues.values())

    @property
    def updated_ms(self) -> int | None:
        """When a worker last changed a figure, by its clock; None where none ever did."""
        return max((row.updated_ms for row in [*self.queues.values(), self.own]), default=0) or None


async def read_figures(settings: Settings) -> Figures:
    """Read them.  Raises BrokersUnavailable, and ConfigurationError where the app's topics do not exist."""
    await wait_for_brokers(settings.connection, settings.wait_seconds)
    topics = AppTopics(settings.app_id)
    table = stats.TABLE.changelog(settings.app_id)
    intake = {"failures": topics.failures, "commands": topics.commands}
    async with admin_client(settings.connection) as admin:
        cluster = Cluster(admin)
        found = await cluster.describe([table, *intake.values()])
        missing = sorted({table, *intake.values()} - set(found))
        if missing:
            raise ConfigurationError(
                f"topic {missing[0]} does not exist; check app_id {settings.app_id!r}, or run `dlq-stream init`"
            )
        committed = await cluster.offsets(settings.app_id)
    async with reader(settings.connection) as consumer:
        rows = await read_table(consumer, table, found[table].partitions)
        lag = {name: await _lag(consumer, topic, found[topic].partitions, committed) for name, topic in intake.items()}
    rows.pop(MARKER_KEY, None)
    queues = _by_queue(rows)
    return Figures(
        app_id=settings.app_id,
        as_of_ms=time.time_ns() // 1_000_000,
        partitions=found[table].partitions,
        own=queues.pop(PARTITION_QUEUE, Stats()),
        queues=dict(sorted(queues.items())),
        lag=lag,
    )


async def _lag(
    consumer: AIOKafkaConsumer, topic: str, partitions: int, committed: Mapping[tuple[str, int], int]
) -> int:
    """Offsets between what the group committed and the end; nothing where only transaction markers are between."""
    places = [TopicPartition(topic, number) for number in range(partitions)]
    consumer.assign(places)
    begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    starts = {place: max(begins[place], committed.get((topic, place.partition), 0)) for place in places}
    behind = {place: ends[place] - starts[place] for place in places if ends[place] > starts[place]}
    for place in places:
        consumer.seek(place, starts[place])
    consumer.pause(*(set(places) - set(behind)))
    real: set[TopicPartition] = set()
    async for record in records_until(consumer, {place: ends[place] for place in behind}):
        place = TopicPartition(record.topic, record.partition)
        if place not in real:  # one record tells; the others need not be read
            real.add(place)
            consumer.seek(place, ends[place])
    return sum(behind[place] for place in real)


def _by_queue(rows: Mapping[bytes, bytes]) -> dict[str, Stats]:
    parts: defaultdict[str, list[Stats]] = defaultdict(list)
    for key, value in rows.items():
        parts[stats.split_key(key)[0]].append(stats.codec.decode(value))
    return {queue: stats.total(found) for queue, found in parts.items()}
