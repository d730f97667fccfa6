"""The course of one run: workers that are started again, chaos step by step, then calm, and the verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from dlq_stream.runtime.partition import Partition
from tests.simulation import loop as virtual
from tests.simulation.changelog import SimFollower
from tests.simulation.chaos import Chaos
from tests.simulation.life import Died, track_tasks
from tests.simulation.names import ANY_CONDITIONS, PARTITIONS, STEPS, Conditions
from tests.simulation.outcome import Outcome
from tests.simulation.worker import Worker
from tests.simulation.world import World

PAUSE_SECONDS_MAX = 0.25
"""Between two steps of chaos passes up to so much time, unless the step is to wait."""

SETTLE_SECONDS_MAX = 400
RESTART_SECONDS_MAX = 4.0
AWAY_SECONDS = 30.0
"""How long a worker is away that was taken out, or joins late."""


class Course:
    """What happens in a world."""

    def __init__(self, world: World, steps: int, conditions: Conditions) -> None:
        self._world = world
        self._steps = steps
        self._random = world.random_of("course")
        self._chaos = Chaos(world, self.reset_offsets, conditions.weights)

    def run(self) -> Outcome:
        """Run to the end, in virtual time."""
        world = self._world
        track_tasks(world.loop)
        world.loop.set_exception_handler(self._unhandled)
        try:
            virtual.run(self._main(), world.loop)
        except virtual.Stuck as error:
            world.violated(f"deadlock: {error}", error)
        figures, checker = world.outcome.figures, world.checker
        figures["emissions"] = len(checker.outputs.emitted)
        figures["dead letters"] = checker.outputs.dead_letters
        figures["messages"] = sum(len(fold.messages) + fold.lives.total() for fold in checker.folds.values())
        figures["virtual seconds"] = int(world.loop.time())
        figures["rebalances"] = world.group.generation
        for partition in world.partitions:
            figures["runs missed"] += partition.missed
            figures["records skipped"] += partition.skipped
        return world.outcome

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, Died | None):
            self._world.violated(f"nobody handled {error!r}: {context['message']}", error)

    async def _main(self) -> None:
        world = self._world
        tasks = [asyncio.ensure_future(agent.run()) for agent in world.agents]
        tasks += [asyncio.ensure_future(self._supervise(worker)) for worker in world.workers]
        try:
            for _ in range(self._steps):
                if world.outcome.violations:
                    return
                world.pause = self._random.uniform(0.0, PAUSE_SECONDS_MAX)
                self._chaos.step()
                await asyncio.sleep(world.pause)
            await self._settle()
        finally:
            for worker in world.workers:
                if worker.process is not None:
                    worker.process.life.kill("the run is over")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)

    async def _supervise(self, worker: Worker) -> None:
        """Start again whatever ended, after a pause; some join late, and are taken out for a while."""
        world = self._world
        random = world.random_of(f"supervisor {worker.name}")
        if worker is not world.workers[0] and random.random() < 0.3:
            await asyncio.sleep(random.uniform(0.0, AWAY_SECONDS))
        while True:
            async with world.resetting:  # nobody starts while offsets are being reset
                worker.start()
            assert worker.process is not None
            await worker.process.life.ended.wait()
            pauses = (0.05, random.uniform(0.0, RESTART_SECONDS_MAX), 12.0, AWAY_SECONDS)
            await asyncio.sleep(random.choices(pauses, (4, 4, 3, 1))[0])
            if world.crashes and random.random() < 0.15:
                worker.damage()

    async def reset_offsets(self, topics: Sequence[str]) -> None:
        """Offsets can be reset only while nobody is in the group, so everybody is stopped for that."""
        world, broker = self._world, self._world.broker
        async with world.resetting:
            for worker in world.workers:
                if worker.alive and worker.process is not None:
                    worker.process.life.kill("stopped for a reset of offsets")
            await asyncio.sleep(9.0)  # what was in flight has arrived
            places = [(topic, number) for topic in topics for number in range(PARTITIONS)]
            known = {place: broker.committed_offset(*place) for place in places}
            positions = [(place, min(known[place], world.oldest_retained(*place))) for place in places]
            world.note("chaos", f"resets offsets: {positions}")
            whole = all(position == 0 for _, position in positions)
            world.count(f"replays {'of whole topics from offset 0' if whole else 'of what topics still hold'}")
            broker.reset_offsets(positions)
            for (topic, number), position in positions:
                fold = world.checker.folds[number]
                fold.consumed[topic] = min(position, fold.consumed.get(topic, 0))

    # --- the end ------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Heal everything, wait until all is done, and look at what is there."""
        world = self._world
        world.note("chaos", "ends")
        world.crashes = False
        world.broker.forgetful = False
        world.losses = world.slowness = world.lost_polls = world.repeated_polls = 0.0
        world.away_until = 0.0
        for agent in world.agents:
            agent.be_calm()
        for worker in world.workers:
            worker.clock.skew_ms = 0
            if worker.process is not None:
                worker.process.life.thaw()
        world.restore_topics()
        deadline = world.loop.time() + SETTLE_SECONDS_MAX
        while left := self._left():
            if world.outcome.violations:
                return
            if world.loop.time() > deadline:
                world.violated(f"lost, or never done: {left[:5]}")
                return
            await asyncio.sleep(1.0)
        await self._check_stores()
        world.checker.check_end(set().union(*(agent.reported for agent in world.agents)))

    def _left(self) -> list[str]:
        world = self._world
        left = [f"agent {agent.group} has more to read" for agent in world.agents if not agent.idle]
        if world.under_way:
            left.append(f"{world.under_way} reports are under way")
        owned = sorted(number for worker in world.workers for number in worker.owned)
        if owned != list(range(PARTITIONS)):
            left.append(f"the workers own the partitions {owned}")
        left += [f"the copies of {worker.name} have not caught up" for worker in world.workers if worker.behind]
        return left or world.checker.unsettled()

    async def _check_stores(self) -> None:
        """Every store that somebody works on or keeps as a copy, at an instant at which it has everything."""
        world = self._world
        checked: set[tuple[str, int]] = set()
        for _ in range(SETTLE_SECONDS_MAX):
            left = []
            for worker in world.workers:
                for number in (*worker.owned, *worker.copies):
                    if (worker.name, number) in checked:
                        continue
                    if world.up_to_date(number, worker.disks[number]):
                        world.checker.check_disk(number, worker.disks[number])
                        checked.add((worker.name, number))
                    else:  # retention goes on: between a commit, its store write, and those of copies
                        left.append(f"the store of partition {number} of {worker.name}")
            if not left:
                return
            await asyncio.sleep(0.05)
        world.violated(f"never up to date: {left}")


def simulate(
    seed: int,
    steps: int = STEPS,
    partition_type: type[Partition] = Partition,
    follower_type: type[SimFollower] = SimFollower,
    conditions: Conditions = ANY_CONDITIONS,
) -> Outcome:
    """One run.  The same arguments give the same run."""
    return Course(World(seed, partition_type, follower_type, conditions), steps, conditions).run()
