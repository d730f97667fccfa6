"""The workers of a crash test: processes of the real command line, supervised as systemd or Kubernetes would.

Whatever ends a worker, it is started again at once, with the same name and directory.  Every exit is written down, and
how long each took to be back at work.
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

COMMAND = (sys.executable, "-m", "dlq_stream.cli")

LOOK_SECONDS = 0.02
"""How often processes and their logs are looked at."""

READY_SECONDS_MAX = 40.0
"""A worker that is not ready by then is a finding of its own."""

STOP_SECONDS_MAX = 10.0
"""How long SIGTERM may take, by the worker's promise."""

_READY = re.compile(rb"ready: partitions \[([\d, ]*)\]")


@dataclass(frozen=True, slots=True)
class Comeback:
    """One kill: which partitions the worker had, when it died, and after how long it was ready again."""

    worker: str
    partitions: frozenset[int]
    killed_ms: int
    ready_seconds: float


@dataclass
class Worker:
    """One worker: its directory, its log, its environment, and the exit codes of its former lives."""

    name: str
    directory: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    exits: list[int] = field(default_factory=list)
    stopping: bool = False

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.directory / self.name

    @property
    def log(self) -> Path:
        """What it has written to standard error, in all its lives."""
        return self.directory / f"{self.name}.log"

    def start(self) -> None:
        """Start the process."""
        own = ("--data-dir", str(self.data), "--instance-id", self.name, "--web-port", "0")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "worker", *own], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def look(self) -> None:
        """Write down an end, and start again unless this one was asked for."""
        if self.process is not None and (code := self.process.poll()) is not None:
            self.exits.append(code)
            self.process = None
            if not self.stopping:
                self.start()

    def partitions(self, since: int = 0) -> frozenset[int]:
        """What the last "ready" in its log (from byte ``since`` on) names; nothing where there is none."""
        ready = _READY.findall(self.text()[since:])
        return frozenset(int(number) for number in re.findall(rb"\d+", ready[-1] if ready else b""))

    def text(self) -> bytes:
        """Its log so far."""
        return self.log.read_bytes() if self.log.exists() else b""


class Fleet:
    """Workers by name, all alike.  Use as an async context manager: what still runs at the end is killed."""

    def __init__(self, directory: Path, names: Collection[str], environment: Mapping[str, str]) -> None:
        self.workers = {name: Worker(name, directory, environment) for name in names}
        self.comebacks: list[Comeback] = []
        self._supervision: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Fleet:
        for worker in self.workers.values():
            worker.start()
        self._supervision = asyncio.create_task(self._supervise())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.gather(self._supervision, return_exceptions=True)
        for worker in self.workers.values():
            if worker.process is not None:
                worker.process.kill()
                worker.process.wait()

    async def _supervise(self) -> None:
        while True:
            for worker in self.workers.values():
                worker.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def until_shared(self, partitions: int) -> None:
        """Wait until every partition is at work on exactly one worker, and every worker has some."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while True:
            owned = [worker.partitions() for worker in self.workers.values()]
            if all(owned) and sorted(number for each in owned for number in each) == list(range(partitions)):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the workers are not ready: {self.last_words()}")
            await asyncio.sleep(LOOK_SECONDS)

    async def kill(self, name: str) -> None:
        """``kill -9``; returns when the worker is ready again, with partitions to work on."""
        worker = self.workers[name]
        had, written = worker.partitions(), len(worker.text())
        killed_ms, began = time.time_ns() // 1_000_000, time.monotonic()
        worker.signal(signal.SIGKILL)
        while not worker.partitions(since=written):
            if time.monotonic() - began > READY_SECONDS_MAX:
                raise TimeoutError(f"{name} is not ready after its death: {self.last_words()}")
            await asyncio.sleep(LOOK_SECONDS)
        self.comebacks.append(Comeback(name, had, killed_ms, time.monotonic() - began))

    async def stop(self) -> float:
        """SIGTERM to all; returns how many seconds the slowest took.  What does not end is killed, with exit -9."""
        began = time.monotonic()
        for worker in self.workers.values():
            worker.stopping = True
            worker.signal(signal.SIGTERM)
        while any(worker.process is not None for worker in self.workers.values()):
            if time.monotonic() - began > STOP_SECONDS_MAX:
                for worker in self.workers.values():
                    worker.signal(signal.SIGKILL)
            await asyncio.sleep(LOOK_SECONDS)
        return time.monotonic() - began

    def last_words(self, lines: int = 12) -> str:
        """The end of every log."""
        return "\n".join(
            f"--- {worker.name}, exits {worker.exits}\n" + b"\n".join(worker.text().splitlines()[-lines:]).decode()
            for worker in self.workers.values()
        )
