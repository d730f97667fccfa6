"""Limits of emissions: never more than promised, nothing forgotten, first come first served, and no herd twice."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.pace import AHEAD_US, SLOT_MS_MAX, Pace, Pacer

NOW = 1_700_000_000_000


@dataclass
class Line:
    """A queue in one partition: what is due when, and what went when; nothing else outlives a tick but ``pace``."""

    limit: float
    partitions: int = 1
    pace: Pace = field(default_factory=Pace)
    waiting: dict[int, tuple[int, int | None]] = field(default_factory=dict)
    went: list[tuple[int, int]] = field(default_factory=list)
    moves: int = 0

    def add(self, count: int, due_ms: int) -> None:
        for _ in range(count):
            number = len(self.waiting) + len(self.went)
            self.waiting[number] = due_ms, None

    def tick(self, now_ms: int, rows_max: int = 1_000) -> None:
        due = sorted((due, number) for number, (due, _) in self.waiting.items() if due <= now_ms)
        pacer = Pacer(self.pace, self.limit, self.partitions, now_ms, len(self.waiting))
        for due_ms, number in due[:rows_max]:
            slot_ms = pacer.slot_ms(again=self.waiting[number][1] == due_ms)
            if slot_ms is None:
                del self.waiting[number]
                self.went.append((now_ms, number))
            else:
                assert slot_ms > now_ms, "a slot is later, or the tick would never end"
                self.waiting[number] = slot_ms, slot_ms
                self.moves += 1
        self.pace = pacer.pace

    def next_ms(self) -> int:
        return min(due for due, _ in self.waiting.values())

    def most_in_a_second(self) -> int:
        at = [ms for ms, _ in self.went]
        return max(bisect_left(at, ms + 1_000) - number for number, ms in enumerate(at))

    @property
    def promised(self) -> float:
        return self.limit / self.partitions * (1 + AHEAD_US / 1e6) + 1


limits = st.sampled_from((0.05, 0.3, 1.0, 4.0, 12.5, 50.0, 900.0, 5_000.0))


@given(
    limit=limits,
    partitions=st.sampled_from((1, 4, 12)),
    herds=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 20_000)), min_size=1, max_size=5),
    lates=st.lists(st.integers(0, 3_000), min_size=1, max_size=8),
    rows_max=st.integers(1, 100),
)
def test_never_more_than_promised_and_nothing_is_forgotten(
    limit: float, partitions: int, herds: list[tuple[int, int]], lates: list[int], rows_max: int
) -> None:
    """However late ticks are, however many rows they take, and whatever falls due meanwhile."""
    line = Line(limit, partitions)
    for count, after_ms in herds:
        line.add(count, NOW + after_ms)
    total, number, now = len(line.waiting), 0, 0
    while line.waiting:
        now = max(now + 1, line.next_ms() + lates[number % len(lates)])
        line.tick(now, rows_max)
        number += 1
        assert number < 100 * total, "it comes to an end"
    assert len(line.went) == total
    assert line.most_in_a_second() <= line.promised


@given(limit=limits, count=st.integers(1, 300), more=st.integers(0, 100), after_ms=st.integers(0, 5_000))
def test_in_turn_and_each_moved_once(limit: float, count: int, more: int, after_ms: int) -> None:
    """With ticks in time, those that fall due first go first, and a herd is looked at once."""
    line = Line(limit)
    line.add(count, NOW)
    line.add(more, NOW + after_ms)
    while line.waiting:
        line.tick(line.next_ms())
    assert line.moves <= count + more
    if limit <= 1_000:  # beyond it, several share a millisecond
        assert [number for _, number in line.went] == sorted(number for _, number in line.went)
    took_ms = line.went[-1][0] - NOW
    assert took_ms <= max(0, after_ms if more else 0) + (count + more) / limit * 1_000 + 2


def test_a_herd_takes_as_long_as_the_limit_says() -> None:
    """200 at 50 a second are 4 s, though a quarter of a second's worth goes at once."""
    line = Line(50)
    line.add(200, NOW)
    while line.waiting:
        line.tick(line.next_ms())
    assert sum(at == NOW for at, _ in line.went) == 13
    assert line.went[-1][0] - NOW == (200 - 1) * 20
    assert line.most_in_a_second() == 50, "what goes at once is not added to what follows"


@pytest.mark.parametrize(("partitions", "interval_ms"), [(1, 10_000), (12, 120_000)])
def test_tiny_limits_work(partitions: int, interval_ms: int) -> None:
    """0.1/s are one retry in ten seconds, in twelve partitions one in two minutes in each."""
    line = Line(0.1, partitions)
    line.add(4, NOW)
    while line.waiting:
        line.tick(line.next_ms())
    gaps = [later - earlier for (earlier, _), (later, _) in zip(line.went, line.went[1:], strict=False)]
    assert gaps == [interval_ms] * 3


@pytest.mark.parametrize("stall_ms", [1_000, 30_000, 3_600_000])
def test_a_worker_that_stood_still_releases_no_herd(stall_ms: int) -> None:
    """Who missed a slot shares the rate with those whose slots come; nobody waits for the whole herd again."""
    line = Line(10)
    line.add(500, NOW)
    while len(line.went) < 100:
        line.tick(line.next_ms())
    now = line.went[-1][0] + stall_ms
    missed = sum(due <= now for due, _ in line.waiting.values())
    line.tick(now)
    assert len(line.went) <= 104, "a quarter of a second's worth, no more"
    while line.waiting:
        line.tick(line.next_ms())
    places = {number: place for place, (_, number) in enumerate(line.went)}
    assert max(place - number for number, place in places.items()) <= missed
    assert line.most_in_a_second() <= line.promised
    assert line.went[-1][0] - now <= 400 * 100 + 200, "the rate is used in full"
    assert line.moves <= 2 * 500, "about one more write for each"


def test_a_lower_limit_holds_at_once_and_a_higher_one_leaves_slots() -> None:
    """Slots that were given stay; those that are too many for the new limit are given anew, in turn."""
    line = Line(10)
    line.add(300, NOW)
    line.tick(NOW)
    line.limit = 1
    for _ in range(2_000):
        if len(line.went) < 100:
            line.tick(line.next_ms())
    since = [at for at, _ in line.went if at > NOW]
    assert (since[-1] - since[0]) / 1_000 >= len(since) - 3
    assert line.moves < 3 * 300
    line.limit = 100
    while line.waiting:
        line.tick(line.next_ms())
    assert len(line.went) == 300


def test_nobody_queues_behind_those_that_are_gone() -> None:
    """An operator resolves a herd: the next retries do not wait for slots that nobody has any more."""
    line = Line(1)
    line.add(10_000, NOW)
    while any(due == NOW for due, _ in line.waiting.values()):
        line.tick(NOW)
    kept = max(line.waiting)
    line.waiting = {kept: line.waiting[kept]}
    line.add(1, NOW + 5_000)
    (new,) = set(line.waiting) - {kept}
    line.tick(NOW + 5_000)
    while new in line.waiting:
        line.tick(line.next_ms())
    assert line.went[-1][0] - (NOW + 5_000) <= 2_000


@given(
    limit=limits,
    partitions=st.sampled_from((1, 12, 48)),
    before=st.sampled_from((0.001, 0.01, 1.0)),
    behind_ms=st.integers(0, 3_600_000),
)
def test_a_raised_limit_and_an_earlier_clock_hold_up_nothing(
    limit: float, partitions: int, before: float, behind_ms: int
) -> None:
    """One retry at a thousandth per second does not stop the queue for hours once the limit is another one."""
    line = Line(before, partitions)
    line.add(1, NOW)
    line.tick(NOW)
    line.limit = max(limit, before)
    now = NOW - behind_ms
    line.add(1, now)
    line.tick(now)
    if line.waiting:
        assert line.next_ms() - now <= 1_000 * partitions / line.limit + AHEAD_US / 1_000 + 1


def test_shared_paces_are_left_as_they_are() -> None:
    """The slowest of those who share one has its limit kept, at the price of the others."""
    slow = Pacer(Pace(), 0.01, 1, NOW, 1, shared=True)
    assert slow.slot_ms(again=False) is None
    fast = Pacer(slow.pace, 100, 1, NOW, 1, shared=True)
    assert fast.slot_ms(again=False) == NOW + 100_000


def test_a_slot_is_an_instant_that_rows_can_hold() -> None:
    """Whatever the limit and the herd; what is kept can be written, too."""
    pacer = Pacer(Pace(2**62, 2**62, 2**62), 0.001, 4_096, NOW, 10**9)
    assert pacer.slot_ms(again=False) == pacer.slot_ms(again=True) == -(-(2**62) // 1_000) <= SLOT_MS_MAX
    far = Pacer(Pace(0, SLOT_MS_MAX * 1_000 - 1, 0), 0.001, 4_096, NOW, 10**12)
    assert far.slot_ms(again=False) == SLOT_MS_MAX
    assert far.slot_ms(again=False) == SLOT_MS_MAX
    assert max(far.pace) < 2**63
