"""What many runs came to together, and what did not occur in any of them."""

from __future__ import annotations

from collections import Counter

from tests.simulation.life import POINTS
from tests.simulation.outcome import Outcome

OCCURRENCES = (
    "producers started again",
    "destinations refused",
    "destinations silent",
    "records refused",
    "refusals to be narrowed down",
    "runs missed",
    "records skipped",
    "ended by OutcomeUnknown",
)
"""Besides the crash points: ways of the runtime that have to be gone for a run to prove anything."""


class Coverage:
    """Sums over runs."""

    def __init__(self) -> None:
        self.seeds = 0
        self.violated: list[int] = []
        self.points: Counter[str] = Counter()
        self.figures: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        """Count one run."""
        self.seeds += 1
        self.violated += [outcome.seed] if outcome.violations else []
        self.points += outcome.coverage
        self.figures += outcome.figures
        self.figures += Counter({f"ended by {name}": count for name, count in outcome.ended.items()})

    @property
    def missing(self) -> list[str]:
        """Crash points and occurrences that no run came by."""
        points = [f"death at {point!r}" for point in POINTS if not self.points[point]]
        return points + [name for name in OCCURRENCES if not self.figures[name]]

    def report(self) -> str:
        """All of it, for people."""
        lines = [f"{self.seeds} seeds, violated: {self.violated or 'none'}"]
        lines += [f"  {count:8} {name}" for name, count in sorted(self.figures.items())]
        lines.append("deaths by crash point:")
        lines += [f"  {self.points[point]:8} {point}" for point in POINTS]
        if self.missing:
            lines.append(f"never occurred: {', '.join(self.missing)}")
        return "\n".join(lines)
