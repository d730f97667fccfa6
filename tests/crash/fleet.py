"""The workers of a crash test: processes of the real command line, supervised as systemd or Kubernetes would.

Whatever ends a worker, it is started again at once, with the same name and directory.  Every exit is written down, and
how long each took to be back at work.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
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


KILL, RESTART = "kill -9", "restart"


@dataclass(frozen=True, slots=True)
class Comeback:
    """One trouble: whom it befell, which partitions that held up, when it began, and after how long all were at work
    again as far as a "ready" told (a worker that never lost its partitions does not say so again: None).

    ``emitting_seconds`` is after how long a retry of theirs was seen again, where the trouble has waited for one, and
    ``detail`` what else there is to say.
    """

    worker: str
    partitions: frozenset[int]
    killed_ms: int
    ready_seconds: float | None
    what: str = KILL
    emitting_seconds: float | None = None
    detail: str = ""


class Watch:
    """A trouble that begins now; `Fleet.note` makes a `Comeback` of it."""

    def __init__(self) -> None:
        self.began_ms = time.time_ns() // 1_000_000
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long ago it began."""
        return self.seconds_at(time.monotonic())

    def seconds_at(self, instant: float) -> float:
        """How long before that instant (of `time.monotonic`) it began."""
        return instant - self._began


@dataclass
class Worker:
    """One worker: its directory, its log, its environment, and the exit codes of its former lives.

    ``source`` is where its code lies, this tree's where it is None.  ``static`` gives it a stable instance id.
    ``told`` counts the ends that trouble asked for by SIGTERM, ``between`` is done once, after its next end and before
    its next start.  ``born`` is how long the log was when its present life began.
    """

    name: str
    directory: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    exits: list[int] = field(default_factory=list)
    stopping: bool = False
    static: bool = True
    source: Path | None = None
    told: int = 0
    between: Callable[[], object] | None = None
    born: int = 0

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
        own = ["--data-dir", str(self.data), "--web-port", "0", *(["--instance-id", self.name] if self.static else [])]
        self.born = len(self.text())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "worker", *own],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.source,
                env=code_from(self.source, self.environment),
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
                if self.between is not None:
                    self.between()
                    self.between = None
                self.start()

    def partitions(self, since: int = 0) -> frozenset[int]:
        """What the last "ready" in its log (from byte ``since`` on) names; nothing where there is none."""
        ready = _READY.findall(self.text()[since:])
        return frozenset(int(number) for number in re.findall(rb"\d+", ready[-1] if ready else b""))

    def at_work_on(self) -> frozenset[int]:
        """What its present life says to be ready with; nothing where it has none."""
        return self.partitions(since=self.born) if self.process is not None else frozenset()

    def text(self) -> bytes:
        """Its log so far."""
        return self.log.read_bytes() if self.log.exists() else b""


def code_from(source: Path | None, environment: Mapping[str, str]) -> Mapping[str, str]:
    """The environment in which Python takes our package from ``source``; start it in there, too."""
    if source is None:
        return environment
    path = os.pathsep.join(filter(None, (str(source), environment.get("PYTHONPATH"))))
    return {**environment, "PYTHONPATH": path}


class Fleet:
    """Workers by name, all alike.  Use as an async context manager: what still runs at the end is killed."""

    def __init__(self, directory: Path, names: Collection[str], environment: Mapping[str, str]) -> None:
        self.workers = {name: Worker(name, directory, environment) for name in names}
        self.comebacks: list[Comeback] = []
        self._supervision: asyncio.Task[None] | None = None
        self.partitions = 0  # how many there are to share; `until_shared` says it

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
        self.partitions = partitions
        deadline = time.monotonic() + READY_SECONDS_MAX
        while True:
            if self.share(partitions, self.workers):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the workers are not ready: {self.last_words()}")
            await asyncio.sleep(LOOK_SECONDS)

    def share(self, partitions: int, names: Collection[str]) -> bool:
        """Whether these workers have every partition among them, each on one of them, and none of them has nothing."""
        owned = [self.workers[name].at_work_on() for name in names]
        return all(owned) and sorted(number for each in owned for number in each) == list(range(partitions))

    async def until(self, condition: Callable[[], object], what: str, seconds_max: float = READY_SECONDS_MAX) -> None:
        """Wait for something."""
        deadline = time.monotonic() + seconds_max
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}, and that took longer than {seconds_max:g} s: {self.last_words()}")
            await asyncio.sleep(LOOK_SECONDS)

    def note(self, watch: Watch, name: str, had: Collection[int], what: str, *, ready: bool = True) -> None:
        """Write down a trouble that is over."""
        seconds = watch.seconds if ready else None
        self.comebacks.append(Comeback(name, frozenset(had), watch.began_ms, seconds, what))

    async def kill(self, name: str, between: Callable[[], object] | None = None) -> None:
        """``kill -9``; returns when the worker is ready again, with partitions to work on."""
        await self._end(name, signal.SIGKILL, KILL, between)

    async def restart(self, name: str, between: Callable[[], object] | None = None) -> None:
        """SIGTERM, and the next start; returns when the worker is ready again."""
        self.workers[name].told += 1
        await self._end(name, signal.SIGTERM, RESTART, between)

    async def _end(self, name: str, number: signal.Signals, what: str, between: Callable[[], object] | None) -> None:
        worker = self.workers[name]
        had, written = worker.at_work_on(), len(worker.text())
        worker.between, watch = between, Watch()
        worker.signal(number)
        await self.until(lambda: worker.born >= written and worker.at_work_on(), f"{name} should come back ({what})")
        self.note(watch, name, had, what)

    async def leave(self, name: str) -> None:
        """SIGTERM, for longer; returns when the others have all its partitions."""
        worker = self.workers[name]
        had, watch = worker.at_work_on(), Watch()
        others = [each.name for each in self.workers.values() if each.process is not None and each is not worker]
        worker.stopping = True
        worker.signal(signal.SIGTERM)
        await self.until(lambda: self.share(self.partitions, others), f"{others} should have all that {name} left")
        self.note(watch, name, had, "leave")

    async def join(self, name: str) -> None:
        """Start one that has left; returns when it has its share again."""
        worker = self.workers[name]
        await self.until(lambda: worker.process is None, f"{name} should have ended")
        worker.told, watch = worker.told + 1, Watch()
        await self.back(name)
        self.note(watch, name, worker.at_work_on(), "join")

    async def back(self, name: str) -> None:
        """Start one that has ended and was to stay away; returns when it has its share."""
        worker = self.workers[name]
        worker.stopping = False
        worker.start()
        here = [each.name for each in self.workers.values() if each.process is not None]
        await self.until(lambda: self.share(self.partitions, here), f"{name} should have its share")

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
