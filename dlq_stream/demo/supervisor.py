"""Processes of the demo and who starts them again: what systemd or Kubernetes does for real workers.

A worker is crash-only: it ends with exit 70 when it cannot go on, and people (here: a key) kill it.  Both mean "start
me again".  Any other end is a mistake of the demo, and is kept as one with the last lines of the process's log.

Children have process groups of their own, so that Ctrl-C reaches the supervisor alone, which then ends them in order;
and on Linux they die with it, however it dies.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

CRASHED, KILLED = 70, -signal.SIGKILL
RESTART_DELAY_SECONDS = 0.2
CRASHES_MAX = 10
"""A process that ended with exit 70 so many times is given up: something is wrong that restarts do not cure."""
STOP_SECONDS_MAX = 12.0
"""SIGTERM has to end a worker within 10 s; after this long it is killed, and that is kept as a mistake."""
LOG_LINES_SHOWN = 8

_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):  # else it has died before we asked
    os.execv(sys.argv[2], sys.argv[2:])
"""


async def run_to_end(*command: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a short command; its exit code and all it said.  Who is cancelled meanwhile asks it to end, and waits."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        process_group=0,
    )
    try:
        said, _ = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    return process.returncode or 0, said.decode("utf-8", "replace").strip()


@dataclass(slots=True)
class Child:
    """One process under supervision.  ``mistake`` says what went wrong with it; empty while nothing did."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    is_restarted: bool = False
    restarts: int = 0
    exits: list[int] = field(default_factory=list)
    mistake: str = ""
    is_stopping: bool = False
    process: asyncio.subprocess.Process | None = None
    watcher: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The running process's id; None while there is none."""
        alive = self.process is not None and self.process.returncode is None
        return self.process.pid if alive and self.process is not None else None

    @property
    def standing(self) -> str:
        """What it does at the moment, for people."""
        if (pid := self.pid) is not None:
            return f"pid {pid}"
        return "done" if self.exits and self.exits[-1] == 0 else "down"

    async def start(self) -> None:
        """Start the process, and from now on watch it."""
        await self._spawn()
        self.watcher = asyncio.create_task(self._watch(), name=f"watch {self.name}")

    def kill(self) -> bool:
        """``kill -9``, as a machine fails; False where there is no process to kill."""
        if (pid := self.pid) is None:
            return False
        os.kill(pid, signal.SIGKILL)
        return True

    async def stop(self) -> None:
        """Ask it to end, wait, and insist.  Safe to call at any time, and twice."""
        self.is_stopping = True
        if self.watcher is None:
            return
        if self.process is not None and self.pid is not None:
            self.process.send_signal(signal.SIGTERM)
        done, _ = await asyncio.wait({self.watcher}, timeout=STOP_SECONDS_MAX)
        if not done:
            self.mistake = self.mistake or f"{self.name} did not end within {STOP_SECONDS_MAX:g} s of SIGTERM"
            self.kill()
            await self.watcher

    async def finished(self) -> None:
        """Wait until it has ended and is not going to be started again."""
        if self.watcher is not None:
            await asyncio.wait({self.watcher})

    async def _spawn(self) -> None:
        command = list(self.command)
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command,
                env=dict(self.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    async def _watch(self) -> None:
        while True:
            assert self.process is not None
            code = await self.process.wait()
            self.exits.append(code)
            self.mistake = self.mistake or self._mistake_of(code)
            if self._is_over(code):
                return
            await asyncio.sleep(RESTART_DELAY_SECONDS)
            if self._is_over(code):
                return
            self.restarts += 1
            await self._spawn()

    def _is_over(self, code: int) -> bool:
        return self.is_stopping or bool(self.mistake) or code == 0

    def _mistake_of(self, code: int) -> str:
        """What is wrong with having ended so; empty where nothing is."""
        if self.is_restarted and code in (CRASHED, KILLED):
            crashes = self.exits.count(CRASHED)
            return f"{self.name} crashed {crashes} times{self._last_words()}" if crashes >= CRASHES_MAX else ""
        if code == 0 and self.is_restarted and not self.is_stopping:
            return f"{self.name} ended without having been asked to{self._last_words()}"
        if code == 0 or (code == -signal.SIGTERM and self.is_stopping):
            return ""
        return f"{self.name} ended with exit {code}{self._last_words()}"

    def _last_words(self) -> str:
        try:
            lines = self.log.read_text("utf-8", "replace").splitlines()[-LOG_LINES_SHOWN:]
        except OSError:
            lines = []
        return "".join(["; the last lines of its log:" if lines else "", *(f"\n    {line}" for line in lines)])


@dataclass(slots=True)
class Supervisor:
    """All processes of one run, in the order in which they were started."""

    children: list[Child] = field(default_factory=list)

    async def add(self, child: Child) -> Child:
        """Start a process and keep it."""
        self.children.append(child)
        await child.start()
        return child

    @property
    def mistakes(self) -> list[str]:
        """What went wrong so far with processes."""
        return [child.mistake for child in self.children if child.mistake]

    async def stop(self) -> None:
        """End what still runs: agents and producers first, workers side by side after them."""
        for group in ([each for each in self.children if not each.is_restarted], [*self.children]):
            await asyncio.gather(*(each.stop() for each in group))
