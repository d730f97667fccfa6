"""Reading topics whole, up to where they ended when one began: for those who look at state from outside.

Positions, not records, tell how far it is: transaction markers and aborted records take offsets that nobody is given.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from dlq_stream.core.errors import BrokersUnavailable

STALL_SECONDS_MAX = 20.0
"""Reading that makes no progress for this long counts as brokers that do not answer."""

RECORDS_AT_ONCE_MAX = 5_000
"""So many records are unpacked at a time: a fetched megabyte of small ones, compressed, may be a hundred thousand."""


async def read_table(consumer: AIOKafkaConsumer, topic: str, partitions: int) -> dict[bytes, bytes]:
    """The latest value of each key of a compacted topic, whose partitions never share a key; deleted ones left out."""
    rows: dict[bytes, bytes] = {}
    places = [TopicPartition(topic, number) for number in range(partitions)]
    consumer.assign(places)
    ends = await consumer.end_offsets(places)
    await consumer.seek_to_beginning(*places)
    async for record in records_until(consumer, ends):
        if record.value is None:
            rows.pop(record.key, None)
        elif record.key is not None:
            rows[record.key] = record.value
    return rows


async def records_between(
    consumer: AIOKafkaConsumer, positions: dict[TopicPartition, int], ends: Mapping[TopicPartition, int]
) -> AsyncIterator[ConsumerRecord]:
    """Every committed record from ``positions`` to ``ends``, where the positions are put afterwards.

    For those who look again and again.  What the consumer was given beyond the ends is read anew the next time.
    """
    for place, position in positions.items():
        if await consumer.position(place) != position:
            consumer.seek(place, position)
    async for record in records_until(consumer, {place: end for place, end in ends.items() if end > positions[place]}):
        yield record
    for place, end in ends.items():
        positions[place] = max(positions[place], end)


async def records_until(
    consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]
) -> AsyncIterator[ConsumerRecord]:
    """Every committed record from the current positions to ``ends``; the consumer's positions may end beyond."""
    progress = time.monotonic()
    positions = {place: await consumer.position(place) for place in ends}
    while waiting := [place for place, position in positions.items() if position < ends[place]]:
        for place, records in (
            await consumer.getmany(*waiting, timeout_ms=200, max_records=RECORDS_AT_ONCE_MAX)
        ).items():
            for record in records:
                if record.offset < ends[place]:
                    yield record
        moved = {place: await consumer.position(place) for place in waiting}
        if any(moved[place] != positions[place] for place in waiting):
            progress = time.monotonic()
        elif time.monotonic() - progress > STALL_SECONDS_MAX:
            raise BrokersUnavailable(f"{waiting[0].topic} could not be read to its end")
        positions |= moved
