"""What the benchmarks make of their measurements; measuring itself is not done in tests."""

from __future__ import annotations

import os
import time

import pytest

from tests.benchmarks.__main__ import report
from tests.benchmarks.intake import BOUND, Intake, Pair
from tests.benchmarks.meter import Sample, Speed, cpu_seconds, speed
from tests.benchmarks.records import STACKTRACE_BYTES, VALUE_BYTES, events


def pair(worker: float, pipe: float = 10_000) -> Pair:
    return Pair(pipe=Speed(pipe, 20.0), worker=Speed(worker, None))


def test_speed_is_between_the_first_commit_and_the_last() -> None:
    """What comes before the first (start-up) and after the last does not count."""
    samples = [Sample(0, 0, 1.0), Sample(5, 0, 2.0), Sample(6, 100, 3.0), Sample(7, 500), Sample(8, 1_100, 5.0)]
    assert speed([*samples, Sample(60, 1_100, 9.0)], 1_100) == Speed(500.0, 2_000.0)


@pytest.mark.parametrize("records", [[], [0, 0], [0, 50], [0, 100], [100, 100]])
def test_no_steady_state_is_no_figure(records: list[int]) -> None:
    """Nothing committed, not all of it, or all of it at once."""
    with pytest.raises(ValueError, match="no progress"):
        speed([Sample(at, count) for at, count in enumerate(records)], 100)


def test_processor_seconds_grow_with_work() -> None:
    """Of a process that exists; else there is no figure."""
    before = cpu_seconds(os.getpid())
    if before is None:
        pytest.skip("this system has no /proc")
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert (cpu_seconds(os.getpid()) or 0) > before
    assert cpu_seconds(2**31 - 1) is None


def test_the_bound_is_held_to_the_median_of_the_ratios() -> None:
    """One bad pair does not decide, and pairs are compared within themselves."""
    good = Intake(1, [pair(4_100), pair(10), pair(8_400, pipe=20_000)])
    assert (good.ratio, good.holds) == (0.41, True)
    bad = Intake(1, [pair(3_900), pair(9_000), pair(100)])
    assert (bad.ratio, bad.holds) == (0.39, False)
    assert Intake(1, [pair(BOUND * 10_000)]).holds


def test_the_report_says_whether_the_bound_holds() -> None:
    """In words, under a Markdown table with a row per pair and one of medians."""
    text = report(Intake(80_000, [pair(4_000), pair(2_000), pair(3_000)]), load=1.5)
    assert "| 1 | 10,000 | 4,000 | 0.40 | 20 | - |" in text
    assert "| **median** | 10,000 | 3,000 | 0.30 | 20 | - |" in text
    assert "Bound: ratio >= 0.4: DOES NOT HOLD (0.30)." in text
    assert "80,000 events a run" in text
    for name in ("Kafka 4", "aiokafka 0", "faust-streaming 0", "cores"):
        assert name in text


def test_events_are_realistic_and_all_different() -> None:
    """About the sizes that are said, and no id twice."""
    made = list(events(200, seed=1))
    assert len({key for key, _, _ in made}) == 200
    for key, value, headers in made:
        assert len(value) == VALUE_BYTES
        assert STACKTRACE_BYTES * 0.9 < len(dict(headers)["dlq-error-stacktrace"]) <= STACKTRACE_BYTES
        assert dict(headers)["dlq-message-id"] == key
        assert len(headers) == 13
