"""Input that ticks take along: what little waits goes with the tick, once, in order, and is let go however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from dlq_stream.core.model import Record
from dlq_stream.core.transaction import Transaction
from dlq_stream.runtime.feed import SMALL_PART, BatchLimits, Feed, Held, StepSize
from dlq_stream.runtime.outcomes import NOT_OURS, Share
from dlq_stream.runtime.ports import Fenced, Refusal, Run, Written
from tests.runtime.fakes import INPUT, Scene, fatal, in_virtual_time, key, row, run_of

REST_SECONDS = 0.1
SOURCE = "orders"


class Rig:
    """A feed of a real partition over fakes; ``calls`` are what was staged, in order."""

    def __init__(self, *, bytes_max: int = 1 << 20, hold_ms_target: float = 1e9) -> None:
        self.scene = Scene()
        self.partition = self.scene.partition
        self.partition.expected[INPUT] = 0
        self.calls: list[Any] = []
        self.held = Held()
        self.feed = Feed(
            self.partition,
            INPUT,
            self._apply,
            seek=self._seek,
            limits=BatchLimits(bytes_max=bytes_max, rest_seconds=REST_SECONDS),
            size=StepSize(hold_ms_target),
            held=self.held,
            fatal=fatal,
        )

    def _apply(self, tx: Transaction, records: Sequence[Record]) -> None:
        offsets = [record.offset for record in records]
        for offset in offsets:
            tx.put("messages", key(offset), row(None))
        self.calls.append(offsets)

    async def _seek(self, topic: str, partition: int, position: int) -> None:
        raise AssertionError(f"{topic}-{partition} is read again from {position}")

    def stage(self, tx: Transaction) -> str:
        self.calls.append("tick")
        return "ticked"

    async def rest(self) -> None:
        """Have one record processed, so that the next ones wait."""
        self.feed.put(run_of(0, 1))
        await asyncio.sleep(0.01)
        assert self.offsets() == [{INPUT: 1}]
        self.calls.clear()

    def offsets(self) -> list[Mapping[str, int]]:
        return [offsets for _, offsets in self.scene.producer.committed]


@in_virtual_time
async def test_what_waits_goes_with_the_tick() -> None:
    """In one transaction, input first; the next batch of its own keeps its distance from it."""
    rig = Rig()
    await rig.rest()
    rig.feed.put(run_of(1, 2))
    rig.feed.put(run_of(2, 4))
    await asyncio.sleep(0.05)
    assert await rig.partition.run(rig.stage, with_input=True) == "ticked"
    assert rig.calls == [[1, 2, 3], "tick"]
    assert rig.offsets() == [{INPUT: 1}, {INPUT: 4}]
    assert (rig.partition.expected, rig.held.bytes) == ({INPUT: 4}, 0)
    rig.feed.put(run_of(4, 5))
    await asyncio.sleep(REST_SECONDS * 0.9)
    assert rig.offsets() == [{INPUT: 1}, {INPUT: 4}]
    await asyncio.sleep(REST_SECONDS * 0.2)
    assert rig.offsets() == [{INPUT: 1}, {INPUT: 4}, {INPUT: 5}]
    assert (rig.calls[2:], rig.held.bytes, rig.partition.missed) == ([[4]], 0, 0)


@in_virtual_time
async def test_the_first_after_ticks_took_all_is_taken_in_at_once() -> None:
    """Once it has the distance from what they took."""
    rig = Rig()
    await rig.rest()
    rig.feed.put(run_of(1, 2))
    assert await rig.partition.run(rig.stage, with_input=True) == "ticked"
    await asyncio.sleep(REST_SECONDS * 1.1)
    rig.feed.put(run_of(2, 3))
    await asyncio.sleep(0.01)
    assert rig.offsets() == [{INPUT: 1}, {INPUT: 2}, {INPUT: 3}]


@in_virtual_time
async def test_a_timer_that_does_not_want_input_gets_none() -> None:
    """Nor does one get any where nothing waits, or what waits is on its way."""
    rig = Rig()
    await rig.rest()
    assert await rig.partition.run(rig.stage, with_input=True) == "ticked"
    rig.feed.put(run_of(1, 2))
    await asyncio.sleep(0)
    assert await rig.partition.run(rig.stage) == "ticked"
    assert rig.calls == ["tick", "tick"]
    assert rig.offsets() == [{INPUT: 1}]


@in_virtual_time
async def test_what_is_no_small_batch_takes_a_turn_of_its_own() -> None:
    """In bytes."""
    size = run_of(0, 1).size
    rig = Rig(bytes_max=SMALL_PART * 3 * size)
    await rig.rest()
    rig.feed.put(run_of(1, 5))
    assert await rig.partition.run(rig.stage, with_input=True) == "ticked"
    await asyncio.sleep(0.01)
    assert sorted(rig.calls, key=str) == [[1, 2, 3, 4], "tick"]
    assert rig.offsets() == [{INPUT: 1}, {INPUT: 5}]


@in_virtual_time
async def test_what_would_hold_the_loop_for_long_takes_a_turn_of_its_own() -> None:
    """In records."""
    rig = Rig(hold_ms_target=0.001)  # the least that a step may have: 20 records
    await rig.rest()
    rig.feed.put(run_of(1, 22))
    assert await rig.partition.run(rig.stage, with_input=True) == "ticked"
    assert rig.calls == ["tick"]
    await asyncio.sleep(REST_SECONDS)
    assert rig.offsets() == [{INPUT: 1}, {INPUT: 22}]


@in_virtual_time
async def test_what_does_not_begin_where_it_should_takes_a_turn_of_its_own() -> None:
    """Its own turn knows what to leave out, or what to ask for."""
    rig = Rig()
    await rig.rest()
    rig.feed.put(run_of(0, 3))  # the first of these was delivered again
    assert await rig.partition.run(rig.stage, with_input=True) == "ticked"
    rig.feed.put(run_of(5, 6))
    assert await rig.partition.run(rig.stage, with_input=True) == "ticked"
    assert (rig.calls, rig.offsets()) == (["tick", "tick"], [{INPUT: 1}])


@in_virtual_time
async def test_a_refusal_stages_both_again() -> None:
    """And what was learnt is known to both."""
    rig = Rig()
    await rig.rest()
    rig.feed.put(run_of(1, 2))

    def stage(tx: Transaction) -> str | None:
        known = tx.destination(SOURCE)
        if known is not None and known.refusal is not None:
            return known.refusal
        tx.send(SOURCE, b"k", b"v", (), 0)
        return None

    rig.scene.producer.on_write.append(Written(refusals=[Refusal(SOURCE, -1, "not-authorised")]))
    assert await rig.partition.run(stage, with_input=True) == "not-authorised"
    assert rig.calls == [[1], [1]]
    assert rig.offsets() == [{INPUT: 1}, {INPUT: 2}]
    assert rig.held.bytes == 0


@in_virtual_time
async def test_a_lost_partition_lets_go_of_what_it_took() -> None:
    """What was not committed is the next owner's; nothing of it counts as held."""
    rig = Rig()
    await rig.rest()
    rig.feed.put(run_of(1, 2))
    rig.scene.ours = False
    rig.scene.producer.on_write.append(Fenced("by the next owner"))
    assert await rig.partition.run(rig.stage, with_input=True) is NOT_OURS
    assert (rig.offsets(), rig.held.bytes) == ([{INPUT: 1}], 0)


@in_virtual_time
async def test_inputs_of_several_topics_go_together() -> None:
    """In the order of the feeds, each with its position."""
    scene = Scene()
    calls: list[Any] = []

    class Waiting:
        def __init__(self, topic: str) -> None:
            self.topic = topic

        def share(self, expected: Mapping[str, int]) -> Share | None:
            def apply(tx: Transaction, records: Sequence[Record]) -> None:
                tx.put("messages", key(len(calls)), row(None))
                calls.append((self.topic, len(records)))

            run: Run = run_of(expected[self.topic], 9)
            return Share(self.topic, run, apply, over=lambda: calls.append(f"{self.topic} is over"))

    scene.partition.expected.update({"failures": 5, "commands": 7})
    scene.partition.inputs += [Waiting("failures"), Waiting("commands")]
    await scene.partition.run(lambda tx: calls.append("tick"), with_input=True)
    assert calls == [("failures", 4), ("commands", 2), "tick", "failures is over", "commands is over"]
    [(_, offsets)] = scene.producer.committed
    assert offsets == scene.partition.expected == {"failures": 9, "commands": 9}
