"""What a timer's transaction did to a message, found from the row before and after: nothing else has a say there."""

from __future__ import annotations

from collections.abc import Iterator

from dlq_stream.core.lifecycle import LIFECYCLE, Event, State
from dlq_stream.tables.messages import state_of
from tests.simulation.fold import Change

EVENTS = (
    Event.DUE,
    Event.REFUSED,
    Event.TIMED_OUT_AGAIN,
    Event.TIMED_OUT_FINALLY,
    Event.PRESUMED_RESOLVED,
    Event.PURGED,
)
"""What timers bring about.  One tick may do several to one message, such as a time-out and the retry due at once."""

Path = tuple[tuple[State, Event], ...]


def path_of(change: Change) -> Path | None:
    """The transitions that lead from the row before to the row after; None where there are none."""
    steps = 1 if change.new is None else change.new.revision - (change.old.revision if change.old else 0)
    found = (path for path in _paths(state_of(change.old), steps) if _fits(path, change))
    return next(found, None)


def _paths(state: State, steps: int) -> Iterator[Path]:
    if steps <= 0:
        yield ()
        return
    for event in EVENTS:
        if event in LIFECYCLE[state]:
            for rest in _paths(LIFECYCLE[state][event], steps - 1):
                yield ((state, event), *rest)


def _fits(path: Path, change: Change) -> bool:
    end = LIFECYCLE[path[-1][0]][path[-1][1]] if path else state_of(change.old)
    emitted = sum(event is Event.DUE for _, event in path)
    return end is state_of(change.new) and emitted == change.grown
