"""What `RetryConsumer` costs: records per second against a bare aiokafka consumer of the same topic, without handlers
that do anything.  Each runs in a process of its own, one after the other, in rounds whose order changes.
"""

from __future__ import annotations

import sys
from statistics import median

from tests.benchmarks.consuming import FAILING
from tests.benchmarks.figure import Bench, Result, Row, at_least, table
from tests.benchmarks.meter import Speed, follow, speed
from tests.benchmarks.processes import PARTITIONS, Deployment, deployed, running
from tests.benchmarks.records import VALUE_BYTES, fill, readings

BOUND = 0.4
KINDS = ("bare", "async", "plain", "failing")


async def measure(bench: Bench) -> Result:
    """`RetryConsumer` against a bare consumer, with handlers that do nothing and with some that fail."""
    rounds = []
    for number in range(bench.sizes.pairs):
        rounds.append(await round_of(bench.bootstrap, bench.sizes.events, number))
        parts = ", ".join(f"{kind} {rounds[-1][kind].per_second:,.0f}/s" for kind in KINDS)
        print(f"  round {number + 1} of {bench.sizes.pairs}: {parts}", file=sys.stderr, flush=True)
    return result_of(rounds, bench.sizes.events)


async def round_of(bootstrap: str, count: int, number: int) -> dict[str, Speed]:
    """The speed of each over the same records; who goes first changes with ``number``."""
    async with deployed(bootstrap) as deployment:
        await fill(bootstrap, deployment.source, readings(count, number))
        order = KINDS if number % 2 == 0 else KINDS[::-1]
        speeds = {kind: await speed_of(deployment, kind, count) for kind in order}
    return {kind: speeds[kind] for kind in KINDS}


async def speed_of(deployment: Deployment, kind: str, count: int) -> Speed:
    """How fast a consumer of this kind gets through the source topic."""
    bootstrap, topic, group = deployment.bootstrap, deployment.source, f"{deployment.app}.{kind}"
    command = [sys.executable, "-m", "tests.benchmarks.consuming", kind, bootstrap, deployment.app, topic, group]
    with running(command, deployment.environment) as consumer:
        return speed(await follow(bootstrap, group, topic, count, [consumer.process]), count)


def result_of(rounds: list[dict[str, Speed]], count: int) -> Result:
    """Medians over the rounds; ratios are those of a round."""

    def ratio(kind: str) -> float:
        return median(each[kind].per_second / each["bare"].per_second for each in rounds)

    def rate(kind: str) -> float:
        return median(each[kind].per_second for each in rounds)

    def note(kind: str) -> str:
        return f"{rate(kind):,.0f}/s{_overhead(rounds, kind)}"

    what = "`RetryConsumer` against a bare consumer of the same topic"
    rows = [
        at_least(f"{what}: `async` handler that does nothing", ratio("async"), BOUND, note=note("async")),
        at_least(f"{what}: plain handler, in threads", ratio("plain"), BOUND, note=note("plain")),
        Row(f"{what}: every {FAILING}th record fails", f"{ratio('failing'):.3f} ({note('failing')})"),
    ]
    header = ["round", *(f"{kind}, records/s (CPU µs)" for kind in KINDS)]
    lines = [[str(number), *(_said(each[kind]) for kind in KINDS)] for number, each in enumerate(rounds, start=1)]
    details = f"{count:,} records of {VALUE_BYTES:,} bytes, {PARTITIONS} partitions:\n\n{table(header, lines)}"
    return Result(rows, details)


def _overhead(rounds: list[dict[str, Speed]], kind: str) -> str:
    """Processor time of a record beyond what the bare consumer takes."""
    more = [
        ours - theirs
        for each in rounds
        if (ours := each[kind].cpu_us_per_record) is not None and (theirs := each["bare"].cpu_us_per_record) is not None
    ]
    return f", {median(more):.0f} µs of processor time more per record" if more else ""


def _said(of: Speed) -> str:
    cpu = "-" if of.cpu_us_per_record is None else f"{of.cpu_us_per_record:.0f}"
    return f"{of.per_second:,.0f} ({cpu})"
