"""Reading topics as a business consumer would: ``read_committed``, from the beginning.

Two ways of it: `read_all` reads topics to their present end, once, for the verdict; `follow` hands out what arrives,
for the screen.  Both use no group, commit nothing, and bring no topic into being.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition

from dlq_stream.core.connection import Brokers
from dlq_stream.core.errors import BrokersUnavailable
from dlq_stream.core.model import Record
from dlq_stream.kafka import admin_client, reader

POLL_MS = 250
READ_SECONDS_MAX = 60.0
"""`read_all` gives up when the brokers have not shown everything by then."""
LOOK_AGAIN_SECONDS = 1.0
"""How soon `follow` notices a topic that did not exist before."""


async def read_all(brokers: Brokers, topics: Collection[str]) -> dict[str, list[Record]]:
    """Every committed record of each topic, in order per partition; a topic that does not exist is empty.

    Raises BrokersUnavailable where that takes longer than `READ_SECONDS_MAX`.
    """
    try:
        async with asyncio.timeout(READ_SECONDS_MAX):
            return await _read_all(brokers, topics)
    except TimeoutError:
        raise BrokersUnavailable(f"{', '.join(topics)} could not be read within {READ_SECONDS_MAX:g} s") from None


async def _read_all(brokers: Brokers, topics: Collection[str]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {topic: [] for topic in topics}
    async with admin_client(brokers) as admin, reader(brokers) as consumer:
        partitions = await _partitions(admin, topics)
        if not partitions:
            return found
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        unread = {tp: end for tp, end in (await consumer.end_offsets(partitions)).items() if end > 0}
        while unread:
            for tp, records in (await consumer.getmany(timeout_ms=POLL_MS)).items():
                found[tp.topic] += [each for each in records if each.offset < unread.get(tp, 0)]
            # Positions also pass over what is not handed out: markers and aborted records.
            unread = {tp: end for tp, end in unread.items() if await consumer.position(tp) < end}
    return found


async def follow(brokers: Brokers, topics: Collection[str]) -> AsyncGenerator[Sequence[Record], None]:
    """Batches as they arrive, for as long as the caller asks; an empty batch says that nothing did."""
    async with admin_client(brokers) as admin, reader(brokers) as consumer:
        followed: list[TopicPartition] = []
        clock = asyncio.get_running_loop().time
        look_at = clock()
        while True:
            if clock() >= look_at and {tp.topic for tp in followed} != set(topics):
                look_at = clock() + LOOK_AGAIN_SECONDS
                followed = await _follow_more(consumer, followed, await _partitions(admin, topics))
            batches: Mapping[Any, list[Record]] = {}
            if followed:
                batches = await consumer.getmany(timeout_ms=POLL_MS)
            else:
                await asyncio.sleep(POLL_MS / 1000)
            yield [record for batch in batches.values() for record in batch]


async def _partitions(admin: Any, topics: Collection[str]) -> list[TopicPartition]:
    described = await admin.describe_topics(list(topics))
    return [
        TopicPartition(topic["topic"], each["partition"])
        for topic in described
        if not topic["error_code"]
        for each in topic["partitions"]
    ]


async def _follow_more(consumer: Any, old: list[TopicPartition], now: list[TopicPartition]) -> list[TopicPartition]:
    """Assign what is there now; assigning forgets positions, so those of the old ones are set again."""
    if len(now) == len(old):
        return old
    positions = {tp: await consumer.position(tp) for tp in old}
    consumer.assign(now)
    for tp in now:
        consumer.seek(tp, positions.get(tp, 0))
    return now
