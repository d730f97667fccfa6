"""Workers that die, come, go, and stand still."""

from __future__ import annotations

import asyncio
import random
import signal

from tests.crash.fleet import Fleet, Watch
from tests.crash.harness import Result, play
from tests.crash.scenarios.stage import CRASHED, KILLED, Stage
from tests.crash.story import PARTITIONS
from tests.crash.traffic import Traffic
from tests.kafka_fixture import local_kafka

KILLS = 6
FREEZES = 3
CALM_SECONDS = (0.5, 2.0)
"""Bounds of the time between two troubles, in which everybody is at work."""


async def calm(rng: random.Random) -> None:
    """Let them work for a while."""
    await asyncio.sleep(rng.uniform(*CALM_SECONDS))


async def one_worker(stage: Stage) -> Result:
    """One worker, `kill -9` six times."""

    async def trouble(fleet: Fleet, rng: random.Random, traffic: Traffic) -> None:
        for _ in range(KILLS):
            await asyncio.sleep(rng.uniform(0.03, 0.1) * traffic.seconds)
            await fleet.kill("worker-a")

    with local_kafka() as kafka:
        return await play(kafka, stage.directory, stage.scenario("worker-a"), trouble)


async def two_workers(stage: Stage) -> Result:
    """Two workers, kills, joins and leaves."""
    return await _coming_and_going(stage, "worker-a", "worker-b")


async def three_workers(stage: Stage) -> Result:
    """Three workers, kills, joins and leaves."""
    return await _coming_and_going(stage, "worker-a", "worker-b", "worker-c")


async def _coming_and_going(stage: Stage, *workers: str) -> Result:
    """The last worker has no stable instance id, so that both ways to be a member of a group take part.

    Whose turn it is, is chance; what happens is not, so that every kind of trouble occurs.
    """

    async def trouble(fleet: Fleet, rng: random.Random, traffic: Traffic) -> None:
        for what in ("kill", "leave", "kill", "join", "kill", "leave", "join", "kill"):
            await calm(rng)
            here = sorted(name for name, worker in fleet.workers.items() if not worker.stopping)
            match what:
                case "kill":
                    await fleet.kill(rng.choice(here))
                case "leave":
                    await fleet.leave(rng.choice(here))
                case "join":
                    await fleet.join(next(name for name in fleet.workers if name not in here))

    def arrange(fleet: Fleet) -> None:
        fleet.workers[workers[-1]].static = False

    with local_kafka() as kafka:
        return await play(kafka, stage.directory, stage.scenario(*workers), trouble, arrange)


async def zombie(stage: Stage) -> Result:
    """One of two workers frozen beyond its session, then woken, three times."""

    async def trouble(fleet: Fleet, rng: random.Random, traffic: Traffic) -> None:
        for _ in range(FREEZES):
            await calm(rng)
            name = rng.choice(sorted(fleet.workers))
            (other,) = fleet.workers.keys() - {name}
            had, watch = fleet.workers[name].at_work_on(), Watch()
            fleet.workers[name].signal(signal.SIGSTOP)
            everything = range(PARTITIONS)
            await fleet.until(lambda: fleet.share(PARTITIONS, [other]), f"{other} should have {list(everything)}")  # noqa: B023
            fleet.note(watch, name, had, "freeze")
            await calm(rng)
            fleet.workers[name].signal(signal.SIGCONT)
            await fleet.until_shared(PARTITIONS)

    with local_kafka() as kafka:
        scenario = stage.scenario("worker-a", "worker-b", exits=(KILLED, CRASHED))
        return await play(kafka, stage.directory, scenario, trouble)
