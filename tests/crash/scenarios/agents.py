"""Agents that die: the consumer of the SDK."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from dlq_stream.core.headers import parse_failure
from tests.crash.checks import Findings
from tests.crash.fleet import Comeback
from tests.crash.journal import Life, judge_agent, repeated
from tests.crash.scenarios.stage import Stage
from tests.kafka_clients import Outgoing, committed_offsets, create_topics, produce, read_topic
from tests.kafka_fixture import LocalKafka, local_kafka, unique_name

PARTITIONS = 4
KEYS = 500
KILLS = 6
PATIENCE_SECONDS = 60.0
STOP_SECONDS_MAX = 15.0
ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class AgentResult:
    """The verdict, and the figures to print."""

    seed: int
    count: int
    findings: Findings
    comebacks: tuple[Comeback, ...]
    repeated: int
    stop_seconds: float
    seconds: float

    retries = 0
    """Nobody retries here: there is no worker."""

    @property
    def first_retry_seconds(self) -> tuple[None, ...]:
        """See `retries`."""
        return ()

    @property
    def line(self) -> str:
        """One line for people."""
        ready = ", ".join(f"{each.ready_seconds:.1f} s" for each in self.comebacks)
        return (
            f"seed {self.seed}: {self.count} records, {len(self.comebacks)} kills (at work again after {ready}); lost "
            f"{self.findings.count('lost')}, wrongly repeated {self.findings.count('duplicate')}, repeated because "
            f"they were not committed {self.repeated}; stopped in {self.stop_seconds:.1f} s, {self.seconds:.0f} s"
        )


async def agent(stage: Stage) -> AgentResult:
    """An agent (`RetryConsumer`), `kill -9` six times in mid-batch; every tenth record fails."""
    with local_kafka(group_min_session_timeout_ms=1_000) as kafka:
        return await play_agent(kafka, stage.directory, stage.seed, stage.events, KILLS)


async def play_agent(kafka: LocalKafka, directory: Path, seed: int, count: int, kills: int) -> AgentResult:
    """Kill an agent so often while it works on ``count`` records, then let it finish.

    The moments of the kills are chosen so that all of them come before the records are at their end.
    """
    began = time.monotonic()
    rng = random.Random(seed)
    app, topic, group = unique_name("app"), unique_name("heat"), unique_name("agents")
    await create_topics(kafka.bootstrap, topic, f"{app}-failures", f"{app}-commands", partitions=PARTITIONS)
    records = [Outgoing(topic, b"%d" % number, b"key-%d" % rng.randrange(KEYS)) for number in range(count)]
    written = await produce(kafka.bootstrap, records)
    ends = {partition: sum(each.partition == partition for each in written) for partition in range(PARTITIONS)}
    lives = Lives(kafka.bootstrap, app, topic, group, directory)
    comebacks = []
    died_ms = 0
    for number in range(kills + 1):
        await lives.begin()
        ready = await lives.until_handling()
        if number:
            comebacks.append(Comeback("agent", frozenset(ends), died_ms, ready))
        if number == kills:
            break
        # Somewhere in its share of what is left, at once after the beginning included.
        await lives.until_handled(rng.uniform(0.05, 0.9) * count / (kills + 1))
        died_ms = time.time_ns() // 1_000_000
        lives.kill()
    await lives.until_committed(ends)
    stop_seconds = await lives.stop()
    failures = [parse_failure(record).origin for record in await read_topic(kafka.bootstrap, f"{app}-failures")]
    reported = [(origin.partition or 0, origin.offset or 0) for origin in failures]
    findings = judge_agent(lives.told, ends, reported)
    findings.faults["workers"] += lives.wrong_ends(kills)
    seconds = time.monotonic() - began
    return AgentResult(seed, count, findings, tuple(comebacks), repeated(lives.told), stop_seconds, seconds)


class Lives:
    """One process after the other."""

    def __init__(self, bootstrap: str, app: str, topic: str, group: str, directory: Path) -> None:
        self._command = [sys.executable, "-m", "tests.crash.agent", bootstrap, app, topic, group]
        self._bootstrap, self._topic, self._group = bootstrap, topic, group
        self._directory = directory
        self._committed: list[dict[int, int]] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def told(self) -> list[Life]:
        """What each wrote down."""
        return [Life(self._read(number), committed) for number, committed in enumerate(self._committed)]

    async def begin(self) -> None:
        """Start the next one."""
        self._committed.append(await self._offsets())
        number = len(self._processes)
        with (self._directory / f"agent-{number}.log").open("wb") as log:
            command = [*self._command, str(self._journal(number))]
            self._processes.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log))

    def kill(self) -> None:
        """``kill -9``."""
        self._processes[-1].kill()
        self._processes[-1].wait()

    async def stop(self) -> float:
        """End the last one as an operator would; returns how long that took."""
        began = time.monotonic()
        self._processes[-1].send_signal(signal.SIGTERM)
        await asyncio.to_thread(self._processes[-1].wait, STOP_SECONDS_MAX)
        return time.monotonic() - began

    def wrong_ends(self, kills: int) -> list[str]:
        """Ends that nobody asked for."""
        codes = [process.returncode for process in self._processes]
        expected = [-signal.SIGKILL] * kills + [0]
        return [] if codes == expected else [f"the agents ended with {codes}"]

    async def until_handling(self) -> float:
        """Wait until the process handles its first record; returns the seconds since it began."""
        began = time.monotonic()
        await self.until_handled(1)
        return time.monotonic() - began

    async def until_handled(self, count: float) -> None:
        """Wait until the process was given so many records."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._read(-1).count("+ ") < count:
            self._look(deadline, f"handled {self._read(-1).count('+ ')} of {count:.0f} records")
            await asyncio.sleep(0.02)

    async def until_committed(self, ends: dict[int, int]) -> None:
        """Wait until the group has committed everything."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (offsets := await self._offsets()) != ends:
            self._look(deadline, f"committed {offsets} of {ends}")
            await asyncio.sleep(0.2)

    def _look(self, deadline: float, what: str) -> None:
        number = len(self._processes) - 1
        if (code := self._processes[-1].poll()) is not None:
            said = (self._directory / f"agent-{number}.log").read_text("utf-8", "replace")[-2_000:]
            raise RuntimeError(f"agent {number} ended with {code}: {said}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"agent {number} has {what} after {PATIENCE_SECONDS:g} s")

    async def _offsets(self) -> dict[int, int]:
        offsets = await committed_offsets(self._bootstrap, self._group)
        return {place.partition: offset for place, offset in offsets.items() if place.topic == self._topic}

    def _journal(self, number: int) -> Path:
        return self._directory / f"journal-{number}"

    def _read(self, number: int) -> str:
        path = self._journal(number % len(self._processes))
        return path.read_text() if path.exists() else ""
