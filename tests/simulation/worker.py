"""A worker: the real `Owner`, `Partition`, `PartitionTimer`, `DestinationCache`, engine and tables, in a fake process.

What Faust does in the real one (joining, the order of an assignment, fetching whole polls, handing them to agents) is
done here in the same order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from dlq_stream.core.errors import DLQError
from dlq_stream.core.model import Record
from dlq_stream.core.policy import Policies
from dlq_stream.core.transaction import Transaction
from dlq_stream.engine import EmitResult, apply_commands, apply_failures, emit_due, retain
from dlq_stream.runtime.destinations import DestinationCache
from dlq_stream.runtime.feed import Apply, BatchLimits
from dlq_stream.runtime.outcomes import Identification
from dlq_stream.runtime.owner import Interrupted, Owner
from dlq_stream.runtime.partition import Partition
from dlq_stream.runtime.ports import Fenced, OutcomeUnknown
from dlq_stream.runtime.standby import Standby
from dlq_stream.runtime.timers import NextLook, TimerSpec
from tests.simulation.changelog import SimChangelog
from tests.simulation.consumer import SimConsumer
from tests.simulation.disk import Disk, DiskStore
from tests.simulation.group import NOTHING, Share
from tests.simulation.life import Died, Life, NoAnswer
from tests.simulation.names import APP, COMMANDS, FAILURES, PARTITIONS, TOPICS
from tests.simulation.ports import SeenClock, SimTopicSource, WorkerClock
from tests.simulation.producer import SimProducer

if TYPE_CHECKING:
    from tests.simulation.world import World

EXPECTED_ENDS = (Fenced, OutcomeUnknown)
"""What may end a worker: its partition was fenced before it heard of a rebalance, or a commit's outcome is unknown."""

ROW_BYTES_MAX = 1_100_000

NO_STEPS_MS, SMALLEST_STEPS_MS = 1e9, 1e-9
"""How long staging may hold the event loop, in processor time: never too long, or always, so that none is measured."""


class Worker:
    """A machine with disks, on which one process after another runs."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self.random = world.random_of(name)
        self.disks: dict[int, Disk] = {}
        self.clock = WorkerClock(world.loop.time, self.random.choice((0, 0, self.random.randint(-400, 400))))
        self.process: Process | None = None
        self._lives = 0

    @property
    def alive(self) -> bool:
        return self.process is not None and not self.process.life.ended.is_set()

    @property
    def owned(self) -> list[int]:
        """The partitions that its process works on."""
        return list(self.process.owner.partitions) if self.process is not None and self.alive else []

    @property
    def copies(self) -> list[int]:
        """The partitions that its process keeps copies of, once all of them are there."""
        return sorted(self.process.copies) if self.process is not None and self.alive else []

    @property
    def behind(self) -> bool:
        """Whether its process has yet to catch up with what it keeps copies of."""
        return self.process is not None and self.alive and self.process.copies != {*self.process.share.copies}

    def start(self) -> None:
        """Start a process; what it finds on disk may have suffered."""
        self._lives += 1
        life = Life(f"{self.name}.{self._lives}", self.world, self.world.random_of(f"{self.name}.{self._lives}"))
        self.world.note(life.name, "starts")
        self.process = Process(self, life)
        life.spawn(self.process.run())

    def damage(self) -> None:
        """A disk is lost, or comes back as it was some time ago."""
        for number, disk in sorted(self.disks.items()):
            if self.random.random() < 0.5:
                self.world.note(self.name, f"loses its disk of partition {number}")
                self.world.outcome.figures["disks lost"] += 1
                self.disks[number] = Disk()
            else:
                count = self.random.randint(0, len(disk.writes))
                self.world.note(self.name, f"disk of partition {number} is {len(disk.writes) - count} writes older")
                self.world.outcome.figures["disks older than they were"] += 1
                self.disks[number] = disk.as_of(count)


class Process:
    """One process of a worker."""

    def __init__(self, worker: Worker, life: Life) -> None:
        world = worker.world
        self.life = life
        self.worker = worker
        self.world = world
        self.engine = replace(world.engine, observe=self._observe, policies=world.published)
        self.generation = -1
        self._staged: dict[int, Transaction] = {}
        self.stopping = asyncio.Event()
        self.consumer = SimConsumer(life, world, room=self)
        self.staging = asyncio.Lock()
        self.cache = DestinationCache(SimTopicSource(life, world.broker), monotonic=world.loop.time)
        self.owner = Owner(
            new_partition=self._new_partition,
            seek=self.consumer.seek,
            destinations=self.cache,
            limits=BatchLimits(
                bytes_max=life.random.choice((4_000, 20_000, 1 << 20)),
                hold_ms_target=life.random.choice((NO_STEPS_MS, SMALLEST_STEPS_MS)),
                held_bytes_max=life.random.choice((6_000, 1 << 20)),
                rest_seconds=life.random.choice((0.0, 0.1, 1.0)),
            ),
            fatal=self.fatal,
            new_standby=self._new_standby,
        )
        self.share = NOTHING
        self.copies: frozenset[int] = frozenset()
        self.owner.timers += [
            TimerSpec("emit", "due", self._emit, urgent=True, with_input=True),
            TimerSpec("retain", "closed", self._retain, delay_ms=self.engine.retention_ms),
        ]

    # --- what the worker does -----------------------------------------------------------------------------------

    def hear(self, policies: Policies) -> None:
        """Go by these policies after a while, between two turns or between two steps of one."""

        async def later() -> None:
            await asyncio.sleep(self.life.random.uniform(0.0, 1.0))
            await self.life.awake()
            if policies is self.world.published:
                self.engine = replace(self.engine, policies=policies)

        self.life.spawn(later())

    def _begins(self, tx: Transaction) -> bool:
        """Whether this is the first step of a transaction, whose policies hold for all of it."""
        if self._staged.get(tx.partition) is tx:
            return False
        self._staged[tx.partition] = tx
        self.world.decides_by[self.life.name, tx.partition] = self.engine.policies
        return True

    def _emit(self, tx: Transaction) -> EmitResult:
        self._begins(tx)
        return emit_due(tx, self.engine, records_max=5, bytes_max=3_000)

    def _retain(self, tx: Transaction) -> NextLook:
        self._begins(tx)
        return NextLook(retain(tx, self.engine, steps_max=3), now_ms=tx.now_ms)

    def _observe(self, event: object) -> None:
        """Told after a commit, one event after the other; nothing may hang on it."""
        self.life.point("effects: among")
        self.world.observe(event)

    def full(self, topic: str, number: int) -> bool:
        """Whether no more of this input should be fetched."""
        return self.owner.full(topic, number)

    async def room(self, seconds: float) -> None:
        """Wait until there may be room for more input."""
        await self.owner.room(seconds)

    def _apply_failures(self, tx: Transaction, records: Sequence[Record]) -> None:
        if not self._begins(tx):
            self.world.count("batches staged in steps")
        apply_failures(tx, records, self.engine)

    def _apply_commands(self, tx: Transaction, records: Sequence[Record]) -> None:
        self._begins(tx)
        apply_commands(tx, records, self.engine)

    async def _agent(self, topic: str, apply: Apply) -> None:
        queue = self.consumer.queues[topic]
        while True:
            await self.owner.consume(await queue.get(), apply)

    # --- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Join, open, consume, until stopped or dead."""
        life = self.life
        await self.cache.look_up(TOPICS.all)
        life.spawn(self.cache.run())
        life.spawn(self._agent(FAILURES, self._apply_failures))
        life.spawn(self._agent(COMMANDS, self._apply_commands))
        life.spawn(self.consumer.run())
        while not self.stopping.is_set():
            self.generation, share = await self.world.group.join(life)
            await life.awake()
            if await self._until_rebalance(self._assigned(share)):
                await self._until_rebalance(self.stopping.wait())
            await life.awake()
            self.consumer.end()
            await self.owner.close()
        self.world.group.leave(life)
        self.world.note(life.name, "stops")
        life.ended.set()
        life.kill("stopped")

    async def _until_rebalance(self, work: object) -> bool:
        """Whether the work was finished before a rebalance began, which cancels it."""
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        rebalance = asyncio.ensure_future(self.life.rebalance.wait())
        try:
            await asyncio.wait((task, rebalance), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                return True
            if self.life.random.random() < 0.5:
                await self.owner.close()  # what is being opened is given up before its task is cancelled
            return False
        finally:
            task.cancel()
            rebalance.cancel()
            await asyncio.gather(task, rebalance, return_exceptions=True)

    async def _assigned(self, share: Share) -> None:
        """The order of things at an assignment: fence, restore, read the committed offsets, deliver, follow others."""
        generation = self.generation
        self.share, self.copies = share, frozenset()
        try:
            await self.owner.open(share.partitions, generation)
        except Interrupted:
            return
        except Exception as error:
            self.fatal("opening partitions", error)
        positions = await self.consumer.committed(share.partitions)
        await self.life.awake()
        self.consumer.begin(positions)
        self.owner.ready(positions)
        self.world.note(self.life.name, f"ready: {dict(positions)}")
        self.owner.follow(share.copies, partial(self._caught_up, share.copies))

    def _caught_up(self, numbers: Collection[int]) -> None:
        """The copies of these partitions have been as their changelogs are, each at its time."""
        self.copies = frozenset(numbers)
        if numbers:
            self.world.note(self.life.name, f"standbys caught up: {sorted(numbers)}")
            self.world.count("standbys caught up")

    def fatal(self, where: str, error: BaseException) -> NoReturn:
        """Crash-only, and only for reasons that are known."""
        if not self.life.dead:
            self.world.outcome.figures[f"ended by {type(error).__name__}"] += 1
            if not isinstance(error, EXPECTED_ENDS):
                self.world.violated(f"{self.life.name} ended by {where}: {error!r}", error)
            self.life.die(f"{where}: {error!r}")
        raise Died(where)

    def refuse(self, error: DLQError) -> NoReturn:
        """Nothing here is newer than the code, or does not decode."""
        self.fatal("refusing", error)

    # --- what Faust and the brokers are to the partitions -------------------------------------------------------

    def _new_partition(self, number: int, generation: int) -> Partition:
        life, world = self.life, self.world
        store, was_copy = self._store(number, is_copy=False)
        restored = partial(self._taken_over, number, store.disk) if was_copy else None
        clock = world.clocks[life.name, number] = SeenClock(self.worker.clock)
        partition = world.partition_type(
            Identification(number, PARTITIONS, generation, APP),
            producer=SimProducer(life, world.broker, f"{APP}-p{number}", number, self.cache.missing),
            store=store,
            changelog=SimChangelog(life, world.broker, number, store, self.worker.clock, restored),
            destinations=self.cache,
            clock=clock,
            row_bytes_max=ROW_BYTES_MAX,
            still_ours=lambda: self.generation == generation,
            fatal=self.fatal,
            confirm=self._confirm,
            staging=self.staging,
        )
        world.partitions.append(partition)
        return partition

    def _new_standby(self, number: int) -> Standby:
        life, world = self.life, self.world
        store, was_copy = self._store(number, is_copy=True)
        if not was_copy and store.written_ms() is not None:
            world.count("copies that were a former owner's state")
        follower = world.follower_type(life, world.broker, number, store, self.worker.clock)
        return Standby(number, store=store, changelog=follower, refuse=self.refuse, fatal=self.fatal)

    def _store(self, number: int, *, is_copy: bool) -> tuple[DiskStore, bool]:
        """Open what this machine has of a partition; and whether that was a copy so far."""
        disk = self.worker.disks.setdefault(number, Disk())
        store = DiskStore(self.life, disk, lambda disk: self.world.written(number, disk))
        was_copy, disk.is_copy = disk.is_copy, is_copy
        return store, was_copy

    def _taken_over(self, number: int, disk: Disk, rows: int) -> None:
        """What was a copy is the owner's state now, after so many rows more: it has to be what a rebuild is."""
        self.world.count("take-overs with a copy" if rows else "take-overs with nothing left to read")
        if self.world.compare(number, disk):  # else the next owner writes already
            self.world.count("states taken over compared with a rebuild")

    async def _confirm(self) -> None:
        """Ask the group whether it still counts us in."""
        try:
            if not await self.life.request("heartbeat", lambda: self.world.group.counts(self.life)):
                self.generation = -1
        except NoAnswer:
            pass

    def stop(self) -> None:
        """SIGTERM: finish what is running and leave."""
        self.stopping.set()
        self.life.rebalance.set()
