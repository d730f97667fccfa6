"""An agent that is killed: a `RetryConsumer` in a process of its own, which writes down what its handler is given.

    python -m tests.crash.agent BOOTSTRAP APP TOPIC GROUP JOURNAL

Each line of the journal is one write of ``+ partition offset key`` when a handler begins and of ``- partition offset``
when it returns, so that it survives a ``kill -9``.  Records at `fails` fail.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys

from dlq_stream import RetryConsumer
from dlq_stream.core.model import Record

SESSION_SECONDS = 3.0
"""How long the group waits for a member that was killed; the test's broker allows it."""
WORK_SECONDS_MAX = 0.01
FAILING = 10
"""One of so many records fails."""


def fails(partition: int, offset: int) -> bool:
    """Whether the record there is one that fails."""
    return (7 * partition + offset) % FAILING == 0


async def run(bootstrap: str, app: str, topic: str, group: str, journal: str) -> None:
    """Handle until told to end."""
    file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def handle(record: Record) -> None:
        key = (record.key or b"").decode()
        os.write(file, f"+ {record.partition} {record.offset} {key}\n".encode())
        await asyncio.sleep(random.uniform(0, WORK_SECONDS_MAX))
        if fails(record.partition, record.offset):
            raise TimeoutError("sensor backend timed out")
        os.write(file, f"- {record.partition} {record.offset}\n".encode())

    consumer = RetryConsumer(
        topic, group, handle, bootstrap, app_id=app, session_seconds=SESSION_SECONDS, commit_seconds=0.5
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consumer.stop)
    await consumer.run()


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
