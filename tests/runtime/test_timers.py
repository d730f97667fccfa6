"""A partition's timers: on time, woken by what is earlier, patient with what is not known, and not fooled by clocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from dlq_stream.core.transaction import Transaction
from dlq_stream.runtime.timers import SLEEP_SECONDS_MAX, TICK_SECONDS_MIN, NextLook, PartitionTimer, TimerSpec
from dlq_stream.tables import messages
from tests.runtime.fakes import NOW, Ended, Scene, in_virtual_time, key, row


@dataclass
class Looked:
    """What a tick found."""

    next_due_ms: int | None = None
    more: bool = False
    unknown: frozenset[str] = frozenset()


class Timed:
    """A partition with a timer that notes when it looks, and deletes what is due."""

    def __init__(self, stage: Callable[[Transaction], Any] | None = None, *, delay_ms: int = 0) -> None:
        self.scene = Scene()
        self.looks: list[float] = []
        self.handled: list[tuple[float, int]] = []
        self.stage = stage or self._emit
        spec = TimerSpec("emit", "closed" if delay_ms else "due", self._look, urgent=True, delay_ms=delay_ms)
        partition = self.scene.partition
        self.timer = PartitionTimer(spec, partition, self.scene.destinations, partition._fatal)
        partition.watchers.append(self.timer)
        self.task = asyncio.create_task(self.timer.run())

    def _look(self, tx: Transaction) -> Any:
        self.looks.append(asyncio.get_running_loop().time())
        return self.stage(tx)

    def _emit(self, tx: Transaction) -> Looked:
        for due_ms, message_id in messages.due_until(tx, tx.now_ms, 10):
            tx.delete("messages", message_id)
            self.handled.append((asyncio.get_running_loop().time(), due_ms - NOW))
        return Looked(messages.next_due_ms(tx, tx.now_ms))

    async def put(self, number: int, due_ms: int) -> None:
        await self.scene.partition.run(lambda tx: tx.put("messages", key(number), row(NOW + due_ms)))

    async def end(self) -> None:
        await self.scene.partition.close()
        await self.task


@in_virtual_time
async def test_what_is_due_is_handled_on_time() -> None:
    """Not before, and within a millisecond or two; in between the timer sleeps."""
    timed = Timed()
    await timed.put(1, 250)
    await timed.put(2, 700)
    await asyncio.sleep(0.9)
    assert [due_ms for _, due_ms in timed.handled] == [250, 700]
    for seconds, due_ms in timed.handled:
        assert due_ms / 1000 <= seconds < due_ms / 1000 + 0.005
    assert len(timed.looks) < 8
    await timed.end()


@in_virtual_time
async def test_what_falls_due_at_about_the_same_time_is_handled_together() -> None:
    """The first at once, and what follows it within the distance of ticks in one more; none of it early."""
    timed = Timed()
    for number in range(10):
        await timed.put(number, 500 + number)
    await asyncio.sleep(0.6)
    assert [due_ms for _, due_ms in timed.handled] == list(range(500, 510))
    assert all(due_ms / 1000 <= seconds < due_ms / 1000 + TICK_SECONDS_MIN + 0.005 for seconds, due_ms in timed.handled)
    assert len({seconds for seconds, _ in timed.handled}) <= 2
    await timed.end()


@in_virtual_time
async def test_an_earlier_entry_wakes_the_timer() -> None:
    """It was asleep until a later one."""
    timed = Timed()
    await timed.put(1, 900)
    await asyncio.sleep(0.1)
    await timed.put(2, 200)
    await asyncio.sleep(0.2)
    assert [due_ms for _, due_ms in timed.handled] == [200]
    assert timed.handled[0][0] < 0.205
    await timed.end()


@in_virtual_time
async def test_a_later_entry_does_not_wake_it() -> None:
    """There is nothing to look at."""
    timed = Timed()
    await timed.put(1, 500)
    await asyncio.sleep(0.1)
    looks = len(timed.looks)
    await timed.put(2, 700)
    await asyncio.sleep(0.1)
    assert len(timed.looks) == looks
    await timed.end()


@in_virtual_time
async def test_an_entry_that_comes_while_topics_are_looked_up_is_not_overlooked() -> None:
    """The timer did not sleep yet, and knew of nothing due when it looked."""

    def stage(tx: Transaction) -> Looked:
        found = timed._emit(tx)
        if timed.handled and not timed.scene.destinations.looked_up:
            return Looked(NOW + 60_000, unknown=frozenset({"orders"}))
        return found

    timed = Timed(stage)

    async def slow() -> None:
        await asyncio.sleep(0.1)
        await timed.put(2, 120)
        await asyncio.sleep(0.1)

    timed.scene.destinations.on_look_up = slow
    await timed.put(1, 40)
    await asyncio.sleep(0.5)
    assert timed.scene.destinations.looked_up == [{"orders"}]
    assert [(round(seconds, 2), due_ms) for seconds, due_ms in timed.handled] == [(0.04, 40), (0.24, 120)]
    await timed.end()


@in_virtual_time
async def test_what_a_tick_leaves_due_itself_is_looked_at_again_at_once() -> None:
    """Such as a dead letter whose topic was not known when its message was given up."""

    def stage(tx: Transaction) -> Looked:
        found = timed._emit(tx)
        if len(timed.handled) == 1:
            tx.put("messages", key(2), row(tx.now_ms))
        return found

    timed = Timed(stage)
    await timed.put(1, 40)
    await asyncio.sleep(0.1)
    assert [due_ms for _, due_ms in timed.handled] == [40, 40]
    await timed.end()


@in_virtual_time
async def test_a_tick_with_more_to_do_is_followed_by_another() -> None:
    """Without a pause."""
    timed = Timed(lambda tx: Looked(None, more=len(timed.looks) < 5))
    await asyncio.sleep(0.1)
    assert len(timed.looks) == 5
    await timed.end()


@in_virtual_time
async def test_a_clock_that_is_set_forward_is_noticed_within_a_second() -> None:
    """A timer sleeps a second at most."""
    timed = Timed()
    await timed.put(1, 3_600_000)
    await asyncio.sleep(0.5)
    timed.scene.clock.base_ms += 3_600_000
    await asyncio.sleep(SLEEP_SECONDS_MAX)
    assert len(timed.handled) == 1
    await timed.end()


@in_virtual_time
async def test_a_clock_that_is_set_back_makes_nothing_early_or_busy() -> None:
    """The partition's clock stands still until the machine's has caught up."""
    timed = Timed()
    await timed.put(1, 2_000)
    await asyncio.sleep(1)
    timed.scene.clock.base_ms -= 1_500
    await asyncio.sleep(2)
    assert timed.handled == []
    assert len(timed.looks) < 10
    await asyncio.sleep(1)
    assert [round(seconds, 1) for seconds, _ in timed.handled] == [3.5]
    await timed.end()


@in_virtual_time
async def test_an_index_may_be_followed_at_a_distance() -> None:
    """Retention looks at what was closed some time ago."""

    def stage(tx: Transaction) -> NextLook:
        for closed_ms, message_id in messages.closed_first(tx, 1):
            if closed_ms + 300 > tx.now_ms:
                return NextLook(closed_ms + 300, tx.now_ms)
            tx.delete("messages", message_id)
            timed.handled.append((asyncio.get_running_loop().time(), closed_ms - NOW))
        return NextLook(None, tx.now_ms)

    timed = Timed(stage, delay_ms=300)
    await asyncio.sleep(0.1)
    await timed.scene.partition.run(lambda tx: tx.put("messages", key(1), row(closed_ms=tx.now_ms)))
    await asyncio.sleep(0.5)
    assert [(round(seconds, 2), closed_ms) for seconds, closed_ms in timed.handled] == [(0.4, 100)]
    assert len(timed.looks) < 5
    await timed.end()


@pytest.mark.parametrize(("next_due_ms", "more"), [(None, False), (99, True), (100, True), (101, False)])
def test_an_instant_that_has_come_means_more(next_due_ms: int | None, more: bool) -> None:
    """`NextLook` of a stage that knows no better."""
    assert NextLook(next_due_ms, now_ms=100).more is more


@in_virtual_time
async def test_it_ends_with_its_partition() -> None:
    """Within the turn that finds it closed."""
    timed = Timed()
    await asyncio.sleep(0.1)
    await timed.scene.partition.close()
    await asyncio.sleep(SLEEP_SECONDS_MAX + 0.1)
    assert timed.task.done()
    assert timed.task.exception() is None


@in_virtual_time
async def test_an_unexpected_error_ends_the_process() -> None:
    """A timer that stopped would let everything be late."""
    timed = Timed(lambda tx: 1 // 0)
    await asyncio.sleep(0.1)
    assert isinstance(timed.task.exception(), Ended)
