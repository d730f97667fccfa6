"""A network that is cut between one of two workers and the broker: for less than a session, and for more."""

from __future__ import annotations

import asyncio
import random

from tests.crash.cluster import HOST, free_ports, with_second_way
from tests.crash.fleet import Fleet, Watch
from tests.crash.harness import SESSION_SECONDS, Result, play
from tests.crash.proxy import proxy
from tests.crash.scenarios.processes import calm
from tests.crash.scenarios.stage import CRASHED, KILLED, Stage
from tests.crash.story import PARTITIONS
from tests.crash.traffic import Traffic

CUT_SECONDS = (SESSION_SECONDS / 3, SESSION_SECONDS * 1.5, SESSION_SECONDS * 1.5)


async def cut(stage: Stage) -> Result:
    """Network between a worker and the broker cut in both directions."""
    return await _cut(stage, to_broker=True, to_worker=True)


async def cut_to_broker(stage: Stage) -> Result:
    """Network cut one way: what the worker sends does not arrive."""
    return await _cut(stage, to_broker=True, to_worker=False)


async def cut_to_worker(stage: Stage) -> Result:
    """Network cut one way: what the broker answers does not arrive."""
    return await _cut(stage, to_broker=False, to_worker=True)


async def _cut(stage: Stage, *, to_broker: bool, to_worker: bool) -> Result:
    """The first worker is behind the proxy; the second one is not, and takes over when the session is over."""
    (port,) = free_ports(1)
    with with_second_way(port) as (broker, second):
        async with proxy(port, second) as way:

            async def trouble(fleet: Fleet, rng: random.Random, traffic: Traffic) -> None:
                worker = fleet.workers["worker-a"]
                for seconds_cut in CUT_SECONDS:
                    await calm(rng)
                    had, watch = worker.at_work_on(), Watch()
                    way.cut(to_broker=to_broker, to_worker=to_worker)
                    await asyncio.sleep(seconds_cut)
                    way.heal()
                    await fleet.until_shared(PARTITIONS)
                    fleet.note(watch, "worker-a", had, f"cut for {seconds_cut:g} s", ready=False)

            def arrange(fleet: Fleet) -> None:
                behind = fleet.workers["worker-a"]
                behind.environment = {**behind.environment, "DLQ_BROKERS": f"{HOST}:{port}"}

            scenario = stage.scenario("worker-a", "worker-b", exits=(KILLED, CRASHED))
            return await play(broker, stage.directory, scenario, trouble, arrange)
