"""``make bench``: the figures that README shows, as ratios within one run on one broker of its own.

    python -m tests.benchmarks [--events N] [--pairs N] [--brokers HOST:PORT]

Prints Markdown.  Exit code 1 when a bound does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks import intake
from tests.benchmarks.records import STACKTRACE_BYTES, VALUE_BYTES, events
from tests.kafka_fixture import LAUNCHER, local_kafka, missing_prerequisites

PACKAGES = ("dlq-stream", "faust-streaming", "aiokafka", "rocksdict")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure the figures of README.")
    parser.add_argument("--events", type=int, default=100_000, help="failure events of a run (default 100000)")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of runs (default 3)")
    parser.add_argument("--brokers", help="a Kafka of yours; default: a broker of its own, started and wiped")
    options = parser.parse_args()
    if options.brokers is None and (missing := missing_prerequisites()):
        print(missing, file=sys.stderr)
        return 2
    with nullcontext(options.brokers) if options.brokers else own_broker() as bootstrap:
        result = asyncio.run(intake.measure(bootstrap, options.events, options.pairs))
    print(report(result, load=os.getloadavg()[0]))
    return 0 if result.holds else 1


@contextmanager
def own_broker() -> Iterator[str]:
    """Where a broker listens that exists for this run only."""
    with local_kafka() as broker:
        yield broker.bootstrap


def report(result: intake.Intake, load: float) -> str:
    """The whole text: what was measured, on what, and whether the bound holds."""
    _, _, headers = next(events(1, 0))
    verdict = "holds" if result.holds else "DOES NOT HOLD"
    return "\n".join(
        [
            f"Intake: failure events of {VALUE_BYTES:,} bytes with {len(headers)} headers and {STACKTRACE_BYTES:,} "
            f"bytes of stack trace, durably scheduled by one worker, against a bare transactional aiokafka pipe of the "
            f"same records ({result.events:,} events a run, {intake.PARTITIONS} partitions):",
            "",
            result.table(),
            "",
            f"Bound: ratio >= {intake.BOUND}: {verdict} ({result.ratio:.2f}).",
            "",
            f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {machine()}, load average at the end {load:.1f}; "
            f"{versions()}.",
        ]
    )


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
