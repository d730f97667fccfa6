"""What every scenario is given: how many messages fail, over how long, by which seed, and a directory to work in."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from tests.crash.harness import Scenario

SECONDS = 50.0
"""Over so long messages are reported, however many they are, so that troubles find the same time."""

KILLED, CRASHED = -signal.SIGKILL, 70
"""How workers may end: by a kill, and by their own decision (README, "Workers are crash-only")."""


class Skipped(Exception):
    """Why a scenario cannot be played on this machine."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a scenario is played."""

    seed: int
    events: int
    directory: Path
    previous: str

    def scenario(
        self,
        *workers: str,
        exits: tuple[int, ...] = (KILLED,),
        seconds: float = SECONDS,
        replication: int = 1,
        source: Path | None = None,
        waiting: int = 0,
        standby_replicas: int = 0,
    ) -> Scenario:
        """With these workers, and the exit codes that the trouble may bring about."""
        return Scenario(
            seed=self.seed,
            count=self.events,
            per_second=self.events / seconds,
            workers=workers,
            exits=exits,
            replication=replication,
            source=source,
            waiting=waiting,
            standby_replicas=standby_replicas,
        )
