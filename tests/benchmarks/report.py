"""What a report costs: how long one call takes, alone and among others, and how many a second there are, against a bare
producer that writes the same records in whole batches.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from statistics import median

from aiokafka import AIOKafkaProducer

from dlq_stream import FailureReporter
from dlq_stream.client import PlainRecord
from dlq_stream.kafka import no_topic_creation
from tests.benchmarks.figure import Bench, Result, Row, at_least, table
from tests.benchmarks.lateness import spread
from tests.benchmarks.processes import PARTITIONS, deployed
from tests.benchmarks.records import readings
from tests.kafka_clients import read_topic
from tests.kafka_fixture import unique_name

BOUND = 0.3
ALONE_CALLS_PART = 80
"""One call of so many is made alone: each waits for its own batch."""
AMONG = 100
"""Calls at a time, as an agent makes whose consumer runs many handlers."""
MANY = 200
"""Calls at a time, as many as keep the connection busy."""
BATCH_BYTES = 262_144
GROUP = "heat-agents"


async def measure(bench: Bench) -> Result:
    """`report` per call, and per second against a bare producer's batches of the same records."""
    rounds = []
    for number in range(bench.sizes.pairs):
        rounds.append(await round_of(bench.bootstrap, bench.sizes.events // 2, number))
        *_, many, bare = rounds[-1]
        print(f"  round {number + 1}: {many[1]:,.0f}/s of {bare:,.0f}/s", file=sys.stderr, flush=True)
    return result_of(rounds)


Times = tuple[list[float], float]
"""Milliseconds that each call took, and calls per second."""
Round = tuple[Times, Times, Times, float]
"""Calls alone, among others, among as many as may be; and what the bare producer does per second."""


async def round_of(bootstrap: str, count: int, number: int) -> Round:
    """One round on topics of its own; the bare producer goes last or first."""
    async with deployed(bootstrap) as deployment:
        async with FailureReporter(bootstrap, GROUP, app_id=deployment.app) as reporter:
            await calls(reporter, count // 10, MANY, seed=1)  # what is imported, compiled and looked up at first
            alone = await calls(reporter, max(1, count // ALONE_CALLS_PART), 1, seed=2)
            among = await calls(reporter, count // 2, AMONG, seed=3)
            many = await calls(reporter, count, MANY, seed=4)
        written = await read_topic(bootstrap, deployment.failures)
        target = deployment.source
        bare = await whole_batches(bootstrap, target, written[:count])
    return alone, among, many, bare


def records_of(count: int, seed: int) -> Iterator[PlainRecord]:
    """What failed: each a record of its own."""
    topic = unique_name("heat")
    for number, (key, value, headers) in enumerate(readings(count, seed)):
        place, offset = number % PARTITIONS, number // PARTITIONS
        yield PlainRecord(topic, place, offset, 1_790_000_000_000 + number, key, value, tuple(headers))


async def calls(reporter: FailureReporter, count: int, at_a_time: int, seed: int) -> Times:
    """So many calls, so many at a time."""
    todo = iter([(record, an_error(record.offset)) for record in records_of(count, seed)])
    took: list[float] = []

    async def work() -> None:
        for record, error in todo:
            began = time.perf_counter()
            await reporter.report(record, error)
            took.append((time.perf_counter() - began) * 1e3)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_a_time)))
    return took, count / (time.perf_counter() - began)


def an_error(number: int) -> Exception:
    """One with a cause and a few frames, as an agent's are."""
    try:
        try:
            _fetch(number)
        except ConnectionError as error:
            raise TimeoutError(f"sensor backend timed out after {number} ms") from error
    except TimeoutError as error:
        return error
    raise AssertionError("it always fails")


def _fetch(number: int) -> None:
    _connect(number)


def _connect(number: int) -> None:
    raise ConnectionError(f"no answer from sensor {number}")


async def whole_batches(bootstrap: str, topic: str, written: Sequence[object]) -> float:
    """Records per second of a producer that is given whole batches and does nothing else (acks=all, idempotent)."""
    producer = no_topic_creation(
        AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            enable_idempotence=True,
            max_batch_size=BATCH_BYTES,
            max_request_size=2 * BATCH_BYTES,
        )
    )
    async with producer:
        await producer.partitions_for(topic)
        began = time.perf_counter()
        answers = []
        places = itertools.cycle(range(PARTITIONS))
        batch = producer.create_batch()
        for record in written:
            content = {"key": record.key, "value": record.value, "timestamp": None, "headers": list(record.headers)}
            if batch.append(**content) is None:
                batch.close()
                answers.append(await producer.send_batch(batch, topic, partition=next(places)))
                batch = producer.create_batch()
                batch.append(**content)
        batch.close()
        answers.append(await producer.send_batch(batch, topic, partition=next(places)))
        await asyncio.gather(*answers)
        return len(written) / (time.perf_counter() - began)


def result_of(rounds: Sequence[Round]) -> Result:
    """Medians over the rounds."""
    ratio = median(many[1] / bare for _, _, many, bare in rounds)
    rate = median(many[1] for _, _, many, _ in rounds)
    rows = [
        Row("`report`, one call at a time", _latency([alone for alone, *_ in rounds])),
        Row(f"`report`, {AMONG} calls at a time", _latency([among for _, among, *_ in rounds])),
        at_least(
            f"`report`, {MANY:,} calls at a time, against a bare producer's `send_batch` of the same records",
            ratio,
            BOUND,
            note=f"{rate:,.0f}/s",
        ),
    ]
    header = ["round", "bare, records/s", *(f"{n:,} at a time, calls/s" for n in (1, AMONG, MANY))]
    lines = [
        [str(number), f"{bare:,.0f}", *(f"{times[1]:,.0f}" for times in each)]
        for number, (*each, bare) in enumerate(rounds, start=1)
    ]
    return Result(rows, f"Reports, {PARTITIONS} partitions:\n\n{table(header, lines)}")


def _latency(rounds: Sequence[Times]) -> str:
    took = spread([ms for times, _ in rounds for ms in times])
    rate = median(per_second for _, per_second in rounds)
    return f"p50 {took.p50:.1f} ms, p99 {took.p99:.1f} ms ({rate:,.0f}/s)"
