"""Stalls of the worker's event loop during intake: the longest that nothing else could run, heartbeats included.

A task on the worker's own loop looks (`probed`).  What counts is between the first commit and the last: restore and
start-up are before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from tests.benchmarks.figure import Bench, Result, at_most, table
from tests.benchmarks.intake import REALISTIC
from tests.benchmarks.lateness import spread
from tests.benchmarks.meter import Sample, follow
from tests.benchmarks.probed import NOTED_SECONDS, PERIOD_SECONDS
from tests.benchmarks.processes import deployed, directory, running
from tests.benchmarks.records import events, fill

STALL_MS_MAX = 50.0


async def measure(bench: Bench) -> Result:
    """The longest stall of the event loop during intake."""
    count = bench.sizes.events
    async with deployed(bench.bootstrap) as deployment:
        await fill(bench.bootstrap, deployment.failures, events(count, 9, deployment.source))
        with directory() as place:
            file = place / "stalls"
            command = [sys.executable, "-m", "tests.benchmarks.probed", str(file), "worker"]
            with running(command, deployment.environment) as worker:
                samples = await follow(bench.bootstrap, deployment.app, deployment.failures, count, [worker.process])
            stalls_ms = during(samples, count, read(file))
    longest = max(stalls_ms, default=0.0)
    what = f"longest stall of the event loop during intake of {REALISTIC}"
    row = at_most(what, longest, STALL_MS_MAX, unit=" ms", note=f"within {PERIOD_SECONDS * 1000:g} ms")
    if not stalls_ms:
        return Result([row])
    shape = spread(stalls_ms)
    cells = [f"{shape.count:,}", *(f"{each:.0f}" for each in (shape.p50, shape.p99, shape.most))]
    header = ["stalls", "number", "p50, ms", "p99, ms", "longest, ms"]
    line = [f"longer than {NOTED_SECONDS * 1000:g} ms, {count:,} events", *cells]
    return Result([row], f"Stalls of the event loop during intake:\n\n{table(header, [line])}")


def read(file: Path) -> list[tuple[float, float]]:
    """The stalls written down: when each was over, and its seconds."""
    pairs = (line.split() for line in file.read_text().splitlines())
    return [(float(over), float(seconds)) for over, seconds in pairs]


def during(samples: Iterable[Sample], total: int, stalls: Iterable[tuple[float, float]]) -> list[float]:
    """Milliseconds of the stalls that were over between the first look with progress and the first with all of it."""
    at = [(each.at_seconds, each.records) for each in samples if each.records > 0]
    began, ended = at[0][0], next(seconds for seconds, records in at if records >= total)
    return [seconds * 1000 for over, seconds in stalls if began <= over <= ended]
