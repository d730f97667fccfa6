"""What is measured, as processes: an app of its own on the broker, and workers of the real command line."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.meter import cpu_seconds
from tests.kafka_clients import create_topics, delete_topic, list_topics
from tests.kafka_fixture import unique_name

PARTITIONS = 4
READY_SECONDS_MAX = 300.0
STOP_SECONDS_MAX = 15.0
LOOK_SECONDS = 0.01

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "dlq_stream.cli")
WORKER = (*COMMAND, "worker")

_READY = re.compile(rb"ready: partitions \[([\d, ]*)\]")


@dataclass(frozen=True, slots=True)
class Deployment:
    """An app with topics of its own; ``source`` is where its retries go."""

    bootstrap: str
    app: str
    partitions: int
    environment: Mapping[str, str]

    @property
    def failures(self) -> str:
        """The topic of failure events."""
        return f"{self.app}-failures"

    @property
    def commands(self) -> str:
        """The topic of commands."""
        return f"{self.app}-commands"

    @property
    def source(self) -> str:
        """The topic that the failures are of."""
        return f"{self.app}.source"


@dataclass
class Running:
    """A process, its data directory and its log."""

    process: subprocess.Popen[bytes]
    data: Path
    log: Path
    began: float

    def cpu_seconds(self) -> float:
        """Processor seconds so far; raises RuntimeError where the process has ended, or the system does not say."""
        if (seconds := cpu_seconds(self.process.pid)) is None:
            raise RuntimeError(f"no processor time of process {self.process.pid}: {self.last_words()}")
        return seconds

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text("utf-8", "replace")[-4_000:]

    def ready(self) -> frozenset[int]:
        """The partitions that the last "ready" in the log names."""
        found = _READY.findall(self.log.read_bytes())
        return frozenset(int(number) for number in re.findall(rb"\d+", found[-1] if found else b""))

    async def until_ready(self, partitions: int) -> float:
        """Wait until it works on so many partitions at least; returns the seconds since its start."""
        while len(self.ready()) < partitions:
            if self.process.poll() is not None:
                raise RuntimeError(f"ended with exit {self.process.returncode} before it was ready")
            if time.monotonic() - self.began > READY_SECONDS_MAX:
                raise TimeoutError(f"not ready after {READY_SECONDS_MAX:g} s")
            await asyncio.sleep(LOOK_SECONDS)
        return time.monotonic() - self.began


@asynccontextmanager
async def deployed(bootstrap: str, *, partitions: int = PARTITIONS, **settings: object) -> AsyncIterator[Deployment]:
    """An app after ``init``, and its source topic; all its topics are deleted afterwards.

    ``settings`` are the worker's, by name.
    """
    app = unique_name("bench")
    deployment = Deployment(bootstrap, app, partitions, worker_environment(bootstrap, app, partitions, settings))
    await asyncio.to_thread(
        subprocess.run, [*COMMAND, "init"], check=True, capture_output=True, env=deployment.environment
    )
    await create_topics(bootstrap, deployment.source, partitions=partitions)
    try:
        yield deployment
    finally:
        for topic in await list_topics(bootstrap):
            if topic.startswith(app):
                await delete_topic(bootstrap, topic)


def worker_environment(bootstrap: str, app: str, partitions: int, settings: Mapping[str, object]) -> dict[str, str]:
    """The default settings, but for what a benchmark must say: nothing comes due while it runs, unless it wants to."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("DLQ_")}
    own = {
        "brokers": bootstrap,
        "app_id": app,
        "partitions": partitions,
        "initial_backoff_seconds": 3600,
        "web_port": 0,
        **settings,
    }
    return others | {f"DLQ_{name.upper()}": str(value) for name, value in own.items()}


@contextmanager
def directory() -> Iterator[Path]:
    """A directory that is deleted afterwards."""
    path = Path(tempfile.mkdtemp(prefix="dlq-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], data: Path | None = None) -> Iterator[Running]:
    """A process with a data directory of its own unless one is given, ended after; its log is shown if it failed."""
    with directory() as own:
        log = own / "log"
        data = data or own / "data"
        with log.open("wb") as file:
            env = {**environment, "DLQ_DATA_DIR": str(data)}
            began = time.monotonic()
            process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=file, stderr=file)
        run = Running(process, data, log, began)
        try:
            yield run
        except Exception:
            print(run.last_words(), file=sys.stderr)
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
