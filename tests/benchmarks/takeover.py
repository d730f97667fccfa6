"""Take-over after ``kill -9``: how long until the dead worker's retries go on, with a standby and without.

    python -m tests.benchmarks.takeover [--pending N] [--kills N] [--brokers HOST:PORT]

Two workers, half of the partitions each, hold so many pending messages.  One is killed and does not come back; the
other one takes its partitions over once the session has timed out, and a new worker with an empty disk joins for the
next kill.  Measured from the kill to the first retry of the dead worker's partitions that is visible to a
`read_committed` consumer and fell due after the kill, so that the dead worker cannot have emitted it.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median

from aiokafka import AIOKafkaConsumer, TopicPartition

from dlq_stream.core.ids import partition_of
from tests.benchmarks.figure import table
from tests.benchmarks.meter import follow
from tests.benchmarks.processes import PARTITIONS, WORKER, Deployment, Running, deployed, running
from tests.benchmarks.records import Event, fill, small_events
from tests.kafka_clients import consumer
from tests.kafka_fixture import local_kafka, missing_prerequisites

SESSION_SECONDS = 6
"""The workers' session time-out; the brokers' default minimum."""

PER_SECOND = 100
"""Retries that fall due all the time while a kill is measured."""
FIRST_DUE_SECONDS = 4.0
DUE_SECONDS = 60.0
PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 0.02

_COPIED = "standbys caught up: partitions"
_READY = "ready: partitions"
_OPENED = re.compile(r"opened partitions .* in ([\d.]+) s, (\d+) rows restored")


@dataclass(frozen=True, slots=True)
class TakeOver:
    """One kill: seconds to the first retry, of which to open the partitions, and how many rows that restored."""

    emitted: float
    opening: float
    rows: int


async def measured(bootstrap: str, replicas: int, pending: int, kills: int) -> list[TakeOver]:
    """So many take-overs with so many standby replicas."""
    async with deployed(
        bootstrap, standby_replicas=replicas, session_timeout_seconds=SESSION_SECONDS, log_level="info"
    ) as deployment:
        with ExitStack() as stack:
            workers = [stack.enter_context(running(WORKER, deployment.environment))]
            await workers[0].until_ready(PARTITIONS)
            sent = 0
            found = []
            for kill in range(kills):
                workers.append(stack.enter_context(running(WORKER, deployment.environment)))
                await _shared(workers)
                if kill == 0:
                    await fill(bootstrap, deployment.failures, _waiting(pending, deployment.source))
                    sent += pending
                due = int(PER_SECOND * DUE_SECONDS)
                await fill(bootstrap, deployment.failures, _trickle(due, kill, deployment.source))
                sent += due
                began = time.monotonic()
                processes = [worker.process for worker in workers]
                await follow(bootstrap, deployment.app, deployment.failures, sent, processes)
                if replicas:
                    await _copied(workers)
                await asyncio.sleep(max(0.0, FIRST_DUE_SECONDS - (time.monotonic() - began)))
                found.append(await _killed(workers.pop(0), workers[0], deployment))
            return found


async def _shared(workers: list[Running]) -> None:
    """Wait until both work on a half."""
    await _until(workers, lambda worker: len(worker.ready()) == PARTITIONS // len(workers))


async def _copied(workers: list[Running]) -> None:
    """Wait until each has caught up with what the other one owns, since they last shared the partitions."""
    await _until(workers, lambda worker: _COPIED in worker.log.read_text().rpartition(_READY)[2])


async def _until(workers: list[Running], holds: Callable[[Running], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(holds(worker) for worker in workers):
        if ended := [worker.process.returncode for worker in workers if worker.process.poll() is not None]:
            raise RuntimeError(f"ended with exit {ended} before a kill")
        if time.monotonic() > deadline:
            raise TimeoutError(f"the workers were not ready for a kill within {PATIENCE_SECONDS:g} s")
        await asyncio.sleep(LOOK_SECONDS)


async def _killed(dead: Running, heir: Running, deployment: Deployment) -> TakeOver:
    """Kill one and wait for a retry of its partitions."""
    partitions = dead.ready()
    async with consumer(deployment.bootstrap, isolation_level="read_committed") as client:
        places = [TopicPartition(deployment.source, number) for number in range(deployment.partitions)]
        client.assign(places)
        await client.seek_to_end(*places)
        for place in places:  # seeking is lazy, and must not be part of what is measured
            await client.position(place)
        now_ms = time.time_ns() // 1_000_000
        killed = time.monotonic()
        dead.process.kill()
        dead.process.wait()
        emitted = await _first_of(client, partitions, now_ms, heir) - killed
    opening, rows = _OPENED.findall(heir.log.read_text())[-1]
    return TakeOver(emitted, float(opening), int(rows))


async def _first_of(client: AIOKafkaConsumer, partitions: frozenset[int], instant_ms: int, heir: Running) -> float:
    """When a retry of these partitions was seen that fell due later than that."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for records in (await client.getmany(timeout_ms=100)).values():
            now = time.monotonic()
            for record in records:
                headers = dict(record.headers)
                home = partition_of(bytes.fromhex(headers["dlq-message-id"].decode()), PARTITIONS)
                if home in partitions and int(headers["dlq-due-at"]) > instant_ms:
                    return now
        if heir.process.poll() is not None:
            raise RuntimeError(f"the other worker ended with exit {heir.process.returncode}")
    raise TimeoutError(f"no retry came for {PATIENCE_SECONDS:g} s after the kill")


def _waiting(count: int, source: str) -> Iterator[Event]:
    """Failures that stay pending: their first retry is due in an hour."""
    return small_events(count, 0, source)


def _trickle(count: int, kill: int, source: str) -> Iterator[Event]:
    """Failures whose retries fall due at any millisecond of a minute."""
    rng = random.Random(kill)
    for key, value, headers in small_events(count, kill + 1, source):
        after_ms = rng.uniform(FIRST_DUE_SECONDS, DUE_SECONDS) * 1000
        yield key, value, [*headers, ("dlq-retry-after-ms", b"%d" % after_ms)]


def main() -> int:
    """Measure and print."""
    options = arguments().parse_args()
    if options.brokers is None and (missing := missing_prerequisites()):
        print(missing, file=sys.stderr)
        return 2
    rows = []
    with nullcontext(options.brokers) if options.brokers else own_broker() as bootstrap:
        for replicas in (0, 1):
            found = asyncio.run(measured(bootstrap, replicas, options.pending, options.kills))
            print(f"standby_replicas {replicas}: {found}", file=sys.stderr)
            rows.append(row_of(replicas, found))
    print(
        f"Take-over after `kill -9`, {options.pending:,} pending messages of 1 kB in {PARTITIONS} partitions, half "
        f"of them the dead worker's; session time-out {SESSION_SECONDS} s; median (longest) of {options.kills} kills:\n"
    )
    print(table(["`standby_replicas`", "first retry after, s", "opening partitions, s", "rows restored"], rows))
    print(f"\n{datetime.datetime.now(datetime.UTC):%Y-%m-%d}")
    return 0


@contextmanager
def own_broker() -> Iterator[str]:
    """The address of a broker that exists for this run only."""
    with local_kafka() as broker:
        yield broker.bootstrap


def row_of(replicas: int, found: list[TakeOver]) -> list[str]:
    """One line of the table."""
    emitted, opening = [each.emitted for each in found], [each.opening for each in found]
    return [
        str(replicas),
        f"{median(emitted):.1f} ({max(emitted):.1f})",
        f"{median(opening):.2f} ({max(opening):.2f})",
        f"{median(each.rows for each in found):,.0f}",
    ]


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.takeover", description="Measure take-overs.")
    parser.add_argument("--pending", type=int, default=200_000, help="pending messages (200000)")
    parser.add_argument("--kills", type=int, default=3, help="take-overs with each number of standbys (3)")
    parser.add_argument("--brokers", metavar="HOST:PORT", help="a broker of yours instead of one for this run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
