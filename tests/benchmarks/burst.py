"""A burst: how fast retries go out that are all due at one instant, as a ``read_committed`` consumer sees them.

They are reported first, and then put to the same instant by an operator's command for each; the worker is idle when it
comes.  From the first that is visible to the last; against the transactional pipe of the same records.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence

from aiokafka import TopicPartition

from tests.benchmarks.figure import Bench, Result, at_least, table
from tests.benchmarks.intake import SMALL, pipe_speed
from tests.benchmarks.meter import Sample, follow, speed
from tests.benchmarks.processes import WORKER, Deployment, deployed, running
from tests.benchmarks.records import Event, fill, small_events
from tests.kafka_clients import consumer, create_topics

BOUND = 0.3
SETTLE_MS = 3_000
"""Between the last command that was obeyed and the instant."""
COMMANDS_PER_SECOND_LEAST = 3_000
"""How fast commands are obeyed at least: so far ahead is the instant."""
PATIENCE_SECONDS = 30.0
PIPED = 3
"""The pipe copies so many times more: of fewer it makes two commits, between which nothing is to be measured."""


async def measure(bench: Bench) -> Result:
    """Many retries due at one instant: emissions per second."""
    bootstrap, count = bench.bootstrap, bench.sizes.due
    async with deployed(bootstrap) as deployment:
        pipe = await _pipe(deployment, count * PIPED)
        made = list(small_events(count, 5, deployment.source))
        await fill(bootstrap, deployment.failures, iter(made))
        with running(WORKER, deployment.environment) as worker:
            await follow(bootstrap, deployment.app, deployment.failures, count, [worker.process])
            seconds = 1 + count / COMMANDS_PER_SECOND_LEAST
            due_ms = int((time.time() + seconds) * 1000) + SETTLE_MS
            await fill(bootstrap, deployment.commands, _rescheduled(made, due_ms))
            await follow(bootstrap, deployment.app, deployment.commands, count, [worker.process])
            if time.time_ns() // 1_000_000 > due_ms:
                raise TimeoutError(f"putting {count:,} messages to one instant took more than {seconds:.0f} s")
            before = worker.cpu_seconds()
            emitted = speed(await _emissions(deployment, count), count)
            cpu = (worker.cpu_seconds() - before) / count * 1e6
    what = f"{count:,} retries of {SMALL} due at one instant, against that pipe"
    row = at_least(what, emitted.per_second / pipe, BOUND, note=f"{emitted.per_second:,.0f}/s")
    header = ["emission", "pipe, events/s", "worker, emissions/s", "worker, CPU µs/emission"]
    line = [f"{count:,}", f"{pipe:,.0f}", f"{emitted.per_second:,.0f}", f"{cpu:.0f}"]
    return Result([row], f"Retries due at one instant:\n\n{table(header, [line])}")


async def _pipe(deployment: Deployment, count: int) -> float:
    topic = f"{deployment.app}.records"
    await create_topics(deployment.bootstrap, topic, partitions=deployment.partitions)
    await fill(deployment.bootstrap, topic, small_events(count, 4, deployment.source))
    return (await pipe_speed(deployment, topic, count)).per_second


def _rescheduled(made: Sequence[Event], due_ms: int) -> Iterator[Event]:
    for key, _, _ in made:
        order = {"type": "reschedule", "message_id": key.decode(), "revision": 1, "due_at": due_ms}
        yield key, json.dumps(order).encode(), []


async def _emissions(deployment: Deployment, count: int) -> list[Sample]:
    """How many were visible when, from none to all."""
    async with consumer(deployment.bootstrap, isolation_level="read_committed") as client:
        client.assign([TopicPartition(deployment.source, number) for number in range(deployment.partitions)])
        samples = [Sample(time.monotonic(), 0)]
        while samples[-1].records < count:
            fetched = await client.getmany(timeout_ms=200)
            now = time.monotonic()
            if fetched:
                samples.append(Sample(now, samples[-1].records + sum(map(len, fetched.values()))))
            elif now - samples[-1].at_seconds > PATIENCE_SECONDS:
                raise TimeoutError(f"{samples[-1].records:,} of {count:,} retries came")
        return samples
