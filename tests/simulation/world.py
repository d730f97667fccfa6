"""One run: a broker, workers, agents and chaos, all drawn from one seed; and the verdict at the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

from dlq_stream.core.classification import Classifier
from dlq_stream.core.events import RetryEmitted, RowStuck
from dlq_stream.engine import Engine
from dlq_stream.runtime.partition import Partition
from dlq_stream.tables import TABLES, marker
from dlq_stream.tables.marker import Marker
from tests.simulation import loop as virtual
from tests.simulation.agents import Agent
from tests.simulation.broker import Broker, Feed, Txn
from tests.simulation.chaos import Chaos
from tests.simulation.checkers import Checker
from tests.simulation.disk import Disk
from tests.simulation.group import Group
from tests.simulation.life import Died, track_tasks
from tests.simulation.names import (
    APP,
    COMMANDS,
    FAILURES,
    OVENS_RETRY,
    PARTITIONS,
    POLICIES,
    QUARANTINE,
    RETENTION_MS,
    SOURCE_PARTITIONS,
    SOURCES,
    STEPS,
    Conditions,
)
from tests.simulation.outcome import Outcome
from tests.simulation.ports import EPOCH_MS
from tests.simulation.worker import Worker

ANY_CONDITIONS = Conditions()
SETTLE_SECONDS_MAX = 400
RESTART_SECONDS_MAX = 4.0

CLASSIFIER = Classifier()


class World:
    """Everything of one run.  ``partition_type`` is `Partition`, unless a bug is planted."""

    def __init__(self, seed: int, steps: int, partition_type: type[Partition], conditions: Conditions) -> None:
        self.seed = seed
        self.loop = virtual.VirtualLoop()
        self.outcome = Outcome(seed)
        self.coverage, self.ended = self.outcome.coverage, self.outcome.ended
        self.partition_type = partition_type
        self.inputs, self.sources = Feed(), Feed()
        self.crashes = True
        self.doom = conditions.doom
        self.away_until = 0.0
        self.lost_polls = self.repeated_polls = 0.0
        self.pause = 0.0
        self.under_way = 0
        self.partitions: list[Partition] = []
        self.resetting = asyncio.Lock()
        self._steps = steps
        self._random = self.random_of("world")
        self.losses = self._random.choice((0.0, 0.0, 0.002, 0.01))
        if conditions.losses is not None:
            self.losses = conditions.losses
        self.broker = Broker(self.random_of("broker"), lambda: EPOCH_MS + int(self.loop.time() * 1000))
        self.checker = Checker(self.broker, self.violated, self._clock_of)
        self.broker.decided.append(self._decided)
        self._create_topics()
        self.engine = Engine(
            app_id=APP,
            policies=POLICIES,
            classifier_for=lambda queue: CLASSIFIER,
            observe=self._observe,
            attempts_kept_max=3,
            queues_max=3,
            retention_ms=RETENTION_MS,
            dead_letter_bytes_max=2_000,
        )
        self.group = Group(self, self.random_of("group"), PARTITIONS, static=self._random.random() < 0.5)
        self.workers = [Worker(f"w{number}", self) for number in range(1, 3)]
        self.agents = [
            Agent("agent", self, outcomes=True, polite=True),
            Agent("silent", self, outcomes=False, polite=self._random.random() < 0.7),
        ]
        self.chaos = Chaos(self, conditions.weights)

    def random_of(self, name: str) -> Random:
        """Chance of its own for everyone, so that no order of tasks changes anybody else's."""
        return Random(f"{self.seed} {name}")

    def _create_topics(self) -> None:
        for topic in (FAILURES, COMMANDS):
            self.broker.create(topic, PARTITIONS, self.inputs)
        self.broker.create(QUARANTINE, PARTITIONS)
        for spec in TABLES:
            self.broker.create(spec.changelog(APP), PARTITIONS)
            for number in range(PARTITIONS):
                value = marker.encode(Marker("one", APP))
                self.broker.produce(spec.changelog(APP), number, marker.MARKER_KEY, value)
        for topic in (*SOURCES, OVENS_RETRY):
            self.restore_topic(topic)

    def restore_topic(self, name: str) -> None:
        """Make a topic usable again, anew where it is gone."""
        source = not name.endswith("-dlq")
        topic = self.broker.topics.get(name)
        if topic is None:
            if not source:
                return  # the workers create it
            topic = self.broker.create(name, SOURCE_PARTITIONS, self.sources, picky=True)
        topic.writable, topic.silent, topic.compacted, topic.bytes_max = True, False, False, 1_000_000

    # --- what is heard ------------------------------------------------------------------------------------------

    def note(self, who: str, text: str) -> None:
        self.outcome.history.append((self.loop.time(), who, text))

    def violated(self, text: str, cause: BaseException | None = None) -> None:
        """Something is wrong; the run ends at its next step."""
        self.note("checker", text)
        self.outcome.violations.append(text)
        self.outcome.cause = self.outcome.cause or cause

    def _decided(self, txn: Txn) -> None:
        self.note(txn.by, f"commits #{txn.number}: {_summary(txn)}")
        self.outcome.figures["transactions"] += 1
        try:
            self.checker.decided(txn)
        except Exception as error:
            self.violated(f"the checker failed on transaction {txn.number}: {error!r}", error)

    def _observe(self, event: object) -> None:
        if isinstance(event, RetryEmitted) and event.late_ms < 0:
            self.violated(f"early: {event}")
        if isinstance(event, RowStuck):
            self.violated(f"stuck: {event}")

    def _clock_of(self, life: str) -> int:
        name = life.partition(".")[0]
        return next(worker.clock.highest_ms for worker in self.workers if worker.name == name)

    def written(self, number: int, disk: Disk) -> None:
        """A store was written: compare it, now and then, where it has everything."""
        if len(disk.writes) % 8 == 0 and self._up_to_date(number, disk):
            self.checker.check_disk(number, disk)

    def _up_to_date(self, number: int, disk: Disk) -> bool:
        """Whether a store has seen every record of its changelogs."""
        logs = {spec.name: self.broker.log(spec.changelog(APP), number) for spec in TABLES}
        return all(not log.beyond(disk.offsets.get(name, -1) + 1) for name, log in logs.items())

    # --- the run ------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run to the end, in virtual time."""
        track_tasks(self.loop)
        self.loop.set_exception_handler(self._unhandled)
        virtual.run(self._main(), self.loop)
        figures, checker = self.outcome.figures, self.checker
        self.outcome.transitions = checker.transitions
        figures["emissions"] = len(checker.emitted)
        figures["dead letters"] = checker.dead_letters
        for partition in self.partitions:
            figures["runs missed"] += partition.missed
            figures["records skipped"] += partition.skipped
        figures["messages"] = sum(len(fold.messages) + len(fold.purges) for fold in checker.folds.values())
        return self.outcome

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, Died | None):
            self.violated(f"nobody handled {error!r}: {context['message']}", error)

    async def _main(self) -> None:
        tasks = [asyncio.ensure_future(agent.run()) for agent in self.agents]
        tasks += [asyncio.ensure_future(self._supervise(worker)) for worker in self.workers]
        try:
            for _ in range(self._steps):
                if self.outcome.violations:
                    return
                self.pause = self._random.uniform(0.0, 1.0)
                self.chaos.step()
                await asyncio.sleep(self.pause)
            await self._settle()
        except virtual.Stuck as error:
            self.violated(f"deadlock: {error}", error)
        finally:
            for worker in self.workers:
                if worker.process is not None:
                    worker.process.life.kill("the run is over")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)

    async def _supervise(self, worker: Worker) -> None:
        """Start again whatever ended, after a pause."""
        random = self.random_of(f"supervisor {worker.name}")
        while True:
            worker.start()
            assert worker.process is not None
            await worker.process.life.ended.wait()
            await asyncio.sleep(random.choice((0.05, random.uniform(0.0, RESTART_SECONDS_MAX), 12.0)))
            if self.crashes and random.random() < 0.15:
                worker.damage()
            async with self.resetting:  # nobody starts while offsets are being reset
                pass

    async def reset_offsets(self, topic: str) -> None:
        """Offsets can be reset only while nobody is in the group, so everybody is stopped for that."""
        async with self.resetting:
            for worker in self.workers:
                if worker.alive and worker.process is not None:
                    worker.process.life.kill("stopped for a reset of offsets")
            await asyncio.sleep(4.0)  # what was in flight has arrived
            places = [(topic, number) for number in range(PARTITIONS)]
            known = {place: self.broker.committed_offset(*place) for place in places}
            positions = [(place, min(known[place], self.chaos.oldest_retained(*place))) for place in places]
            self.note("chaos", f"resets offsets: {positions}")
            self.broker.reset_offsets(positions)
            for (_, number), position in positions:
                fold = self.checker.folds[number]
                fold.consumed[topic] = min(position, fold.consumed.get(topic, 0))

    async def _settle(self) -> None:
        """Heal everything, wait until all is done, and look at what is there."""
        self.note("chaos", "ends")
        self.crashes = False
        self.losses = self.lost_polls = self.repeated_polls = 0.0
        self.away_until = 0.0
        for agent in self.agents:
            agent.calm = True
        for worker in self.workers:
            if worker.process is not None:
                worker.process.life.thaw()
        for name in list(self.broker.topics):
            if name not in (FAILURES, COMMANDS, QUARANTINE) and not name.endswith("-changelog"):
                self.restore_topic(name)
        for name in (*SOURCES, OVENS_RETRY):
            self.restore_topic(name)
        deadline = self.loop.time() + SETTLE_SECONDS_MAX
        while left := self._left():
            if self.outcome.violations:
                return
            if self.loop.time() > deadline:
                self.violated(f"lost, or never done: {left[:5]}")
                return
            await asyncio.sleep(1.0)
        await self._check_stores()

    def _left(self) -> list[str]:
        left = [f"agent {agent.group} has more to read" for agent in self.agents if not agent.idle]
        if self.under_way:
            left.append(f"{self.under_way} reports are under way")
        owned = sorted(number for worker in self.workers for number in worker.owned)
        if owned != list(range(PARTITIONS)):
            left.append(f"the workers own the partitions {owned}")
        return left or self.checker.unsettled()

    async def _check_stores(self) -> None:
        owned = {number: worker for worker in self.workers for number in worker.owned}
        for number, worker in owned.items():
            for _ in range(SETTLE_SECONDS_MAX):
                if self._up_to_date(number, worker.disks[number]):
                    self.checker.check_disk(number, worker.disks[number])
                    break
                await asyncio.sleep(0.01)  # retention goes on: between a commit and its store write
            else:
                self.violated(f"the store of partition {number} is never up to date")


def _summary(txn: Txn) -> str:
    counts = Counter(entry.topic.removeprefix(f"{APP}-") for entry in txn.entries)
    offsets = {f"{topic.removeprefix(f'{APP}-')}-{number}": offset for (topic, number), offset in txn.offsets.items()}
    return f"{dict(counts)} {offsets or ''}"


def simulate(
    seed: int,
    steps: int = STEPS,
    partition_type: type[Partition] = Partition,
    conditions: Conditions = ANY_CONDITIONS,
) -> Outcome:
    """One run.  The same arguments give the same run."""
    return World(seed, steps, partition_type, conditions).run()
