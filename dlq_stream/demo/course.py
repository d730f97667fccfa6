"""One run, from the first worker to the drain: what is started in which order, and what is done to it on the way.

Nothing in here knows how the system works.  It starts what a user would start, with options a user would give, and does
the two unkind things: an outage, a ``kill -9``.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

from dlq_stream.demo.broker import wait_for_members
from dlq_stream.demo.ledger import Ledger
from dlq_stream.demo.plan import PARTITIONS, WORKERS, Plan, worker_environment
from dlq_stream.demo.reading import follow
from dlq_stream.demo.screen import Process, Screen, View
from dlq_stream.demo.supervisor import Child, Supervisor

TICK_SECONDS = 0.25
LEAD_SECONDS = 1.5
"""Between the start of producer and agent and the first reading: they import, connect and join meanwhile."""
READY_SECONDS_MAX = 20.0
"""So long the demo waits for its workers to have joined; then it goes on, for a failure may well come before them."""


class Demo:
    """One run, after Kafka is there."""

    def __init__(self, plan: Plan, directory: Path, shown: Screen, *, kills_at_half_time: bool) -> None:
        self.plan = plan
        self.directory = directory
        self.supervisor = Supervisor()
        self.workers: list[Child] = []
        self.ledger = Ledger(plan)
        self.is_ended_early = False
        self.kills = 0
        self._screen = shown
        self._kill_at: float | None = plan.seconds / 2 if kills_at_half_time else None
        self._notice = ""
        self._is_patient = True
        self._producer: Child | None = None

    # What people and scripts do to it.

    def pressed(self, key: str) -> None:
        """A key: ``k`` or ``q``."""
        if key == "k":
            self.kill_worker()
        elif key == "q":
            self.end()

    def kill_worker(self) -> None:
        """Kill the next worker that is alive, in turn."""
        for offset in range(WORKERS):
            worker = self.workers[(self.kills + offset) % WORKERS] if self.workers else None
            if worker and worker.kill():
                self.kills += 1
                self._notice = f"{worker.name} was killed with kill -9"
                return

    def end(self) -> None:
        """End production now; asked a second time, do not wait for the drain either."""
        if self.is_ended_early:
            self._is_patient = False
        self.is_ended_early = True
        self._notice = "ending early"

    # The course of it.

    async def run(self) -> float:
        """Everything up to the drain; returns how long that took, in seconds."""
        following = asyncio.create_task(self._follow(), name="follow")
        try:
            await self._start_workers()
            await self._start_business()
            await self._produce()
            return await self._drain()
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            await self.supervisor.stop()

    async def _start_workers(self) -> None:
        self._show("starting the workers")
        for number in range(1, WORKERS + 1):
            name = f"worker-{number}"
            options = {
                "--brokers": self.plan.brokers,
                "--app-id": self.plan.app_id,
                "--partitions": str(PARTITIONS),
                "--instance-id": f"{self.plan.name}-{name}",
                "--data-dir": str(self.directory / name),
                "--web-port": "0",
            }
            self.workers.append(
                await self._start(name, [*dlq_stream_command("worker"), *pairs(options)], is_worker=True)
            )
        joined = asyncio.create_task(wait_for_members(self.plan, WORKERS, READY_SECONDS_MAX))
        while not (joined.done() or self.is_ended_early or self.supervisor.mistakes):
            self._show("waiting for the workers to join")
            await asyncio.wait({joined}, timeout=TICK_SECONDS)
        joined.cancel()

    async def _start_business(self) -> None:
        self.plan = replace(self.plan, start_ms=int((time.time() + LEAD_SECONDS) * 1000))
        for name in ("agent", "producer"):
            command = [sys.executable, "-m", f"dlq_stream.demo.{name}", self.plan.to_json()]
            self._producer = await self._start(name, command)

    async def _start(self, name: str, command: Sequence[str], *, is_worker: bool = False) -> Child:
        child = Child(
            name=name,
            command=command,
            environment=worker_environment(os.environ),
            log=self.directory / f"{name}.log",
            is_restarted=is_worker,
        )
        return await self.supervisor.add(child)

    async def _produce(self) -> None:
        assert self._producer is not None
        finished = asyncio.create_task(self._producer.finished())
        while not finished.done():
            self._show("backoff shortened to seconds, all else as in production")
            if self._kill_at is not None and self._elapsed >= self._kill_at:
                self._kill_at = None
                self.kill_worker()
            if self.is_ended_early or self.supervisor.mistakes:
                await self._producer.stop()
            await asyncio.wait({finished}, timeout=TICK_SECONDS)

    async def _drain(self) -> float:
        started = time.monotonic()
        while (spent := time.monotonic() - started) < self.plan.drain_seconds_max:
            self._show(f"no more readings; {self.plan.drain_seconds_max - spent:.0f} s left to settle the open ones")
            if not self._is_patient or self.supervisor.mistakes:
                break
            if self.ledger.is_drained(self.ledger.produced if self.is_ended_early else self.plan.events_planned):
                break
            await asyncio.sleep(TICK_SECONDS)
        return time.monotonic() - started

    async def _follow(self) -> None:
        async with aclosing(follow(self.plan.connection, self.ledger.topics)) as batches:
            async for records in batches:
                self.ledger.add(records)

    @property
    def _elapsed(self) -> float:
        return max(0.0, time.time() - self.plan.start_ms / 1000) if self.plan.start_ms else 0.0

    def _show(self, headline: str) -> None:
        begin, end = self.plan.outage
        self._screen.show(
            View(
                headline=headline,
                elapsed_seconds=self._elapsed,
                seconds=self.plan.seconds,
                events_planned=self.plan.events_planned,
                is_outage=begin <= self._elapsed < end and self.plan.start_ms > 0,
                figures=self.ledger.figures(),
                processes=[Process(each.name, each.standing, each.restarts) for each in self.supervisor.children],
                notice=self._notice,
            )
        )


def dlq_stream_command(*arguments: str) -> list[str]:
    """Our own command line, by this very interpreter."""
    return [sys.executable, "-m", "dlq_stream.cli", *arguments]


def pairs(options: dict[str, str]) -> list[str]:
    """Options and their values, one after the other."""
    return [word for pair in options.items() for word in pair]
