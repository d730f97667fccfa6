"""What `retry-consumer` measures, each in a process of its own: a consumer that does nothing with its records.

    python -m tests.benchmarks.consuming KIND BOOTSTRAP APP TOPIC GROUP

KIND ``bare`` is aiokafka's consumer, about the most that can be had: it reads at ``read_committed``, looks at each
record and commits.  ``async`` and ``plain`` are a `RetryConsumer` with a handler that does nothing, ``failing`` one
whose handler fails every tenth record.  All commit every `COMMIT_SECONDS`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time

from aiokafka import AIOKafkaConsumer, TopicPartition

from dlq_stream import RetryConsumer
from dlq_stream.core.model import Record

COMMIT_SECONDS = 0.2
FAILING = 10
"""One of so many records fails."""


async def bare(bootstrap: str, topic: str, group: str) -> None:
    """Read and commit until told to end."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    async with consumer:
        offsets: dict[TopicPartition, int] = {}
        commit_at = time.monotonic() + COMMIT_SECONDS
        while True:
            for place, records in (await consumer.getmany(timeout_ms=100, max_records=1_000)).items():
                for record in records:
                    do_nothing(record)
                offsets[place] = records[-1].offset + 1
            if offsets and time.monotonic() >= commit_at:
                await consumer.commit(offsets)
                offsets = {}
                commit_at = time.monotonic() + COMMIT_SECONDS


def do_nothing(record: Record) -> None:
    """A plain handler."""


async def do_nothing_either(record: Record) -> None:
    """An ``async`` one."""


async def fail(record: Record) -> None:
    """One that fails now and then."""
    if record.offset % FAILING == 0:
        raise TimeoutError("sensor backend timed out")


HANDLERS = {"async": do_nothing_either, "plain": do_nothing, "failing": fail}


async def looked_after(kind: str, bootstrap: str, app: str, topic: str, group: str) -> None:
    """The same with a `RetryConsumer`."""
    consumer = RetryConsumer(topic, group, HANDLERS[kind], bootstrap, app_id=app, commit_seconds=COMMIT_SECONDS)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consumer.stop)
    await consumer.run()


if __name__ == "__main__":
    _, kind, *names = sys.argv
    asyncio.run(bare(names[0], *names[2:]) if kind == "bare" else looked_after(kind, *names))
