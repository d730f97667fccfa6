"""A worker that dies and stays away while many messages are pending: what a standby of its partitions is worth.

Two workers have half of the partitions each, and ten messages are pending beside each one that fails.  One worker is
killed; the other takes its partitions over once the session has timed out, and has to restore them from the changelogs,
or has a copy.  What is measured is the time from the kill to the first retry of those partitions that is visible to a
``read_committed`` consumer and fell due after the kill, so that the dead worker cannot have emitted it.
"""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import signal
import time

from tests.crash.fleet import KILL, READY_SECONDS_MAX, Comeback, Fleet, Watch
from tests.crash.harness import Result, play
from tests.crash.scenarios.processes import calm
from tests.crash.scenarios.stage import Stage
from tests.crash.story import PARTITIONS
from tests.crash.traffic import Traffic
from tests.kafka_fixture import local_kafka

WAITING = 10
"""So many messages are pending beside each one that fails."""

WARM_PART = 0.05
"""A take-over is warm if it restores less than this part of what waits in the partitions taken over."""

_COPIED = b"standbys caught up: partitions"
_READY = b"ready: partitions"
_OPENED = re.compile(rb"opened partitions .* in ([\d.]+) s, (\d+) rows restored")


async def cold(stage: Stage) -> Result:
    """Take-over of a killed worker's partitions, ten messages pending for each failure: without a copy."""
    return await _taken_over(stage, standby_replicas=0)


async def warm(stage: Stage) -> Result:
    """Take-over of a killed worker's partitions, ten messages pending for each failure: by a standby."""
    return await _taken_over(stage, standby_replicas=1)


async def _taken_over(stage: Stage, standby_replicas: int) -> Result:
    """Each of both workers once; who comes back has an empty disk, so that the second take-over is as the first."""
    waiting = WAITING * stage.events

    async def trouble(fleet: Fleet, rng: random.Random, traffic: Traffic) -> None:
        for name in rng.sample(sorted(fleet.workers), len(fleet.workers)):
            await calm(rng)
            if standby_replicas:
                await _until_copied(fleet)
            had = fleet.workers[name].at_work_on()
            rows = await _killed(fleet, name, traffic)
            if (rows < WARM_PART * waiting * len(had) / PARTITIONS) != bool(standby_replicas):
                raise RuntimeError(f"standby_replicas {standby_replicas}, and {rows} rows were restored for {name}")
            shutil.rmtree(fleet.workers[name].data)
            await fleet.back(name)

    with local_kafka() as kafka:
        scenario = stage.scenario("worker-a", "worker-b", waiting=waiting, standby_replicas=standby_replicas)
        return await play(kafka, stage.directory, scenario, trouble)


async def _until_copied(fleet: Fleet) -> None:
    """Wait until each has caught up with what the other one has, since they last shared the partitions."""
    await fleet.until(
        lambda: all(_COPIED in worker.text().rpartition(_READY)[2] for worker in fleet.workers.values()),
        "the standbys should have caught up",
    )


async def _killed(fleet: Fleet, name: str, traffic: Traffic) -> int:
    """Kill one for good and wait for a retry of its partitions; returns how many rows were restored for it."""
    dead = fleet.workers[name]
    [heir] = (worker for worker in fleet.workers.values() if worker is not dead)
    had, written, watch = dead.at_work_on(), len(heir.text()), Watch()
    dead.stopping = True
    dead.signal(signal.SIGKILL)
    await fleet.until(lambda: dead.process is None, f"{name} should be dead")
    first_retry = traffic.first_retry(had, time.time_ns() // 1_000_000)
    await fleet.until(lambda: fleet.share(PARTITIONS, [heir.name]), f"{heir.name} should have all that {name} had")
    ready_seconds = watch.seconds
    async with asyncio.timeout(READY_SECONDS_MAX):
        emitting_seconds = watch.seconds_at(await first_retry)
    opened = _OPENED.findall(heir.text()[written:])
    seconds, rows = sum(float(each) for each, _ in opened), sum(int(each) for _, each in opened)
    detail = f"of which opening took {seconds:.1f} s with {rows} rows restored"
    fleet.comebacks.append(Comeback(name, had, watch.began_ms, ready_seconds, KILL, emitting_seconds, detail))
    return rows
