"""What a run came to: its history, what was violated, and what of the possible occurred."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from dlq_stream.core.lifecycle import State


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Outcome:
    """The outcome of one seed.

    ``coverage`` counts the crash points passed for the last time, ``ended`` what made workers end themselves,
    ``figures`` whatever else is worth knowing.
    """

    seed: int
    violations: list[str] = field(default_factory=list)
    cause: BaseException | None = None
    coverage: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    transitions: Counter[tuple[State, State]] = field(default_factory=Counter)
    figures: Counter[str] = field(default_factory=Counter)
    history: list[tuple[float, str, str]] = field(default_factory=list)

    def raise_for_violations(self) -> None:
        """Fail with the first violation, and how to see what led to it."""
        if self.violations:
            replay = f"python -m tests.simulation --seed {self.seed}"
            raise Violation(f"{self.violations[0]} (replay: {replay})") from self.cause
