"""Lateness: how long after its due instant a retry is visible to a ``read_committed`` consumer, at a steady rate.

Two loads: three retries after 1, 2 and 4 s of backoff, and one retry after any millisecond of 1 to 20 s, which the
event asks for.  What the worker's processor time was is said of the first.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.agent import FailingAgent
from tests.benchmarks.figure import Bench, Result, Row, at_most, table
from tests.benchmarks.processes import PARTITIONS, WORKER, deployed, running
from tests.benchmarks.records import Event, small_events

P99_MS_MAX = 60.0
CPU_SECONDS_MAX = 30.0
CPU_SECONDS_OF = 60.0
"""The bound of processor seconds is of a load of so many seconds."""

RETRIES = 3
BACKOFF = {"max_retries": RETRIES, "initial_backoff_seconds": 1, "backoff_multiplier": 2}
AFTER_MS = (1_000, 20_000)


@dataclass(frozen=True, slots=True)
class Spread:
    """Some milliseconds: how they are spread."""

    count: int
    least: float
    p50: float
    p99: float
    most: float

    def row(self, name: str) -> list[str]:
        """A row of a table."""
        numbers = (f"{value:,.1f}" for value in (self.least, self.p50, self.p99, self.most))
        return [name, f"{self.count:,}", *numbers]


def spread(values: Sequence[float]) -> Spread:
    """Of one value at least; a percentile is the value that so many per cent are not above (nearest rank)."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("nothing was measured")

    def percentile(percent: int) -> float:
        return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]

    return Spread(len(ordered), ordered[0], percentile(50), percentile(99), ordered[-1])


def rows_of(what: str, hops: Mapping[int, Sequence[float]]) -> list[Row]:
    """The bounds of a load: the worst hop's p99, and that nothing came early."""
    spreads = [spread(late) for late in hops.values()]
    worst = max(spreads, key=lambda each: each.p99)
    note = f"p50 {worst.p50:.0f} ms, largest {max(each.most for each in spreads):.0f} ms"
    early = sum(value < 0 for late in hops.values() for value in late)
    return [
        at_most(f"lateness {what}, p99", worst.p99, P99_MS_MAX, unit=" ms", note=note),
        at_most(f"retries that came early, {what}", early, 0),
    ]


def details(title: str, hops: Mapping[int, Sequence[float]]) -> str:
    """How late each hop was."""
    lines = [spread(late).row(f"retry {attempt}") for attempt, late in sorted(hops.items())]
    return f"{title}\n\n" + table(["hop", "retries", "least, ms", "p50, ms", "p99, ms", "largest, ms"], lines)


async def steady(bench: Bench) -> Result:
    """Three retries after 1, 2 and 4 s of each of so many failures a second, and the worker's processor time."""
    sizes = bench.sizes
    count = int(sizes.per_second * sizes.seconds)
    async with deployed(bench.bootstrap, **BACKOFF) as deployment:
        agent = FailingAgent(deployment, RETRIES)
        with running(WORKER, deployment.environment) as worker:
            await worker.until_ready(PARTITIONS)
            before = worker.cpu_seconds()
            await agent.run(small_events(count, 1, deployment.source), sizes.per_second, count)
            cpu = worker.cpu_seconds() - before
    load = f"at {sizes.per_second:,}/s for {sizes.seconds:g} s, three retries after 1, 2, 4 s"
    bound = CPU_SECONDS_MAX * sizes.seconds / CPU_SECONDS_OF
    return Result(
        [
            *rows_of(load, agent.late_ms),
            at_most("processor seconds of the worker for that", cpu, bound, unit=" s", digits=1),
        ],
        details(f"Lateness {load}:", agent.late_ms),
    )


async def any_delay(bench: Bench) -> Result:
    """One retry after any millisecond of 1 to 20 s, for half as long."""
    sizes = bench.sizes
    seconds = sizes.seconds / 2
    count = int(sizes.per_second * seconds)
    async with deployed(bench.bootstrap) as deployment:
        agent = FailingAgent(deployment, attempts_max=1)
        with running(WORKER, deployment.environment) as worker:
            await worker.until_ready(PARTITIONS)
            await agent.run(_delayed(small_events(count, 2, deployment.source)), sizes.per_second, count)
    load = f"at {sizes.per_second:,}/s for {seconds:g} s, retries after any millisecond of 1 to 20 s"
    return Result(rows_of(load, agent.late_ms), details(f"Lateness {load}:", agent.late_ms))


def _delayed(made: Iterator[Event]) -> Iterator[Event]:
    rng = random.Random(3)
    for key, value, headers in made:
        yield key, value, [*headers, ("dlq-retry-after-ms", b"%d" % rng.randint(*AFTER_MS))]
