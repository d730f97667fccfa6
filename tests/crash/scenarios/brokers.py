"""Brokers that die: the only one, and one after the other of three."""

from __future__ import annotations

import asyncio
import random
import time

from tests.crash.cluster import Cluster, three_nodes
from tests.crash.fleet import Fleet, Watch
from tests.crash.harness import Result, play
from tests.crash.scenarios.processes import calm
from tests.crash.scenarios.stage import CRASHED, KILLED, Stage
from tests.crash.story import PARTITIONS
from tests.crash.traffic import Traffic
from tests.kafka_clients import admin
from tests.kafka_fixture import LocalKafka, local_kafka

KILLS = 3
DOWN_SECONDS = 3.0
"""How long one of three brokers is away; the others have to take over meanwhile."""

IN_SYNC_SECONDS_MAX = 60.0


async def kill_and_start(fleet: Fleet, broker: LocalKafka, name: str, down_seconds: float = 0.0) -> None:
    """`kill -9`, and the next start; a broker's death holds up every partition."""
    watch = Watch()
    broker.kill()
    await asyncio.sleep(down_seconds)
    await asyncio.to_thread(broker.start)
    fleet.note(watch, name, range(PARTITIONS), "broker kill -9")


async def broker(stage: Stage) -> Result:
    """The broker, `kill -9` and started again three times."""
    with local_kafka() as kafka:

        async def trouble(fleet: Fleet, rng: random.Random, traffic: Traffic) -> None:
            for _ in range(KILLS):
                await asyncio.sleep(rng.uniform(0.06, 0.12) * traffic.seconds)
                await kill_and_start(fleet, kafka, "broker")

        scenario = stage.scenario("worker-a", "worker-b", exits=(KILLED, CRASHED))
        return await play(kafka, stage.directory, scenario, trouble)


async def three_brokers(stage: Stage) -> Result:
    """Three brokers (replication 3, min.insync.replicas 2), a rolling `kill -9`."""
    with three_nodes() as cluster:

        async def trouble(fleet: Fleet, rng: random.Random, traffic: Traffic) -> None:
            order = list(enumerate(cluster.nodes, 1))
            rng.shuffle(order)
            for number, node in order:
                await calm(rng)
                await kill_and_start(fleet, node, f"broker {number}", DOWN_SECONDS)
                await until_in_sync(cluster)

        scenario = stage.scenario("worker-a", "worker-b", exits=(KILLED, CRASHED), replication=3)
        return await play(cluster, stage.directory, scenario, trouble)


async def until_in_sync(cluster: Cluster) -> None:
    """Wait until every replica of every partition has everything, as whoever rolls a cluster does."""
    deadline = time.monotonic() + IN_SYNC_SECONDS_MAX
    while behind := await _behind(cluster):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in sync: {behind}")
        await asyncio.sleep(0.25)


async def _behind(cluster: Cluster) -> list[str]:
    async with admin(cluster.bootstrap) as client:
        return [
            f"{topic['topic']}[{partition['partition']}]"
            for topic in await client.describe_topics()
            for partition in topic["partitions"]
            if len(partition["isr"]) < len(partition["replicas"])
        ]
