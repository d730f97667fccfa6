"""A worker of the previous version beside this one: a rolling upgrade, the way back, and forward again, on a state."""

from __future__ import annotations

import random
import subprocess
from functools import partial
from pathlib import Path

from tests.crash.fleet import Fleet, Worker
from tests.crash.harness import Result, init, play
from tests.crash.scenarios.processes import calm
from tests.crash.scenarios.stage import Skipped, Stage
from tests.crash.traffic import Traffic
from tests.kafka_fixture import local_kafka

ROOT = Path(__file__).resolve().parents[3]

PREVIOUS = "56c708c"
"""The version that is upgraded from: rows of `stats` have a newer minor version since, and stores no WAL."""


def check_out(ref: str, directory: Path) -> Path:
    """The code of a commit, in a directory of its own."""
    directory.mkdir(parents=True)
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", ref], capture_output=True)
    if archive.returncode:
        raise Skipped(f"there is no commit {ref} in the history here: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(directory)], input=archive.stdout, check=True)
    return directory


def run_from(worker: Worker, source: Path | None) -> None:
    """Let the next start be of that code."""
    worker.source = source


async def upgrade(stage: Stage) -> Result:
    """Rolling upgrade from the previous version, back, and forward again."""
    previous = check_out(stage.previous, stage.directory / "previous")

    async def trouble(fleet: Fleet, rng: random.Random, traffic: Traffic) -> None:
        await init(next(iter(fleet.workers.values())).environment)  # the topics that this version adds
        for source in (None, previous, None):
            for name in rng.sample(sorted(fleet.workers), len(fleet.workers)):
                await calm(rng)
                await fleet.restart(name, between=partial(run_from, fleet.workers[name], source))

    with local_kafka() as kafka:
        scenario = stage.scenario("worker-a", "worker-b", source=previous)
        return await play(kafka, stage.directory, scenario, trouble)
