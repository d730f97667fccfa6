"""``kill -9`` of an agent on a real broker, and what is made of its journal."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.crash.agent import fails
from tests.crash.journal import Life, judge_agent, repeated
from tests.crash.scenarios.agents import play_agent
from tests.kafka_fixture import local_kafka


@pytest.mark.crash
@pytest.mark.timeout(120)
async def test_an_agent_killed_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """2,000 records: nothing lost, and nothing repeated that had been committed."""
    seed = int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(1 << 32))
    with local_kafka(group_min_session_timeout_ms=1_000) as kafka:
        result = await play_agent(kafka, tmp_path, seed, 2_000, 2)
    with capsys.disabled():
        print(f"\ncrash: {result.line}")
    assert result.findings.are_none, f"seed {seed}:\n{result.findings}"
    assert len(result.comebacks) == 2


def journal(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


WHOLE = journal("+ 0 0 a", "+ 0 1 b", "- 0 1", "+ 0 2 a", "- 0 2")
FIRST = journal("+ 0 0 a", "+ 0 1 b", "- 0 1") + "+ 0 2"  # a line that the death has cut


@pytest.mark.parametrize(
    ("lives", "reported", "fault"),
    [
        ([Life(WHOLE, {})], [(0, 0)], ""),
        ([Life(FIRST, {}), Life(WHOLE, {0: 0})], [(0, 0), (0, 0)], ""),
        ([Life(FIRST, {})], [(0, 0)], "lost"),
        ([Life(WHOLE, {})], [], "lost"),
        ([Life(WHOLE, {})], [(0, 0), (0, 0)], "duplicate"),
        ([Life(FIRST, {}), Life(WHOLE, {0: 1})], [(0, 0)], "duplicate"),
        ([Life(WHOLE + journal("+ 0 1 b"), {})], [(0, 0)], "duplicate"),
        ([Life(WHOLE, {})], [(0, 0), (0, 1)], "unexpected"),
        ([Life(WHOLE + journal("+ 0 3 b"), {})], [(0, 0)], "unexpected"),
        ([Life(journal("+ 0 2 a", "- 0 2", "+ 0 0 a", "+ 0 1 b", "- 0 1"), {})], [(0, 0)], "order"),
    ],
)
def test_faults_are_found(lives: list[Life], reported: list[tuple[int, int]], fault: str) -> None:
    """Each planted one, under its name, and no other."""
    assert fails(0, 0)
    findings = judge_agent(lives, {0: 3}, reported)
    assert {name for name, found in findings.faults.items() if found} == ({fault} if fault else set())


def test_repetitions_are_counted() -> None:
    """Whether they are faults or not."""
    assert repeated([Life(FIRST, {}), Life(WHOLE, {})]) == 2
