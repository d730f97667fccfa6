"""Runs on their way into turns: in order, joined, cut to the limits, and none skipped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.model import Record, size_of
from dlq_stream.runtime.feed import (
    SMALL_PART,
    STEP_RECORDS_MAX,
    STEP_RECORDS_MIN,
    BatchLimits,
    Feed,
    Held,
    StepSize,
    batches,
    joined,
)
from dlq_stream.runtime.outcomes import NOT_OURS, Input, Missed
from dlq_stream.runtime.ports import Run
from tests.core.received import Received
from tests.runtime.fakes import in_virtual_time


def run(start: int, stop: int, *offsets: int) -> Run:
    """A run with records at these offsets; without any named, at all of them."""
    return Run(start, stop, [Received(offset=offset) for offset in offsets or range(start, stop)])


def offsets_of(records: Sequence[Record]) -> list[int]:
    return [record.offset for record in records]


class FakePartition:
    """Takes turns that last until they are let go, and knows what it expects."""

    number = 3

    def __init__(self, expected: int = 0) -> None:
        self.expected = expected
        self.inputs: list[Input] = []
        self.turns: list[Run] = []
        self.go = asyncio.Event()
        self.go.set()
        self.closed = False

    async def consume(self, topic: str, batch: Run, apply: Any, *, step: int) -> Any:
        await self.go.wait()
        if self.closed:
            return NOT_OURS
        if batch.start > self.expected:
            return Missed(topic, self.number, self.expected)
        self.expected = batch.stop
        self.turns.append(batch)
        apply(None, batch.records)
        return None


class EndedError(Exception):
    """The process would have ended."""


class Bench:
    """A feed over a fake partition."""

    def __init__(
        self, expected: int = 0, bytes_max: int = 1 << 20, held_bytes_max: int = 1 << 20, rest_seconds: float = 0.0
    ) -> None:
        self.partition = FakePartition(expected)
        self.held = Held()
        self.applied: list[int] = []
        self.sought: list[tuple[str, int, int]] = []
        self.fatal: list[tuple[str, BaseException]] = []
        self.feed = Feed(
            self.partition,  # type: ignore[arg-type]
            "failures",
            lambda _, records: self.applied.extend(offsets_of(records)),
            seek=self._seek,
            limits=BatchLimits(
                bytes_max=bytes_max, hold_ms_target=1e9, held_bytes_max=held_bytes_max, rest_seconds=rest_seconds
            ),
            size=StepSize(1e9),
            held=self.held,
            fatal=self._fatal,
        )

    async def _seek(self, topic: str, partition: int, position: int) -> None:
        self.sought.append((topic, partition, position))

    def _fatal(self, where: str, error: BaseException) -> NoReturn:
        self.fatal.append((where, error))
        raise EndedError(where)


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_run_becomes_a_turn() -> None:
    """Positions and records as they came."""
    bench = Bench()
    bench.feed.put(run(0, 5, 1, 2))
    await settle()
    assert bench.applied == [1, 2]
    assert [(each.start, each.stop) for each in bench.partition.turns] == [(0, 5)]


async def test_what_comes_while_a_turn_is_taken_waits_and_joins() -> None:
    """The next runs are taken in meanwhile, and become one batch."""
    bench = Bench()
    bench.partition.go.clear()
    bench.feed.put(run(0, 2))
    await settle()
    bench.feed.put(run(2, 4))
    bench.feed.put(run(4, 6))
    bench.feed.put(run(6, 8))
    bench.partition.go.set()
    await settle()
    assert [(each.start, each.stop) for each in bench.partition.turns] == [(0, 2), (2, 8)]
    assert bench.applied == [0, 1, 2, 3, 4, 5, 6, 7]


@in_virtual_time
async def test_small_batches_keep_a_distance_and_what_comes_meanwhile_joins() -> None:
    """The first after a pause is taken in at once."""
    bench = Bench(rest_seconds=0.1)
    for at in range(5):
        bench.feed.put(run(at, at + 1))
        await asyncio.sleep(0.03)
    await asyncio.sleep(0.1)
    assert [(each.start, each.stop) for each in bench.partition.turns] == [(0, 1), (1, 4), (4, 5)]
    bench.feed.put(run(5, 6))
    await settle()
    assert bench.partition.expected == 5, "a rest after the latest one"
    await asyncio.sleep(0.2)
    bench.feed.put(run(6, 7))
    await settle()
    assert bench.partition.expected == 7, "there was none for long"


@in_virtual_time
async def test_what_is_no_small_batch_does_not_wait() -> None:
    """Neither where it is there already, nor where the last of it comes during the rest."""
    size = run(0, 1).size
    bench = Bench(bytes_max=SMALL_PART * 3 * size, rest_seconds=60)
    bench.feed.put(run(0, 1))
    await settle()
    bench.feed.put(run(1, 4))
    await settle()
    assert bench.partition.expected == 1
    bench.feed.put(run(4, 5))
    await settle()
    assert bench.partition.expected == 5
    bench.feed.put(run(5, 9))
    await settle()
    assert bench.partition.expected == 9


async def test_what_is_missing_is_asked_for_once_and_nothing_beyond_it_is_done() -> None:
    """Runs that wait behind a gap come again with what is missing."""
    bench = Bench(expected=0)
    bench.partition.go.clear()
    bench.feed.put(run(3, 5))
    await settle()
    bench.feed.put(run(5, 7))
    bench.partition.go.set()
    await settle()
    assert bench.sought == [("failures", 3, 0)]
    assert bench.applied == []
    bench.feed.put(run(0, 7))
    await settle()
    assert bench.applied == list(range(7))


async def test_runs_are_joined_up_to_one_batch() -> None:
    """What goes beyond it begins the next one; a run that is larger alone is cut."""
    size = run(0, 1).size
    bench = Bench(bytes_max=4 * size)
    bench.partition.go.clear()
    bench.feed.put(run(0, 1))
    await settle()
    for start, stop in ((1, 3), (3, 4), (4, 7), (7, 8), (8, 14)):
        bench.feed.put(run(start, stop))
    bench.partition.go.set()
    await settle()
    assert [(each.start, each.stop) for each in bench.partition.turns] == [
        (0, 1), (1, 4), (4, 8), (8, 12), (12, 14)
    ]  # fmt: skip
    assert bench.held.bytes == 0


async def test_a_feed_is_full_once_its_next_batch_is_complete() -> None:
    """Until that is taken; what is being processed does not count."""
    size = run(0, 1).size
    bench = Bench(bytes_max=2 * size)
    bench.partition.go.clear()
    bench.feed.put(run(0, 5))
    await settle()
    assert not bench.feed.full
    bench.feed.put(run(5, 6))
    assert not bench.feed.full
    bench.feed.put(run(6, 7))
    assert bench.feed.full
    bench.partition.go.set()
    await settle()
    assert not bench.feed.full
    assert bench.held.bytes == 0


async def test_too_much_in_all_makes_those_full_that_hold_something() -> None:
    """One that holds nothing may have a fetch, so that nobody starves; room is told of at once."""
    size = run(0, 1).size
    busy, idle = Bench(held_bytes_max=3 * size), Bench(held_bytes_max=3 * size)
    idle.feed._held = busy.held
    busy.partition.go.clear()
    busy.feed.put(run(0, 2))
    await settle()
    assert not busy.feed.full
    busy.feed.put(run(2, 3))
    assert busy.feed.full
    assert not idle.feed.full
    waiting = asyncio.ensure_future(busy.held.wait(60))
    await settle()
    assert not waiting.done()
    busy.partition.go.set()
    await asyncio.wait_for(waiting, 1)
    await settle()
    assert (busy.held.bytes, busy.feed.full) == (0, False)


async def test_waiting_for_room_ends_with_the_time() -> None:
    """Other partitions are to be looked at."""
    await Held().wait(0.001)


async def test_what_is_dropped_is_held_no_longer() -> None:
    """Behind a gap, and where the partition was closed."""
    bench = Bench(expected=0)
    bench.partition.go.clear()
    for at in (3, 4, 5):
        bench.feed.put(run(at, at + 1))
        await settle()
    assert bench.held.bytes == run(3, 6).size
    bench.partition.go.set()
    await settle()
    assert (bench.held.bytes, bench.applied) == (0, [])
    bench.partition.go.clear()
    bench.feed.put(run(0, 2))
    await settle()
    bench.feed.put(run(2, 3))
    bench.partition.closed = True
    bench.partition.go.set()
    await settle()
    assert (bench.held.bytes, bench.applied) == (0, [])
    assert bench.sought == [("failures", 3, 0)]


async def test_an_unexpected_error_ends_the_process() -> None:
    """It is nobody's task to notice a feed that has stopped."""
    bench = Bench()
    wrong = RuntimeError("seek")

    async def broken(*_: object) -> None:
        raise wrong

    bench.feed._seek = broken
    bench.feed.put(run(3, 5))
    with pytest.raises(EndedError):
        await bench.feed._work  # type: ignore[misc]
    assert bench.fatal == [("input failures of partition 3", wrong)]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=12))
def test_joining_loses_nothing_and_bridges_no_gap(parts: list[tuple[int, int]]) -> None:
    """Records and positions are kept; runs are joined where they touch, and only there."""
    runs, at = [], 0
    for gap, length in parts:
        runs.append(run(at + gap, at + gap + length) if length else Run(at + gap, at + gap, []))
        at += gap + length
    whole = list(joined(runs))
    assert [each for part in whole for each in offsets_of(part.records)] == [
        each for part in runs for each in offsets_of(part.records)
    ]
    assert all(one.stop < other.start for one, other in pairwise(whole))
    covered = {each for part in runs for each in range(part.start, part.stop)}
    assert {each for part in whole for each in range(part.start, part.stop)} == covered


@given(
    st.lists(st.integers(0, 400), max_size=30, unique=True).map(sorted),
    st.integers(1, 2_000),
    st.integers(1, 10),
)
def test_batches_touch_and_keep_to_the_limits(offsets: list[int], bytes_max: int, records_max: int) -> None:
    """They cover the run from its start to its stop, gaps included; one record fits whatever its size."""
    whole = Run(0, 500, [Received(offset=offset, value=b"x" * offset) for offset in offsets])
    cut = list(batches(whole, bytes_max, records_max))
    assert sum(part.size for part in cut) == whole.size == sum(map(size_of, whole.records))
    assert (cut[0].start, cut[-1].stop) == (0, 500)
    assert all(one.stop == other.start for one, other in pairwise(cut))
    assert [each for part in cut for each in offsets_of(part.records)] == offsets
    for part in cut:
        assert len(part.records) <= records_max
        assert len(part.records) <= 1 or sum(map(size_of, part.records)) <= bytes_max
        assert all(part.start <= offset < part.stop for offset in offsets_of(part.records))


@pytest.mark.parametrize(
    ("records", "counts"),
    [(0, [0]), (1, [1]), (830, [830]), (831, [416, 415]), (1_050, [525, 525]), (2_000, [667, 667, 666])],
)
def test_batches_are_about_equal(records: int, counts: list[int]) -> None:
    """A small last one would cost a transaction, too."""
    whole = Run(0, records, [Received(offset=offset) for offset in range(records)])
    assert [len(part.records) for part in batches(whole, 1 << 30, 830)] == counts


def test_the_size_of_a_record_counts_everything_it_holds() -> None:
    """Nulls included, as nothing."""
    assert size_of(Received(value=None, headers=(("a", None), ("bc", b"12")))) - size_of(Received(value=None)) == 5
    assert size_of(Received(key=b"12345")) - size_of(Received(key=None)) == 5
    assert size_of(Received(value=b"12345")) - size_of(Received(value=b"")) == 5


def test_steps_grow_and_shrink_with_what_a_record_costs() -> None:
    """Within their bounds, and smoothly."""
    size = StepSize(hold_ms_target=20)
    assert size.records_max in (499, 500)
    size.measured(100, 100 * 20e-6)
    assert 500 < size.records_max < 1_000
    for _ in range(100):
        size.measured(100, 1e-9)
    assert size.records_max == STEP_RECORDS_MAX
    for _ in range(100):
        size.measured(1, 10.0)
    assert size.records_max == STEP_RECORDS_MIN
