"""What many runs came to together, and what did not occur in any of them.

A run proves something only about what happened in it.  So everything that can happen to a message is enumerated from
the lifecycle's table, listed and ignored, and every crash point and every way of the runtime that has to be gone; what
no run came by makes the whole fail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from dlq_stream.core.commands import Action
from dlq_stream.core.lifecycle import LIFECYCLE, Event, Ignored, State
from tests.simulation.life import POINTS
from tests.simulation.model import FAILED, SUCCEEDED
from tests.simulation.names import STANDBY_REPLICAS, WORKERS
from tests.simulation.outcome import Cell, Outcome

FIGURES = (
    *(f"runs with {count} workers" for count in sorted(set(WORKERS))),
    "rebalances",
    "zombies woken",
    "frozen at write: in flight",
    "writes in two parts",
    "writes fenced",
    "commits fenced",
    "commits without an answer, open so far",
    "commits without an answer, committed so far",
    "ended by OutcomeUnknown",
    "producers started again",
    "brokers restarted",
    "hanging transactions committed",
    "hanging transactions aborted",
    "destinations refused",
    "destinations silent",
    "records refused",
    "refusals to be narrowed down",
    "input held back",
    "batches staged in steps",
    "runs missed",
    "records skipped",
    "records sent again",
    "reports repeated",
    "reports overtaken",
    "reports held back while brokers were away",
    "replays of whole topics from offset 0",
    "replays of what topics still hold",
    "agents lagging for longer than outcomes are waited for",
    "outcomes heard after their time-out",
    "clocks set forward by a lot",
    "clocks set back by a lot",
    "disks lost",
    "disks older than they were",
    "stores too old to be trusted",
    *(f"runs with {count} standby replicas" for count in sorted(set(STANDBY_REPLICAS))),
    "standbys caught up",
    "copies that were a former owner's state",
    "copies compared with a rebuild",
    "follow: brokers silent",
    "frozen at follow: between chunks",
    "take-overs with a copy",
    "take-overs with nothing left to read",
    "states taken over compared with a rebuild",
    "records that two groups failed on",
    "failures of another group's retry",
    "messages that go on after they were purged",
    "ticks that took input along",
    "policies published",
    "retries given a slot",
    "events whole in quarantine",
    "events packed for quarantine",
    "events cut for quarantine",
)
"""What has to occur besides crash points and cells."""


def cells() -> Iterator[Cell]:
    """Everything that can happen to a message in any state, and what comes of it."""
    orders = [action.event for action in Action]
    for state, arrows in LIFECYCLE.items():
        for event, target in arrows.items():
            yield Cell(state, event, target)
        if state is State.ABSENT:
            for cause in (SUCCEEDED, *orders):
                yield Cell(state, cause, Ignored.ABSENT)
            continue
        yield Cell(state, FAILED, Ignored.DUPLICATE)
        yield Cell(state, FAILED, Ignored.AHEAD)
        yield Cell(state, SUCCEEDED, Ignored.AHEAD)
        if Event.SUCCEEDED not in arrows:
            yield Cell(state, SUCCEEDED, Ignored.STATUS)
        for event in orders:
            yield Cell(state, event, Ignored.REVISION)
            if event not in arrows:
                yield Cell(state, event, Ignored.STATUS)
    yield Cell(State.ESCALATED, Event.PURGED, Ignored.UNWRITTEN)


CELLS = tuple(sorted(set(cells())))


class Coverage:
    """Sums over runs."""

    def __init__(self) -> None:
        self.seeds = 0
        self.violations: dict[int, str] = {}
        self.points: Counter[str] = Counter()
        self.cells: Counter[Cell] = Counter()
        self.figures: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        """Count one run."""
        self.seeds += 1
        if outcome.violations:
            self.violations[outcome.seed] = outcome.violations[0]
        self.points += outcome.points
        self.cells += outcome.cells
        self.figures += outcome.figures

    def merge(self, other: Coverage) -> None:
        """Add the sums over other runs."""
        self.seeds += other.seeds
        self.violations |= other.violations
        self.points += other.points
        self.cells += other.cells
        self.figures += other.figures

    @property
    def missing(self) -> list[str]:
        """What can happen, and did not in any run."""
        points = [f"death at {point!r}" for point in POINTS if not self.points[point]]
        states = [f"{cell.cause!r} in {cell.state}: {cell.result}" for cell in CELLS if not self.cells[cell]]
        return points + states + [name for name in FIGURES if not self.figures[name]]

    @property
    def unforeseen(self) -> list[Cell]:
        """What happened to messages and is not in the table."""
        return sorted(self.cells.keys() - set(CELLS))

    def report(self, *, of_many: bool = True) -> str:
        """All of it, for people; ``of_many``: enough seeds to say what never occurs."""
        lines = [f"{self.seeds} seeds, {len(self.violations)} with violations"]
        lines += [f"{count:10} {name}" for name, count in sorted(self.figures.items())]
        lines.append("deaths by crash point:")
        lines += [f"{self.points[point]:10} {point}" for point in POINTS]
        lines.append("what happened to messages, by state:")
        lines += [f"{self.cells[cell]:10} {cell.state}: {cell.cause} -> {cell.result}" for cell in CELLS]
        lines += [f"UNFORESEEN {cell}" for cell in self.unforeseen]
        lines += [f"NEVER OCCURRED {name}" for name in self.missing if of_many]
        lines += [f"seed {seed} VIOLATION {text}" for seed, text in sorted(self.violations.items())]
        return "\n".join(lines)
