"""The runtime, the engine and the tables under all that goes wrong, seed by seed; see the docstring of the package."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from dlq_stream.core.lifecycle import LIFECYCLE
from tests.simulation.bugs import BUGS
from tests.simulation.course import simulate
from tests.simulation.coverage import CELLS, Coverage
from tests.simulation.many import cover, executor, first_catch
from tests.simulation.outcome import REPLAY

COVERING_SEEDS = 1_000
"""Fewer seeds than these need not come by everything."""


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """One for each core."""
    with executor() as pool:
        yield pool


@pytest.mark.timeout(1_800)
def test_promises_hold_whatever_goes_wrong(
    processes: ProcessPoolExecutor, capsys: pytest.CaptureFixture[str], pytestconfig: pytest.Config
) -> None:
    """Nothing lost, nothing emitted twice or early, figures and stores equal to the truth; and all of it occurred."""
    seeds = pytestconfig.getoption("simulation_seeds")
    coverage = cover(processes, range(seeds))
    with capsys.disabled():
        print(f"\n{coverage.report(of_many=seeds >= COVERING_SEEDS)}")
    assert not coverage.violations, f"see what led to it: {REPLAY} {min(coverage.violations)}"
    assert not coverage.unforeseen
    assert seeds < COVERING_SEEDS or not coverage.missing


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_caught(bug: str, processes: ProcessPoolExecutor, capsys: pytest.CaptureFixture[str]) -> None:
    """The checkers can fail, for each of the mechanisms that they watch."""
    catch = first_catch(processes, bug, range(1_000))
    assert catch is not None
    with capsys.disabled():
        print(f"\n{bug}: caught by seed {catch.seed}: {catch.violation:.200}")


def test_every_arrow_of_the_lifecycle_is_looked_for() -> None:
    """Else what the lifecycle gains would go unnoticed."""
    arrows = {(state, event, target) for state, events in LIFECYCLE.items() for event, target in events.items()}
    assert arrows <= set(CELLS)


def test_what_never_occurred_is_named() -> None:
    """A run of few seeds is told apart from one that proves something."""
    coverage = Coverage()
    coverage.add(simulate(1, steps=20))
    assert "death at 'commit: after'" in coverage.missing
    assert "NEVER OCCURRED death at 'commit: after'" in coverage.report()
    assert "NEVER" not in coverage.report(of_many=False)


def test_a_seed_is_one_run() -> None:
    """The same history twice, whatever order sets have in a process."""
    command = [sys.executable, "-m", "tests.simulation", "--seed", "7"]
    runs = [
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert "commits #" in runs[0]
