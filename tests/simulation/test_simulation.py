"""The runtime, the engine and the tables under crashes, seed by seed; see the modules beside this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dlq_stream.runtime.partition import Partition
from tests.simulation.bugs import BUGS, MOVES, SILENCE
from tests.simulation.coverage import Coverage
from tests.simulation.names import Conditions
from tests.simulation.world import simulate

BLOCKS = 10
BUG_SEEDS = 400


@pytest.fixture(scope="module")
def coverage() -> Iterator[Coverage]:
    """What all blocks came to."""
    found = Coverage()
    yield found
    print(f"\n{found.report()}")


@pytest.mark.parametrize("block", range(BLOCKS))
def test_promises_hold_whatever_dies(block: int, coverage: Coverage, pytestconfig: pytest.Config) -> None:
    """Nothing lost, nothing emitted twice or early, figures and stores equal to the truth."""
    for seed in range(block, pytestconfig.getoption("simulation_seeds"), BLOCKS):
        outcome = simulate(seed)
        coverage.add(outcome)
        outcome.raise_for_violations()


def test_every_crash_point_occurred(
    coverage: Coverage, capsys: pytest.CaptureFixture[str], pytestconfig: pytest.Config
) -> None:
    """Else the seeds above prove less than they seem to."""
    if coverage.seeds < pytestconfig.getoption("simulation_seeds"):
        pytest.skip("not all blocks ran")
    with capsys.disabled():
        print(f"\n{coverage.report()}")
    assert not coverage.missing


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_planted_bugs_are_caught(bug: type[Partition]) -> None:
    """The checkers can fail."""
    runs = (simulate(seed, partition_type=bug, conditions=BUGS[bug]) for seed in range(BUG_SEEDS))
    assert any(outcome.violations for outcome in runs)


@pytest.mark.parametrize("conditions", [SILENCE, MOVES], ids=["silence", "moves"])
def test_no_bug_is_caught_where_there_is_none(conditions: Conditions) -> None:
    """Under the conditions of the planted ones."""
    for seed in range(20):
        simulate(seed, conditions=conditions).raise_for_violations()


def test_a_seed_is_one_run() -> None:
    """The same history twice, whatever order sets have in a process."""
    command = [sys.executable, "-m", "tests.simulation", "--seed", "7", "--steps", "40"]
    runs = [
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert "commits #" in runs[0]
