"""The verdict finds what is planted, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from dlq_stream.core import headers as names
from dlq_stream.core.ids import message_id
from dlq_stream.core.model import Headers, Origin
from dlq_stream.demo.events import HeatEvent, event
from dlq_stream.demo.plan import Plan
from dlq_stream.demo.verdict import FAULTS, Evidence, Verdict, judge

PLAN = Plan("demo-x1", "b:9092", seed=11, seconds=4, rate=50, start_ms=1_000_000)
EVENTS = [event(PLAN.seed, number) for number in range(PLAN.events_planned)]
SLOW = next(each for each in EVENTS if not each.is_violation)
"""The reading that fails twice before it succeeds."""


@dataclass(frozen=True)
class Read:
    topic: str
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int = 0


@dataclass
class World:
    """What Kafka holds at the end of a good run; tests spoil it."""

    source: list[Read] = field(default_factory=list)
    results: list[Read] = field(default_factory=list)
    dead_letters: list[Read] = field(default_factory=list)
    failures: list[Read] = field(default_factory=list)

    def __post_init__(self) -> None:
        for each in EVENTS:
            self.source.append(read(PLAN.source, len(self.source), each))
        for each in EVENTS:
            if each.is_violation:
                self.failures.append(failure(each, 0, 1_002_000 + each.number))
                self.dead_letters.append(read(PLAN.dead_letters, each.number, each, attempt=0))
            else:
                self.results.append(read(PLAN.results, len(self.results), each))
        for attempt, failed_at, emitted_at in ((0, 1_002_000, 1_003_000), (1, 1_003_100, 1_005_105)):
            self.failures.append(failure(SLOW, attempt, failed_at))
            self.emit(SLOW, attempt + 1, emitted_at)

    def emit(self, of: HeatEvent, attempt: int, at: int) -> None:
        self.source.append(read(PLAN.source, 10_000 + len(self.source), of, attempt=attempt, at=at))

    def judge(self, written: int = len(EVENTS)) -> Verdict:
        return judge(PLAN, Evidence(self.source, self.results, self.dead_letters, self.failures), written)


def id_of(of: HeatEvent) -> bytes:
    return message_id(PLAN.group, Origin(PLAN.source, 0, of.number, 1_000_000 + of.number))


def read(topic: str, offset: int, of: HeatEvent, *, attempt: int | None = None, at: int | None = None) -> Read:
    own: Headers = ()
    if attempt is not None:
        own = ((names.MESSAGE_ID, id_of(of).hex().encode()), (names.ATTEMPT, b"%d" % attempt))
    return Read(topic, offset, at or 1_000_000 + offset, of.key, of.value, (*of.headers, *own))


def failure(of: HeatEvent, attempt: int, at: int) -> Read:
    own = ((names.MESSAGE_ID, id_of(of).hex().encode()), (names.ATTEMPT, b"%d" % attempt))
    return Read(PLAN.failures, at, at, id_of(of).hex().encode(), of.value, own)


def faults(verdict: Verdict) -> dict[str, int]:
    return {name: count for name, count in verdict.counts.items() if count}


def test_a_good_run_is_good() -> None:
    """And its numbers are right."""
    verdict = World().judge()
    assert (verdict.is_good, verdict.lines()) == (True, [])
    violations = sum(each.is_violation for each in EVENTS)
    assert violations > 2
    assert (verdict.events, verdict.dead_letters, verdict.results) == (200, violations, 200 - violations)
    assert (verdict.emissions, verdict.failures, verdict.repeated_results) == (2, 2 + violations, 0)
    assert (verdict.lateness_ms_median, verdict.lateness_ms_max) == (2, 5)


def violation(world: World) -> int:
    return next(n for n, each in enumerate(world.source) if EVENTS[n].is_violation)


def lose_a_result(world: World) -> None:
    world.results.pop()


def lose_a_dead_letter(world: World) -> None:
    world.dead_letters.pop()


def give_up_too_early(world: World) -> None:
    world.dead_letters.append(read(PLAN.dead_letters, 999, SLOW, attempt=6))


def give_up_instead(world: World) -> None:
    world.results = [each for each in world.results if each.value != SLOW.value]
    give_up_too_early(world)


def write_a_dead_letter_twice(world: World) -> None:
    world.dead_letters.append(world.dead_letters[0])


def let_a_violation_pass(world: World) -> None:
    world.results.append(world.dead_letters.pop())


def emit_twice(world: World) -> None:
    world.emit(SLOW, 2, 1_005_300)


def emit_early(world: World) -> None:
    world.source[-1] = replace(world.source[-1], timestamp=1_005_099)


def emit_out_of_the_blue(world: World) -> None:
    world.emit(SLOW, 4, 1_900_000)


def emit_a_stranger(world: World) -> None:
    forged = (*SLOW.headers, (names.MESSAGE_ID, b"0" * 32), (names.ATTEMPT, b"1"))
    world.source[-1] = replace(world.source[-1], headers=forged)


def change_a_key(world: World) -> None:
    world.source[-1] = replace(world.source[-1], key=b"other")


def swap_headers(world: World) -> None:
    first, second, third, *own = world.source[-1].headers
    world.source[-1] = replace(world.source[-1], headers=(first, third, second, *own))


def lose_a_repeated_header_in_a_dead_letter(world: World) -> None:
    first, _, *others = world.dead_letters[0].headers
    world.dead_letters[0] = replace(world.dead_letters[0], headers=(first, *others))


def lose_a_reading(world: World) -> None:
    del world.source[SLOW.number + 1]


def repeat_a_reading(world: World) -> None:
    world.source.append(replace(world.source[5], offset=77_777))


def add_a_strange_reading(world: World) -> None:
    world.source.append(Read(PLAN.source, 88_888, 1, None, b"\xff"))


def add_a_strange_result(world: World) -> None:
    world.results.append(Read(PLAN.results, 1, 1, None, None))


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lose_a_result, {"lost": 1}),
        (lose_a_dead_letter, {"lost": 1, "not_dead_lettered": 1}),
        (give_up_too_early, {"wrongly_dead_lettered": 1}),
        (give_up_instead, {"wrongly_dead_lettered": 1}),
        (write_a_dead_letter_twice, {"dead_lettered_twice": 1}),
        (let_a_violation_pass, {"not_dead_lettered": 1, "wrongly_succeeded": 1}),
        (emit_twice, {"emitted_twice": 1}),
        (emit_early, {"early": 1}),
        (emit_out_of_the_blue, {"unexplained": 1}),
        (emit_a_stranger, {"unexplained": 1, "altered": 1}),
        (change_a_key, {"altered": 1}),
        (swap_headers, {"altered": 1}),
        (lose_a_repeated_header_in_a_dead_letter, {"altered": 1}),
        (lose_a_reading, {"input": 1}),
        (repeat_a_reading, {"input": 1}),
        (add_a_strange_reading, {"input": 1}),
        (add_a_strange_result, {"wrongly_succeeded": 1}),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_is_planted_is_found(spoil: Callable[[World], None], found: dict[str, int]) -> None:
    """Each fault under its own name, with a line for people."""
    world = World()
    spoil(world)
    verdict = world.judge()
    seen = faults(verdict)
    assert not verdict.is_good
    if spoil is lose_a_reading and "lost" in seen:
        seen.pop("lost")
    assert seen == found
    assert len(verdict.lines()) == len(faults(verdict))


def test_reported_twice_counts_from_the_first() -> None:
    """The schedule started with the first report; a repeated one changes nothing."""
    world = World()
    world.failures.append(failure(SLOW, 0, 1_002_900))
    assert world.judge().is_good


def test_a_repeated_result_is_counted_only() -> None:
    """The agents' own handling is at least once."""
    world = World()
    world.results.append(world.results[0])
    verdict = world.judge()
    assert (verdict.is_good, verdict.repeated_results) == (True, 1)


def test_a_run_that_was_ended_early_is_judged_by_what_was_written() -> None:
    """Fewer readings, the same rules."""
    world = World()
    for records in (world.source, world.results, world.dead_letters, world.failures):
        records[:] = [each for each in records if each.value in {one.value for one in EVENTS[:120]}]
    assert world.judge(written=120).is_good
    assert faults(world.judge(written=121))["lost"] == 1


def test_every_fault_has_words() -> None:
    """The summary names all of them."""
    assert set(Verdict().counts) == set(FAULTS)
