"""Back at work after ``kill -9``: a worker with a stable instance id, started again at once as a supervisor would.

Retries come due all the time.  From the kill: until the worker says that it is ready, and until the first retry is
visible that fell due after the kill, so that the former process cannot have emitted it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.benchmarks.figure import Bench, Result, Row, at_most, table
from tests.benchmarks.meter import follow
from tests.benchmarks.processes import PARTITIONS, WORKER, Deployment, Running, deployed, directory, running
from tests.benchmarks.records import Event, fill, small_events
from tests.kafka_clients import consumer

SECONDS_MAX = 3.0
PER_SECOND = 300
KILL_EVERY_SECONDS = 8.0
"""About how long one kill takes, with the pause before it; retries fall due for that long."""
PAUSE_SECONDS = 2.0
FIRST_DUE_SECONDS = 3.0
PATIENCE_SECONDS = 30.0


async def measure(bench: Bench) -> Result:
    """Back at work after kill -9, with a stable instance id."""
    seconds = FIRST_DUE_SECONDS + KILL_EVERY_SECONDS * (bench.sizes.kills + 1)
    count = int(PER_SECOND * seconds)
    async with deployed(bench.bootstrap, instance_id="worker-1") as deployment:
        with directory() as data:
            comebacks = await _comebacks(deployment, data, count, seconds, bench.sizes.kills)
    ready, emitted = ([each[which] for each in comebacks] for which in (0, 1))
    lines = [[str(number), *(f"{each:.2f}" for each in both)] for number, both in enumerate(comebacks, start=1)]
    return Result(
        [
            at_most(
                "back at work after `kill -9` (stable instance id), until ready",
                median(ready),
                SECONDS_MAX,
                unit=" s",
                note=f"median of {len(ready)}, longest {max(ready):.1f} s",
                digits=1,
            ),
            Row("the same, until the first retry is visible that fell due after the kill", f"{median(emitted):.1f} s"),
        ],
        f"Back at work after `kill -9`, {PER_SECOND} retries due a second, {PARTITIONS} partitions:\n\n"
        + table(["kill", "ready, s", "first retry, s"], lines),
    )


async def _comebacks(
    deployment: Deployment, data: Path, count: int, seconds: float, kills: int
) -> list[tuple[float, float]]:
    """Seconds from each kill until the worker was ready, and until the first retry that it emitted was visible."""
    bootstrap, found = deployment.bootstrap, []
    async with consumer(bootstrap, isolation_level="read_committed") as client:
        client.assign([TopicPartition(deployment.source, number) for number in range(deployment.partitions)])
        with running(WORKER, deployment.environment, data) as worker:
            await worker.until_ready(deployment.partitions)
            await fill(bootstrap, deployment.failures, _spread(count, seconds, deployment.source))
            await follow(bootstrap, deployment.app, deployment.failures, count, [worker.process])
            await asyncio.sleep(FIRST_DUE_SECONDS)
            killed, first = _kill(worker, client)
        for _ in range(kills):
            with running(WORKER, deployment.environment, data) as worker:
                await worker.until_ready(deployment.partitions)
                ready = time.monotonic() - killed
                found.append((ready, await first - killed))
                await asyncio.sleep(PAUSE_SECONDS)
                killed, first = _kill(worker, client)
        first.cancel()
    return found


def _kill(worker: Running, client: AIOKafkaConsumer) -> tuple[float, asyncio.Task[float]]:
    """Kill it; returns when that was, and who waits for the first retry that fell due later."""
    now_ms = time.time_ns() // 1_000_000
    killed = time.monotonic()
    worker.process.kill()
    worker.process.wait()
    return killed, asyncio.create_task(_first_due_after(client, now_ms))


async def _first_due_after(client: AIOKafkaConsumer, instant_ms: int) -> float:
    """When the first retry was seen that fell due later than that."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for records in (await client.getmany(timeout_ms=100)).values():
            now = time.monotonic()
            if any(int(dict(record.headers)["dlq-due-at"]) > instant_ms for record in records):
                return now
    raise TimeoutError(f"no retry came for {PATIENCE_SECONDS:g} s after the kill")


def _spread(count: int, seconds: float, source: str) -> Iterator[Event]:
    """Failures whose retries fall due at any millisecond of the time that is left."""
    rng = random.Random(8)
    for key, value, headers in small_events(count, 8, source):
        after_ms = rng.uniform(FIRST_DUE_SECONDS, seconds) * 1000
        yield key, value, [*headers, ("dlq-retry-after-ms", b"%d" % after_ms)]
