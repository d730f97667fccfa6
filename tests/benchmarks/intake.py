"""Intake: failure events durably scheduled per second by one worker, against the bare pipe.

Both read the same records from the same topic of the same broker, each in a process of its own, one after the other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from tests.benchmarks.figure import Bench, Result, at_least, table
from tests.benchmarks.meter import Speed, follow, speed
from tests.benchmarks.processes import PARTITIONS, WORKER, Deployment, deployed, running
from tests.benchmarks.records import STACKTRACE_BYTES, VALUE_BYTES, Event, events, fill, small_events
from tests.kafka_clients import create_topics

BOUND_FIRST = 0.4
"""What the first version of the worker had to reach."""
BOUND = 0.6
BOUND_SMALL = 0.5

SMALL_PART = 2
"""So many small events for each realistic one: the pipe is done with as many too soon to be measured.  So there is one
pair fewer."""

REALISTIC = f"realistic events ({VALUE_BYTES:,} bytes, 13 headers, {STACKTRACE_BYTES:,} bytes of stack trace)"
SMALL = f"small events ({VALUE_BYTES:,} bytes, 4 headers, no stack trace)"

Make = Callable[[int, int, str], Iterator[Event]]
"""So many events, by this seed, of this source topic."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Both speeds of one pair of runs."""

    pipe: Speed
    worker: Speed

    @property
    def ratio(self) -> float:
        """The worker's speed as a part of the pipe's."""
        return self.worker.per_second / self.pipe.per_second


def ratio(pairs: Sequence[Pair]) -> float:
    """The median of the pairs' ratios."""
    return median(pair.ratio for pair in pairs)


def pairs_table(pairs: Sequence[Pair]) -> str:
    """The pairs in Markdown, and their medians."""
    header = ["pair", "pipe, events/s", "worker, events/s", "ratio", "pipe, CPU µs/event", "worker, CPU µs/event"]
    lines = [_line(str(number), pair.pipe, pair.worker, pair.ratio) for number, pair in enumerate(pairs, start=1)]
    pipe, worker = _median([pair.pipe for pair in pairs]), _median([pair.worker for pair in pairs])
    return table(header, [*lines, _line("**median**", pipe, worker, ratio(pairs))])


def _line(name: str, pipe: Speed, worker: Speed, part: float) -> list[str]:
    cpu = ["-" if (us := each.cpu_us_per_record) is None else f"{us:.0f}" for each in (pipe, worker)]
    return [name, f"{pipe.per_second:,.0f}", f"{worker.per_second:,.0f}", f"{part:.2f}", *cpu]


def _median(speeds: Sequence[Speed]) -> Speed:
    cpu = [each.cpu_us_per_record for each in speeds if each.cpu_us_per_record is not None]
    return Speed(median(each.per_second for each in speeds), median(cpu) if cpu else None)


async def realistic(bench: Bench) -> Result:
    """Events with all the headers that agents send, and a stack trace."""
    count = bench.sizes.events
    pairs = await _pairs(bench, events, count, bench.sizes.pairs)
    what = f"intake of {REALISTIC}, against the transactional pipe of the same records"
    note = f"{_median([pair.worker for pair in pairs]).per_second:,.0f}/s"
    return Result(
        [
            at_least(what, ratio(pairs), BOUND, note=note),
            at_least("the same, first landing", ratio(pairs), BOUND_FIRST),
        ],
        _details(REALISTIC, count, pairs),
    )


async def small(bench: Bench) -> Result:
    """Events as any client would write them by hand."""
    count = bench.sizes.events * SMALL_PART
    pairs = await _pairs(bench, small_events, count, max(1, bench.sizes.pairs - 1))
    what = f"intake of {SMALL}, against the transactional pipe of the same records"
    note = f"{_median([pair.worker for pair in pairs]).per_second:,.0f}/s"
    row = at_least(what, ratio(pairs), BOUND_SMALL, note=note)
    return Result([row], _details(SMALL, count, pairs))


def _details(what: str, count: int, pairs: Sequence[Pair]) -> str:
    return f"Intake of {what}; {count:,} events a run, {PARTITIONS} partitions:\n\n{pairs_table(pairs)}"


async def _pairs(bench: Bench, make: Make, count: int, pairs: int) -> list[Pair]:
    """Run pairs in alternation: who goes first changes, so that what drifts with time hits both."""
    done: list[Pair] = []
    for number in range(pairs):
        done.append(await pair_of(bench.bootstrap, make, count, number))
        print(f"  pair {number + 1} of {pairs}: ratio {done[-1].ratio:.2f}", file=sys.stderr, flush=True)
    return done


async def pair_of(bootstrap: str, make: Make, count: int, number: int) -> Pair:
    """One pair of runs over the same events, the pipe first where ``number`` is even."""
    async with deployed(bootstrap) as deployment:
        await fill(bootstrap, deployment.failures, make(count, number, deployment.source))
        runs = {
            "pipe": partial(pipe_speed, deployment, deployment.failures, count),
            "worker": partial(worker_speed, deployment, count),
        }
        order = ("pipe", "worker") if number % 2 == 0 else ("worker", "pipe")
        speeds = {name: await runs[name]() for name in order}
    return Pair(**speeds)


async def worker_speed(deployment: Deployment, count: int) -> Speed:
    """How fast one worker takes in what is in the failures topic."""
    with running(WORKER, deployment.environment) as worker:
        samples = await follow(deployment.bootstrap, deployment.app, deployment.failures, count, [worker.process])
    return speed(samples, count)


async def pipe_speed(deployment: Deployment, source: str, count: int) -> Speed:
    """How fast the bare pipe copies what is in a topic."""
    bootstrap = deployment.bootstrap
    target = group = f"{deployment.app}.pipe"
    await create_topics(bootstrap, target, partitions=deployment.partitions)
    command = [sys.executable, "-m", "tests.benchmarks.pipe", bootstrap, source, target, group, str(count)]
    with running(command, deployment.environment) as pipe:
        return speed(await follow(bootstrap, group, source, count, [pipe.process]), count)
