"""``dlq-stream demo``: Kafka, topics, one course of it, the verdict; and everything put away again."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from dlq_stream.core.connection import Connection
from dlq_stream.core.errors import DLQError
from dlq_stream.demo.broker import Broker, broker, create_topics, delete_traces
from dlq_stream.demo.course import Demo, dlq_stream_command, pairs
from dlq_stream.demo.plan import PARTITIONS, Plan, new_name, worker_environment
from dlq_stream.demo.reading import read_all
from dlq_stream.demo.screen import keys, screen
from dlq_stream.demo.summary import Outcome, human_lines, introduction, json_line
from dlq_stream.demo.supervisor import run_to_end
from dlq_stream.demo.verdict import Evidence, judge


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says.  No ``brokers``: start Kafka.  ``seed`` None: a new one, which the end names."""

    brokers: Connection | None = None
    seconds: float = 60.0
    rate: float = 50.0
    is_terminal: bool = True
    seed: int | None = None
    wait_seconds: float = 30.0


class Interruption:
    """SIGINT and SIGTERM: end the run early; before there is one, give up.  What was started is put away either way."""

    def __init__(self) -> None:
        self.demo: Demo | None = None
        self.has_given_up = False
        self._task = asyncio.current_task()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._interrupt)

    def _interrupt(self) -> None:
        if self.demo is not None:
            self.demo.end()
        elif self._task is not None and not self.has_given_up:
            self.has_given_up = True
            self._task.cancel()


async def demonstrate(options: Options) -> int:
    """Run the demo and return the exit code: 1 where the verdict fails, 0 where it is good or was not waited for."""
    interruption = Interruption()
    try:
        return await _demonstrate(options, interruption)
    except asyncio.CancelledError:
        if not interruption.has_given_up:
            raise
        print("Interrupted before there was anything to judge.", file=sys.stderr)
        return 0


async def _demonstrate(options: Options, interruption: Interruption) -> int:
    directory = Path(tempfile.mkdtemp(prefix="dlq-demo-"))
    is_well = False
    try:
        async with broker(options.brokers, directory, options.wait_seconds) as kafka:
            seed = options.seed if options.seed is not None else random.randrange(1_000_000)
            plan = Plan(new_name(), kafka.addresses, seed, options.seconds, options.rate, start_ms=0)
            print(introduction(plan, kafka.origin), file=sys.stderr, flush=True)
            async with cleaned_up(plan, kafka) as left_behind:
                outcome = await judged(plan, directory, options, interruption)
            outcome.left_behind = left_behind
            is_well = outcome.word != "failed"
    finally:
        put_away(directory, keeps_logs=not (is_well or interruption.has_given_up))
    print("\n".join(human_lines(outcome)) if options.is_terminal else json_line(outcome), flush=True)
    return 0 if is_well else 1


def put_away(directory: Path, *, keeps_logs: bool) -> None:
    """Delete the run's directory, unless somebody will want to know why."""
    if keeps_logs and any(directory.glob("*.log")):
        print(f"The logs of the processes stay in {directory}", file=sys.stderr)
    else:
        shutil.rmtree(directory, ignore_errors=True)


async def judged(plan: Plan, directory: Path, options: Options, interruption: Interruption) -> Outcome:
    """From the first topic to the verdict."""
    started = time.monotonic()
    await init(plan)
    await create_topics(plan)
    with screen(options.is_terminal) as shown:
        demo = Demo(plan, directory, shown, kills_at_half_time=not options.is_terminal)
        interruption.demo = demo
        with keys(options.is_terminal, demo.pressed):
            drain_seconds = await demo.run()
    plan = demo.plan
    found = await read_all(plan.connection, demo.ledger.topics)
    evidence = Evidence(found[plan.source], found[plan.results], found[plan.dead_letters], found[plan.failures])
    return Outcome(
        plan=plan,
        verdict=judge(plan, evidence, demo.ledger.produced if demo.is_ended_early else plan.events_planned),
        mistakes=demo.supervisor.mistakes,
        is_ended_early=demo.is_ended_early,
        kills=demo.kills,
        restarts=sum(each.restarts for each in demo.workers),
        drain_seconds=drain_seconds,
        total_seconds=time.monotonic() - started,
    )


async def init(plan: Plan) -> None:
    """``dlq-stream init``, as an operator would run it.  Raises DLQError with what it said where it fails."""
    options = {"--brokers": plan.brokers, "--app-id": plan.app_id, "--partitions": str(PARTITIONS)}
    command = [*dlq_stream_command("init"), *pairs(options)]
    code, said = await run_to_end(*command, environment=worker_environment(os.environ))
    if code != 0:
        raise DLQError(f"dlq-stream init failed (exit {code}):\n{said}")


@asynccontextmanager
async def cleaned_up(plan: Plan, kafka: Broker) -> AsyncIterator[list[str]]:
    """Delete topics and groups afterwards where the cluster goes on living; the list names what could not be."""
    left_behind: list[str] = []
    try:
        yield left_behind
    finally:
        if not kafka.is_ours:
            left_behind += await delete_traces(plan)
