"""What the screen shows, counted from the topics alone while records arrive; also how the demo knows that all is done.

The topics are read side by side, so a retry may be seen before the failure that it follows from.  A message therefore
stands where the highest (attempt, stage) seen of it says, in whatever order they came.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from statistics import median

from dlq_stream.core.model import Record
from dlq_stream.demo.events import event_id_of
from dlq_stream.demo.plan import Plan
from dlq_stream.demo.traces import Trace, due_ms, emission_of, failure_of, success_of

LATENESS_KEPT_MAX = 1_000
"""The median of the lateness is taken over so many emissions, the latest ones; the maximum over all."""


class Stage(IntEnum):
    """How far one attempt has come."""

    EMITTED = 0
    FAILED = 1
    SUCCEEDED = 2
    GIVEN_UP = 3


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers of one moment."""

    produced: int
    processed: int
    failed: int
    pending: int
    retrying: int
    resolved: int
    escalated: int
    lateness_ms_median: int
    lateness_ms_max: int


class Ledger:
    """Counts of one run, fed with records of all its topics."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._produced = self._results = self._failures = 0
        self._settled: set[str] = set()
        self._standing: dict[bytes, tuple[int, Stage]] = {}
        self._failed_at: dict[Trace, int] = {}
        self._emitted_at: dict[Trace, int] = {}
        self._lateness: deque[int] = deque(maxlen=LATENESS_KEPT_MAX)
        self._lateness_max = 0

    @property
    def topics(self) -> tuple[str, ...]:
        """What to feed it with."""
        plan = self._plan
        return plan.source, plan.results, plan.dead_letters, plan.failures, plan.commands

    @property
    def produced(self) -> int:
        """How many readings the source topic holds."""
        return self._produced

    def add(self, records: Iterable[Record]) -> None:
        """Count some more records."""
        for record in records:
            self._add(record)

    def _add(self, record: Record) -> None:
        plan = self._plan
        if record.topic == plan.source:
            self._add_delivery(record)
        elif record.topic == plan.results:
            self._results += 1
            self._settled.add(event_id_of(record.value))
        elif record.topic == plan.dead_letters:
            self._settled.add(event_id_of(record.value))
            self._move(emission_of(record), Stage.GIVEN_UP)
        elif record.topic == plan.failures:
            self._add_failure(record)
        else:
            self._move(success_of(record), Stage.SUCCEEDED)

    def _add_delivery(self, record: Record) -> None:
        trace = emission_of(record)
        if trace is None:
            self._produced += 1
            return
        self._move(trace, Stage.EMITTED)
        self._emitted_at.setdefault(trace, record.timestamp)
        self._note_lateness(trace.before)

    def _add_failure(self, record: Record) -> None:
        trace = failure_of(record)
        if trace is None:
            return
        self._failures += 1
        self._move(trace, Stage.FAILED)
        self._failed_at.setdefault(trace, record.timestamp)
        self._note_lateness(trace)

    def _note_lateness(self, failure: Trace) -> None:
        emitted, failed = self._emitted_at.get(failure.after), self._failed_at.get(failure)
        if emitted is not None and failed is not None:
            late = emitted - due_ms(failure, failed)
            self._lateness.append(late)
            self._lateness_max = max(self._lateness_max, late)

    def _move(self, trace: Trace | None, stage: Stage) -> None:
        if trace is not None:
            seen = self._standing.get(trace.id, (-1, Stage.EMITTED))
            self._standing[trace.id] = max(seen, (trace.attempt, stage))

    def figures(self) -> Figures:
        """The numbers now."""
        at = Counter(stage for _, stage in self._standing.values())
        return Figures(
            produced=self._produced,
            processed=self._results + self._failures,
            failed=self._failures,
            pending=at[Stage.FAILED],
            retrying=at[Stage.EMITTED],
            resolved=at[Stage.SUCCEEDED],
            escalated=at[Stage.GIVEN_UP],
            lateness_ms_median=round(median(self._lateness)) if self._lateness else 0,
            lateness_ms_max=self._lateness_max,
        )

    def is_drained(self, produced: int) -> bool:
        """Whether each of ``produced`` readings came to its end and nothing is on its way any more."""
        at_rest = (Stage.SUCCEEDED, Stage.GIVEN_UP)
        return (
            self._produced >= produced
            and len(self._settled) >= produced
            and all(stage in at_rest for _, stage in self._standing.values())
        )
