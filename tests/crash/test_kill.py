"""``kill -9`` of workers on a real broker, while failures come in and retries go out."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from tests.crash.fleet import Fleet
from tests.crash.harness import Scenario, play
from tests.crash.traffic import Traffic
from tests.kafka_fixture import LocalKafka

pytestmark = [pytest.mark.crash, pytest.mark.timeout(180)]


async def kill_one_twice(fleet: Fleet, rng: random.Random, traffic: Traffic) -> None:
    """One of the workers, twice, at random moments; the second time once it is back at work."""
    victim = rng.choice(sorted(fleet.workers))
    for _ in range(2):
        await asyncio.sleep(rng.uniform(0.05, 0.35) * traffic.seconds)
        await fleet.kill(victim)


async def test_one_of_two_workers_killed_twice(
    kafka: LocalKafka, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """3,000 failures: nothing lost, repeated or early, all tables as a rebuild says, and the figures are the truth.

    The seed is printed; CRASH_SEED=... plays it again (the moments within a transaction are the machine's).
    """
    seed = int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(1 << 32))
    scenario = Scenario(seed=seed, count=3_000, per_second=100, workers=("worker-a", "worker-b"))
    result = await play(kafka, tmp_path, scenario, kill_one_twice)
    with capsys.disabled():
        print(f"\ncrash: {result.line}")
    assert result.findings.are_none, f"seed {seed}:\n{result.findings}"
    assert len(result.comebacks) == 2
