"""Everything that there is in one run, and what is heard of it; what happens there is `tests.simulation.course`."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

from dlq_stream.core.classification import Classifier
from dlq_stream.core.events import RetryEmitted, RowStuck
from dlq_stream.core.policy import Policies
from dlq_stream.engine import Engine
from dlq_stream.runtime.partition import Partition
from dlq_stream.tables import TABLES, marker
from dlq_stream.tables.marker import Marker
from tests.simulation.agents import Agent, Manners
from tests.simulation.broker import Broker, Feed, Txn
from tests.simulation.changelog import SimFollower
from tests.simulation.checker import Checker
from tests.simulation.disk import Disk
from tests.simulation.group import Group
from tests.simulation.loop import VirtualLoop
from tests.simulation.names import (
    APP,
    ATTEMPTS_KEPT_MAX,
    COMMANDS,
    FAILURES,
    OVENS_RETRY,
    PARTITIONS,
    POLICIES,
    QUARANTINE,
    QUARANTINE_BYTES_MAX,
    QUEUES_MAX,
    RETENTION_MS,
    SOURCE_PARTITIONS,
    SOURCES,
    STANDBY_REPLICAS,
    WORKERS,
    Conditions,
)
from tests.simulation.outcome import Cell, Outcome
from tests.simulation.ports import EPOCH_MS, SeenClock
from tests.simulation.worker import Worker

CLASSIFIER = Classifier()
STORES_COMPARED_EVERY = 8


class World:
    """A broker, workers, agents, and what they share.

    ``partition_type`` is `Partition`, and ``follower_type`` `SimFollower`, unless a bug is planted.
    """

    def __init__(
        self, seed: int, partition_type: type[Partition], follower_type: type[SimFollower], conditions: Conditions
    ) -> None:
        self.seed = seed
        self.loop = VirtualLoop()
        self.outcome = Outcome(seed)
        self.partition_type = partition_type
        self.follower_type = follower_type
        self.inputs, self.sources = Feed(), Feed()
        self.crashes = True
        self.doom = conditions.doom
        self.away_until = 0.0
        self.slowness = self.lost_polls = self.repeated_polls = 0.0
        self.pause = 0.0
        self.under_way = 0
        self.partitions: list[Partition] = []
        self.clocks: dict[tuple[str, int], SeenClock] = {}
        self.published = POLICIES
        self.decides_by: dict[tuple[str, int], Policies] = {}
        self.resetting = asyncio.Lock()
        random = self.random_of("world")
        self.losses = random.choice((0.0, 0.0, 0.002, 0.01))
        if conditions.losses is not None:
            self.losses = conditions.losses
        self.wild_clocks = random.random() < 0.25
        self.retention_ms = random.choice(RETENTION_MS)
        self.broker = Broker(self.random_of("broker"), self.now_ms)
        self.checker = Checker(self.broker, self, self._clock_of, self._policies_of, self.retention_ms)
        self.broker.decided.append(self._decided)
        self._create_topics()
        self.engine = Engine(
            app_id=APP,
            policies=POLICIES,
            classifier_for=lambda policy: CLASSIFIER,
            observe=self.observe,
            attempts_kept_max=ATTEMPTS_KEPT_MAX,
            queues_max=QUEUES_MAX,
            retention_ms=self.retention_ms,
            dead_letter_bytes_max=2_000,
            purge_bytes_max=1_000,
        )
        replicas = self.random_of("standbys").choice(STANDBY_REPLICAS)
        self.count(f"runs with {replicas} standby replicas")
        self.group = Group(
            self, self.random_of("group"), PARTITIONS, static=random.random() < 0.5, standby_replicas=replicas
        )
        self.workers = [Worker(f"w{number}", self) for number in range(1, 1 + random.choice(WORKERS))]
        self.count(f"runs with {len(self.workers)} workers")
        self.agents = [
            Agent("agent", self, Manners(outcomes=True, polite=True)),
            Agent("silent", self, Manners(outcomes=False, polite=random.random() < 0.7)),
        ]
        if random.random() < 0.5:
            self.agents.append(Agent("hasty", self, Manners(outcomes=True, polite=True, hasty=True)))

    def random_of(self, name: str) -> Random:
        """Chance of its own for everyone, so that no order of tasks changes anybody else's."""
        return Random(f"{self.seed} {name}")

    def now_ms(self) -> int:
        """The brokers' clock, which is right."""
        return EPOCH_MS + int(self.loop.time() * 1000)

    # --- topics -------------------------------------------------------------------------------------------------

    def _create_topics(self) -> None:
        for topic in (FAILURES, COMMANDS):
            self.broker.create(topic, PARTITIONS, self.inputs)
        self.broker.create(QUARANTINE, PARTITIONS).bytes_max = QUARANTINE_BYTES_MAX
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

    def restore_topics(self) -> None:
        """Make all destinations usable again."""
        for name in {**self.broker.topics, **dict.fromkeys((*SOURCES, OVENS_RETRY))}:
            if name not in (FAILURES, COMMANDS, QUARANTINE) and not name.endswith("-changelog"):
                self.restore_topic(name)

    def heal_brokers(self) -> None:
        """Requests take as long as usual."""
        self.slowness = 0.0

    def oldest_retained(self, topic: str, partition: int) -> int:
        """The intake topics are kept for less time than closed messages, half of it."""
        kept_since = self.now_ms() - self.retention_ms // 2
        entries = self.broker.log(topic, partition).entries
        return next((entry.offset for entry in entries if entry.timestamp >= kept_since), len(entries))

    # --- what is heard ------------------------------------------------------------------------------------------

    def note(self, who: str, text: str) -> None:
        self.outcome.history.append((self.loop.time(), who, text))

    def count(self, figure: str) -> None:
        self.outcome.figures[figure] += 1

    def cell(self, cell: Cell) -> None:
        self.outcome.cells[cell] += 1

    def violated(self, text: str, cause: BaseException | None = None) -> None:
        """Something is wrong; the run ends at its next step."""
        self.note("checker", text)
        self.outcome.violations.append(text)
        self.outcome.cause = self.outcome.cause or cause

    def _decided(self, txn: Txn) -> None:
        self.note(txn.by, f"commits #{txn.number}: {_summary(txn)}")
        self.count("transactions")
        try:
            self.checker.decided(txn)
        except Exception as error:
            self.violated(f"the checker failed on transaction {txn.number}: {error!r}", error)

    def observe(self, event: object) -> None:
        """What workers say of themselves."""
        if isinstance(event, RetryEmitted) and event.late_ms < 0:
            self.violated(f"early: {event}")
        if isinstance(event, RowStuck):
            self.violated(f"stuck: {event}")

    def publish(self, policies: Policies) -> None:
        """They are written to their topic: each worker hears of them some time later, or reads them at its start."""
        self.published = policies
        self.count("policies published")
        for worker in self.workers:
            if worker.process is not None and worker.alive:
                worker.process.hear(policies)

    def _policies_of(self, life: str, number: int) -> Policies:
        return self.decides_by[life, number]

    def _clock_of(self, life: str, number: int) -> int:
        return self.clocks[life, number].highest_ms

    def written(self, number: int, disk: Disk) -> None:
        """A store was written: look at it, and compare it, now and then, where it has everything."""
        self.checker.check_written(number, disk)
        if len(disk.writes) % STORES_COMPARED_EVERY == 0:
            self.compare(number, disk)

    def compare(self, number: int, disk: Disk) -> bool:
        """Compare a store with a rebuild, where it has everything; returns whether it has."""
        if not self.up_to_date(number, disk):
            return False
        self.checker.check_disk(number, disk)
        if disk.is_copy:
            self.count("copies compared with a rebuild")
        return True

    def up_to_date(self, number: int, disk: Disk) -> bool:
        """Whether a store has seen every record of its changelogs."""
        logs = {spec.name: self.broker.log(spec.changelog(APP), number) for spec in TABLES}
        return all(not log.beyond(disk.offsets.get(name, -1) + 1) for name, log in logs.items())


def _summary(txn: Txn) -> str:
    counts = Counter(entry.topic.removeprefix(f"{APP}-") for entry in txn.entries)
    offsets = {f"{topic.removeprefix(f'{APP}-')}-{number}": offset for (topic, number), offset in txn.offsets.items()}
    return f"{dict(counts)} {offsets or ''}"
