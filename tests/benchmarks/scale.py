"""How intake grows with workers, and what partitions cost.

Workers and broker share the machine, so a second worker shows what is left of it rather than what workers can do.  The
workers are stopped while the events are written, so that writing takes nothing from them.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack

from tests.benchmarks.figure import Bench, Result, Row, table
from tests.benchmarks.meter import Speed, follow, speed
from tests.benchmarks.processes import LOOK_SECONDS, WORKER, Running, deployed, running
from tests.benchmarks.records import events, fill

SHAPES = ((1, 4), (1, 12), (1, 48), (2, 12), (4, 12))
"""Workers and partitions."""

PART = 2
"""A run has one of so many events of a run of `intake`, since there are more of them."""

SESSION_SECONDS = 60
"""Longer than the workers are stopped."""

SHARED_SECONDS_MAX = 60.0


async def measure(bench: Bench) -> Result:
    """Intake with 1, 2 and 4 workers, and with 4, 12 and 48 partitions."""
    found = [(workers, partitions, await _speed(bench, workers, partitions)) for workers, partitions in SHAPES]
    rows = [
        Row(f"intake, {_count(workers, 'worker')}, {partitions} partitions", f"{each.per_second:,.0f} events/s")
        for workers, partitions, each in found
    ]
    lines = [
        [
            str(workers),
            str(partitions),
            f"{each.per_second:,.0f}",
            "-" if each.cpu_us_per_record is None else f"{each.cpu_us_per_record:.0f}",
        ]
        for workers, partitions, each in found
    ]
    header = ["workers", "partitions", "events/s", "CPU of all workers, µs/event"]
    return Result(rows, f"Scale, {_events(bench):,} realistic events a run:\n\n{table(header, lines)}")


def _events(bench: Bench) -> int:
    return max(1, bench.sizes.events // PART)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")


async def _speed(bench: Bench, workers: int, partitions: int) -> Speed:
    count = _events(bench)
    settings = {"session_timeout_seconds": SESSION_SECONDS}
    async with deployed(bench.bootstrap, partitions=partitions, **settings) as deployment:
        with ExitStack() as stack:
            runs = [stack.enter_context(running(WORKER, deployment.environment)) for _ in range(workers)]
            await _until_shared(runs, partitions)
            _signal(runs, signal.SIGSTOP)
            try:
                await fill(bench.bootstrap, deployment.failures, events(count, 10, deployment.source))
            finally:
                _signal(runs, signal.SIGCONT)
            processes = [run.process for run in runs]
            samples = await follow(bench.bootstrap, deployment.app, deployment.failures, count, processes)
    return speed(samples, count)


def _signal(runs: Sequence[Running], number: signal.Signals) -> None:
    for run in runs:
        run.process.send_signal(number)


async def _until_shared(runs: Sequence[Running], partitions: int) -> None:
    """Wait until every partition is at work on exactly one worker, and every worker has some."""
    deadline = time.monotonic() + SHARED_SECONDS_MAX
    while True:
        owned = [run.ready() for run in runs]
        if all(owned) and sorted(number for each in owned for number in each) == list(range(partitions)):
            return
        if ended := [run.process.returncode for run in runs if run.process.poll() is not None]:
            raise RuntimeError(f"a worker ended with exit {ended} before the partitions were shared")
        if time.monotonic() > deadline:
            raise TimeoutError(f"the partitions are not shared after {SHARED_SECONDS_MAX:g} s: {owned}")
        await asyncio.sleep(LOOK_SECONDS)
