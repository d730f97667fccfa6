"""Which partitions a worker has: opening and closing, whatever cancels whom, and what reaches them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from dlq_stream.core.model import Record
from dlq_stream.core.transaction import Transaction
from dlq_stream.runtime.feed import BatchLimits
from dlq_stream.runtime.owner import Interrupted, Owner, Poll
from dlq_stream.runtime.partition import Partition
from dlq_stream.runtime.ports import Unavailable
from dlq_stream.runtime.timers import NextLook, TimerSpec
from tests.runtime.fakes import INPUT, Destinations, Ended, Scene, fatal, in_virtual_time, run_of


class Machine:
    """An owner whose partitions are played, on disks that one of them at a time can have open."""

    def __init__(self) -> None:
        self.scenes: dict[int, list[Scene]] = {}
        self.sought: list[tuple[str, int, int]] = []
        self.applied: list[list[bytes | None]] = []
        self.prepare: list[Any] = []
        self.owner = Owner(
            new_partition=self._new_partition,
            seek=self._seek,
            destinations=Destinations(),
            limits=BatchLimits(bytes_max=1_000, hold_ms_target=1e9),
            fatal=fatal,
        )

    def _new_partition(self, number: int, generation: int) -> Partition:
        former = self.scenes.setdefault(number, [])
        if any(not scene.store.closed for scene in former):
            raise RuntimeError(f"the store of partition {number} is in use")
        scene = Scene(number)
        for prepare in self.prepare:
            prepare(scene)
        former.append(scene)
        return scene.partition

    async def _seek(self, topic: str, number: int, position: int) -> None:
        self.sought.append((topic, number, position))

    def apply(self, tx: Transaction, records: Sequence[Record]) -> None:
        self.applied.append([record.value for record in records])

    async def open_two(self) -> None:
        """Partitions 0 and 1 are at work; whatever 0 asks of its brokers takes ten seconds."""
        await self.owner.open({0, 1}, 1)
        self.owner.ready({})

        async def slow(step: str) -> None:
            await asyncio.sleep(10)

        self.scenes[0][0].producer.gate = slow

    async def consume(self, *runs: Any) -> None:
        for run in runs:
            await self.owner.consume(Poll(INPUT, {0: run}), self.apply)
        await asyncio.sleep(1)


@in_virtual_time
async def test_opening_fences_restores_and_waits_for_ready() -> None:
    """Nothing is consumed before the consumer stands where it should."""
    machine = Machine()
    await machine.owner.open({1, 0}, 5)
    assert [scene.producer.starts for [scene] in machine.scenes.values()] == [1, 1]
    assert machine.owner.partitions == {}
    await machine.consume(run_of(0, 2))
    assert machine.applied == []
    machine.owner.ready({(INPUT, 0): 0, (INPUT, 1): 7, (INPUT, 9): 1})
    assert sorted(machine.owner.partitions) == [0, 1]
    assert machine.owner.partitions[1].expected == {INPUT: 7}
    await machine.consume(run_of(0, 2))
    assert machine.applied == [[b"0", b"1"]]
    await machine.owner.close()


@in_virtual_time
async def test_a_rebalance_releases_before_it_opens() -> None:
    """Stores are closed, producers ended, timers gone, also of partitions that stay."""
    machine = Machine()
    machine.owner.timers.append(TimerSpec("tick", "due", lambda tx: NextLook(None, tx.now_ms)))
    await machine.owner.open({0, 1}, 1)
    machine.owner.ready({})
    await machine.owner.open({0}, 2)
    machine.owner.ready({})
    assert [scene.store.closed for scene in machine.scenes[0]] == [True, False]
    assert [scene.producer.stopped for scene in machine.scenes[1]] == [True]
    await machine.owner.close()
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("tick")] == []


@in_virtual_time
async def test_opening_that_is_cancelled_lets_go_of_everything() -> None:
    """The next rebalance finds no store open."""
    machine = Machine()
    opening = asyncio.create_task(machine.owner.open({0, 1}, 1))
    await asyncio.sleep(0.0005)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    assert all(scene.store.closed for [scene] in machine.scenes.values())
    await machine.owner.open({0, 1}, 2)
    await machine.owner.close()


@in_virtual_time
async def test_whoever_opens_waits_for_a_release_that_nobody_waits_for_any_more() -> None:
    """Two rebalances in quick succession: the first is cancelled while it releases what was owned."""
    machine = Machine()
    await machine.owner.open({0}, 1)
    machine.owner.ready({})
    committing = asyncio.Event()

    async def slow(step: str) -> None:
        if step == "commit":
            committing.set()
            await asyncio.sleep(3)

    machine.scenes[0][0].producer.gate = slow
    await machine.owner.consume(Poll(INPUT, {0: run_of(0, 2)}), machine.apply)
    await committing.wait()
    for change in (machine.owner.open({0}, 2), machine.owner.close(), machine.owner.open({0}, 3)):
        cancelled = asyncio.create_task(change)
        await asyncio.sleep(0.1)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
    await machine.owner.open({0}, 4)
    assert len(machine.scenes[0][0].producer.committed) == 1
    assert [scene.store.closed for scene in machine.scenes[0]] == [True, False]
    await machine.owner.close()


@in_virtual_time
async def test_closing_does_not_wait_for_brokers_that_are_away() -> None:
    """A worker that is told to stop while it opens its partitions stops."""
    machine = Machine()
    machine.prepare.append(lambda scene: setattr(scene.producer, "on_start", [Unavailable("away")] * 1_000))
    opening = asyncio.create_task(machine.owner.open({0, 1}, 1))
    await asyncio.sleep(5)
    assert not opening.done()
    async with asyncio.timeout(5):
        await machine.owner.close()
    with pytest.raises(Interrupted):
        await opening
    assert all(scene.store.closed for [scene] in machine.scenes.values())


@in_virtual_time
async def test_closing_interrupts_a_restore() -> None:
    """The group, and whoever told the worker to stop, have less patience than it may take."""
    machine = Machine()

    async def long() -> int:
        await asyncio.sleep(1_000)
        return 0

    machine.prepare.append(lambda scene: setattr(scene.changelog, "catch_up", long))
    openings = [asyncio.create_task(machine.owner.open({0, 1}, generation)) for generation in (1, 2)]
    await asyncio.sleep(5)
    async with asyncio.timeout(5):
        await machine.owner.close()
    assert [type(error) for error in await asyncio.gather(*openings, return_exceptions=True)] == [Interrupted] * 2
    assert all(scene.store.closed for scenes in machine.scenes.values() for scene in scenes)


@in_virtual_time
async def test_an_unexpected_error_while_opening_is_the_callers() -> None:
    """And the other partitions are released."""
    machine = Machine()
    machine.prepare.append(
        lambda scene: scene.changelog.finds.append(ZeroDivisionError() if scene.partition.number else 3)
    )
    with pytest.raises(ZeroDivisionError):
        await machine.owner.open({0, 1}, 1)
    assert all(scene.store.closed for [scene] in machine.scenes.values())


@in_virtual_time
async def test_runs_reach_their_partitions_side_by_side() -> None:
    """One that takes long holds up no other; a partition that is not owned is passed over."""
    machine = Machine()
    await machine.open_two()
    poll = Poll(INPUT, {0: run_of(0, 1), 1: run_of(0, 1), 3: run_of(0, 1)})
    await machine.owner.consume(poll, machine.apply)
    await asyncio.sleep(1)
    assert len(machine.scenes[0][0].producer.committed) == 0
    assert len(machine.scenes[1][0].producer.committed) == 1
    await machine.owner.close()
    assert len(machine.scenes[0][0].producer.committed) == 1


@in_virtual_time
async def test_a_full_input_is_one_that_is_held_up() -> None:
    """The others go on; room is told of."""
    machine = Machine()
    await machine.open_two()
    run = run_of(0, 12)
    assert run.size > machine.owner.limits.bytes_max
    await machine.owner.consume(Poll(INPUT, {0: run_of(0, 1), 1: run_of(0, 1)}), machine.apply)
    await asyncio.sleep(1)
    await machine.owner.consume(Poll(INPUT, {0: run_of(1, 13), 1: run_of(1, 13)}), machine.apply)
    await asyncio.sleep(1)
    assert [machine.owner.full(INPUT, number) for number in (0, 1, 2)] == [True, False, False]
    async with asyncio.timeout(30):
        while machine.owner.full(INPUT, 0):
            await machine.owner.room(60)
    await machine.owner.close()


@in_virtual_time
async def test_what_was_missed_is_read_again() -> None:
    """The consumer is told where to read on."""
    machine = Machine()
    await machine.owner.open({0}, 1)
    machine.owner.ready({(INPUT, 0): 4})
    await machine.consume(run_of(6, 8))
    assert machine.sought == [(INPUT, 0, 4)]
    assert machine.applied == []
    await machine.owner.close()


@in_virtual_time
async def test_what_is_fatal_in_a_timer_ends_the_process() -> None:
    """A timer that stopped would let messages be late for ever."""
    machine = Machine()

    def broken(tx: Transaction) -> Any:
        raise ZeroDivisionError

    ended: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: ended.append(context["exception"]))
    machine.owner.timers.append(TimerSpec("tick", "due", broken))
    await machine.owner.open({0}, 1)
    machine.owner.ready({})
    await asyncio.sleep(1)
    [task] = machine.owner._timer_tasks or [None]
    assert task is None
    await machine.owner.close()
    assert all(isinstance(error, Ended) for error in ended)
