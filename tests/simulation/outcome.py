"""What a run came to: its history, what was violated, and what of the possible occurred."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

REPLAY = "python -m tests.simulation --seed"


class Violation(AssertionError):
    """A promise was broken."""


class Cell(NamedTuple):
    """Something that happened to a message in a state, and the next state, or why it was ignored."""

    state: str
    cause: str
    result: str


@dataclass
class Outcome:
    """The outcome of one seed.

    ``points`` counts the crash points at which a process died, ``cells`` what happened to messages in which state,
    ``figures`` whatever else is worth knowing.
    """

    seed: int
    violations: list[str] = field(default_factory=list)
    cause: BaseException | None = None
    points: Counter[str] = field(default_factory=Counter)
    cells: Counter[Cell] = field(default_factory=Counter)
    figures: Counter[str] = field(default_factory=Counter)
    history: list[tuple[float, str, str]] = field(default_factory=list)

    def raise_for_violations(self) -> None:
        """Fail with the first violation, and how to see what led to it."""
        if self.violations:
            raise Violation(f"{self.violations[0]} (replay: {REPLAY} {self.seed})") from self.cause
