"""Intake: realistic failure events durably scheduled per second by one worker, against the bare pipe.

Both read the same records from the same topic of the same broker, each in a process of its own, one after the other.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks.meter import Speed, follow, speed
from tests.benchmarks.records import SOURCE, fill
from tests.kafka_clients import create_topics, delete_topic, list_topics
from tests.kafka_fixture import unique_name

PARTITIONS = 4
BOUND = 0.4
"""The least ratio that holds."""

STOP_SECONDS_MAX = 15.0

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "dlq_stream.cli")


@dataclass(frozen=True, slots=True)
class Pair:
    """Both speeds of one pair of runs."""

    pipe: Speed
    worker: Speed

    @property
    def ratio(self) -> float:
        """The worker's speed as a part of the pipe's."""
        return self.worker.per_second / self.pipe.per_second


@dataclass(frozen=True, slots=True)
class Intake:
    """All pairs of a run."""

    events: int
    pairs: Sequence[Pair]

    @property
    def ratio(self) -> float:
        """The median of the pairs' ratios."""
        return median(pair.ratio for pair in self.pairs)

    @property
    def holds(self) -> bool:
        """Whether the bound holds."""
        return self.ratio >= BOUND

    def table(self) -> str:
        """The figures in Markdown."""
        lines = [
            "| pair | pipe, events/s | worker, events/s | ratio | pipe, CPU µs/event | worker, CPU µs/event |",
            "| ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        lines += [
            _row(str(number), pair.pipe, pair.worker, pair.ratio) for number, pair in enumerate(self.pairs, start=1)
        ]
        pipe, worker = (_median([getattr(pair, name) for pair in self.pairs]) for name in ("pipe", "worker"))
        lines.append(_row("**median**", pipe, worker, self.ratio))
        return "\n".join(lines)


def _row(name: str, pipe: Speed, worker: Speed, ratio: float) -> str:
    cpu = " | ".join("-" if (us := each.cpu_us_per_record) is None else f"{us:.0f}" for each in (pipe, worker))
    return f"| {name} | {pipe.per_second:,.0f} | {worker.per_second:,.0f} | {ratio:.2f} | {cpu} |"


def _median(speeds: Sequence[Speed]) -> Speed:
    cpu = [each.cpu_us_per_record for each in speeds if each.cpu_us_per_record is not None]
    return Speed(median(each.per_second for each in speeds), median(cpu) if cpu else None)


async def measure(bootstrap: str, events: int, pairs: int) -> Intake:
    """Run pairs in alternation: who goes first changes, so that what drifts with time hits both.

    One pair comes before those that count: a broker that has just started takes four times the processor time, until
    its JVM has compiled what it does.
    """
    if SOURCE not in await list_topics(bootstrap):
        await create_topics(bootstrap, SOURCE, partitions=PARTITIONS)
    await _pair(bootstrap, events, number=pairs)
    print("warmed up", file=sys.stderr, flush=True)
    done = []
    for number in range(pairs):
        done.append(await _pair(bootstrap, events, number))
        print(f"pair {number + 1} of {pairs}: ratio {done[-1].ratio:.2f}", file=sys.stderr, flush=True)
    return Intake(events, done)


async def _pair(bootstrap: str, events: int, number: int) -> Pair:
    app = unique_name("bench")
    environment = worker_environment(bootstrap, app)
    await asyncio.to_thread(subprocess.run, [*COMMAND, "init"], check=True, capture_output=True, env=environment)
    failures, target = f"{app}-failures", f"{app}.pipe"
    await create_topics(bootstrap, target, partitions=PARTITIONS)
    await fill(bootstrap, failures, events, seed=number)
    speeds: dict[str, Speed] = {}
    for name in ("pipe", "worker") if number % 2 == 0 else ("worker", "pipe"):
        group = app if name == "worker" else f"{app}.pipe"
        command = [sys.executable, "-m", "tests.benchmarks.pipe", bootstrap, failures, target, group, str(events)]
        with running([*COMMAND, "worker"] if name == "worker" else command, environment) as process:
            speeds[name] = speed(await follow(bootstrap, group, failures, events, process), events)
    for topic in await list_topics(bootstrap):
        if topic.startswith(app):
            await delete_topic(bootstrap, topic)
    return Pair(**speeds)


def worker_environment(bootstrap: str, app: str) -> dict[str, str]:
    """The default settings, but for what a benchmark must say: nothing comes due while it runs."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("DLQ_")}
    return others | {
        "DLQ_BROKERS": bootstrap,
        "DLQ_APP_ID": app,
        "DLQ_PARTITIONS": str(PARTITIONS),
        "DLQ_INITIAL_BACKOFF_SECONDS": "3600",
        "DLQ_WEB_PORT": "0",
    }


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a data directory of its own, ended and cleaned up after; its log is shown if it failed."""
    directory = Path(tempfile.mkdtemp(prefix="dlq-bench-"))
    log = directory / "log"
    try:
        with log.open("wb") as file:
            env = {**environment, "DLQ_DATA_DIR": str(directory / "data")}
            process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=file, stderr=file)
        try:
            yield process
        except Exception:
            print(log.read_text("utf-8", "replace")[-4_000:], file=sys.stderr)
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
