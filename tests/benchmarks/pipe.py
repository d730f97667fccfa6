"""The yardstick: a bare aiokafka pipe that consumes records and produces the same ones, in transactions.

    python -m tests.benchmarks.pipe BOOTSTRAP SOURCE TARGET GROUP TOTAL

It does nothing with the records, sends whole record batches, and commits with the consumed offsets every 0.5 s: about
the most that this client does on a machine, transactions included.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

COMMIT_SECONDS = 0.5
BATCH_BYTES = 1 << 20


async def pipe(bootstrap: str, source: str, target: str, group: str, total: int) -> None:
    """Move ``total`` records."""
    consumer = AIOKafkaConsumer(
        source,
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        transactional_id=f"{group}-producer",
        max_batch_size=BATCH_BYTES,
        max_request_size=BATCH_BYTES * 2,
        retry_backoff_ms=10,  # as the worker's: what a transaction waits for when its predecessor is still being ended
    )
    async with consumer, producer:
        moved = 0
        while moved < total:
            answers: list[Any] = []
            offsets: dict[TopicPartition, int] = {}
            async with producer.transaction():
                until = time.monotonic() + COMMIT_SECONDS
                while time.monotonic() < until and moved < total:
                    for place, records in (await consumer.getmany(timeout_ms=200, max_records=4_000)).items():
                        answers += await _send(producer, target, place.partition, records)
                        offsets[place] = records[-1].offset + 1
                        moved += len(records)
                await asyncio.gather(*answers)
                if offsets:
                    await producer.send_offsets_to_transaction(offsets, group)


async def _send(producer: AIOKafkaProducer, target: str, partition: int, records: list[Any]) -> list[Any]:
    """Hand over whole record batches; returns what to wait for."""
    answers = []
    batch = producer.create_batch()
    for record in records:
        content = {"key": record.key, "value": record.value, "timestamp": None, "headers": list(record.headers)}
        if batch.append(**content) is None:
            batch.close()
            answers.append(await producer.send_batch(batch, target, partition=partition))
            batch = producer.create_batch()
            batch.append(**content)
    batch.close()
    answers.append(await producer.send_batch(batch, target, partition=partition))
    return answers


if __name__ == "__main__":
    _, *names, records = sys.argv
    asyncio.run(pipe(names[0], names[1], names[2], names[3], int(records)))
