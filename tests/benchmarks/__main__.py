"""``make bench``: the figures that README shows, measured in one run on one broker of its own.

    python -m tests.benchmarks [--only NAME[,NAME]] [--list] [--quick] [--pending N] [--brokers HOST:PORT] ...

Prints Markdown as it goes.  Exit code 1 when a bound does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks import burst, comeback, intake, lateness, pending, report, retry_consumer, scale, stall
from tests.benchmarks.figure import QUICK, Bench, Result, Row, Sizes, summary
from tests.benchmarks.records import events
from tests.kafka_fixture import LAUNCHER, local_kafka, missing_prerequisites

PACKAGES = ("dlq-stream", "faust-streaming", "aiokafka", "rocksdict")
WARM_UP_EVENTS = 40_000
QUIET_LOAD = 1.0

Measure = Callable[[Bench], Coroutine[Any, Any, Result]]

FIGURES: Mapping[str, Measure] = {
    "intake": intake.realistic,
    "small": intake.small,
    "burst": burst.measure,
    "steady": lateness.steady,
    "any-delay": lateness.any_delay,
    "pending": pending.measure,
    "comeback": comeback.measure,
    "stall": stall.measure,
    "scale": scale.measure,
    "report": report.measure,
    "retry-consumer": retry_consumer.measure,
}
"""By name, in the order of README's table."""


def main() -> int:
    """Measure and print."""
    options = arguments().parse_args()
    if options.list:
        for name, measure in FIGURES.items():
            print(f"{name:10} {(measure.__doc__ or '').splitlines()[0]}")
        return 0
    if options.brokers is None and (missing := missing_prerequisites()):
        print(missing, file=sys.stderr)
        return 2
    load = os.getloadavg()[0]
    began = time.monotonic()
    sizes = sizes_of(options)
    with nullcontext(Bench(options.brokers, sizes)) if options.brokers else own_broker(sizes) as bench:
        results = asyncio.run(measured(bench, options.only, warm_up=not options.quick))
    print(footer(load, time.monotonic() - began, quick=options.quick))
    return 0 if all(result.holds for result in results) else 1


def arguments() -> argparse.ArgumentParser:
    """The options."""
    usual = Sizes()
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure the figures of README.")
    parser.add_argument("--only", type=names_of, default=list(FIGURES), metavar="NAME[,NAME]", help="these figures")
    parser.add_argument("--list", action="store_true", help="name the figures and end")
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run? The figures say nothing")
    parser.add_argument("--events", type=at_least_one, help=f"events of a run of intake ({usual.events})")
    parser.add_argument("--pairs", type=at_least_one, help=f"pairs of runs of intake ({usual.pairs})")
    parser.add_argument("--due", type=at_least_one, help=f"retries due at one instant ({usual.due})")
    parser.add_argument("--seconds", type=at_least_one, help=f"seconds of the steady load ({usual.seconds:g})")
    parser.add_argument("--pending", type=at_least_one, help=f"pending messages ({usual.pending})")
    parser.add_argument("--brokers", help="a Kafka of yours; default: a broker of its own, started and wiped")
    return parser


def names_of(text: str) -> list[str]:
    """Names of figures, separated by commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in FIGURES]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: the figures are {', '.join(FIGURES)}")
    if not names:
        raise argparse.ArgumentTypeError(f"names no figure: they are {', '.join(FIGURES)}")
    return names


def at_least_one(text: str) -> int:
    """A number of things to measure."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number


def sizes_of(options: argparse.Namespace) -> Sizes:
    """What the options say, over the defaults or the small numbers of ``--quick``."""
    given = {name: getattr(options, name) for name in ("events", "pairs", "due", "seconds", "pending")}
    return replace(QUICK if options.quick else Sizes(), **{name: each for name, each in given.items() if each})


async def measured(bench: Bench, names: list[str], *, warm_up: bool) -> list[Result]:
    """Measure one figure after the other, and print each.

    A pair of runs comes first and does not count: a broker that has just started takes four times the processor time,
    until its JVM has compiled what it does.
    """
    if warm_up:
        await intake.pair_of(bench.bootstrap, events, WARM_UP_EVENTS, number=0)
        print("warmed up", file=sys.stderr, flush=True)
    results = []
    for name in names:
        began = time.monotonic()
        result = await attempted(name, FIGURES[name](bench))
        results.append(result)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        print(f"{summary(result.rows)}\n\n{result.details}\n", flush=True)
    print(f"All of it:\n\n{summary([row for result in results for row in result.rows])}\n")
    return results


async def attempted(name: str, measuring: Coroutine[Any, Any, Result]) -> Result:
    """The result; a figure that could not be measured does not hold, and does not keep the others from being."""
    try:
        return await measuring
    except Exception as error:
        traceback.print_exc()
        return Result([Row(name, f"not measured: {type(error).__name__}: {error}", holds=False)])


@contextmanager
def own_broker(sizes: Sizes) -> Iterator[Bench]:
    """A broker that exists for this run only."""
    with local_kafka() as broker:
        yield Bench(broker.bootstrap, sizes, broker.data)


def footer(load: float, seconds: float, *, quick: bool) -> str:
    """When, on what and with what; and whether the figures are worth anything."""
    remarks = [f"load average before {load:.1f}" + (" (A BUSY MACHINE)" if load >= QUIET_LOAD else "")]
    remarks += ["--quick: THE FIGURES SAY NOTHING"] if quick else []
    today = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    return f"{today}, {machine()}, {seconds:.0f} s, {', '.join(remarks)}; {versions()}."


def machine() -> str:
    """What it ran on, the broker included."""
    model = "unknown processor"
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        model = found.group(1) if found else model
    except OSError:
        model = platform.processor() or model
    return f"{os.cpu_count()} cores ({model}) shared with the broker"


def versions() -> str:
    """What was measured, and with what."""
    kafka = re.search(r"<kafka.version>([^<]+)<", (LAUNCHER.parent / "pom.xml").read_text())
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"Kafka {kafka.group(1) if kafka else 'unknown'}, Python {platform.python_version()}, {packages}"


if __name__ == "__main__":
    sys.exit(main())
