"""What the statistics of one partition should say: counted from what happened, and recounted from the rows.

Totals come from the events that `tests.simulation.model` finds to have happened, gauges from comparing rows before and
after a transaction, without a look at how the product does it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from dlq_stream.core.lifecycle import Event
from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.core.reasons import StuckReason, UnwrittenReason
from dlq_stream.tables import stats
from dlq_stream.tables.messages import DeadLetter, Message
from dlq_stream.tables.stats import PARTITION_QUEUE, Stats

GAUGES = ("pending", "retrying", "resolved", "escalated", "stuck", "unwritten")
REASONS = ("stuck_reasons", "unwritten_reasons")
TOTALS = (
    "failures",
    "retries",
    "succeeded",
    "presumed",
    "reopened",
    "timed_out",
    "escalated_total",
    "resolved_by_operator",
    "redriven",
    "purged",
    "quarantined",
    "forwarded",
)
_NONE: Counter[str] = Counter()
_TOTAL_OF = {
    Event.FAILED_AGAIN: "failures",
    Event.FAILED_FINALLY: "failures",
    Event.DUE: "retries",
    Event.SUCCEEDED: "succeeded",
    Event.PRESUMED_RESOLVED: "presumed",
    Event.TIMED_OUT_AGAIN: "timed_out",
    Event.TIMED_OUT_FINALLY: "timed_out",
    Event.RESOLVED_BY_OPERATOR: "resolved_by_operator",
    Event.REDRIVEN: "redriven",
    Event.PURGED: "purged",
}


class Truth:
    """Counts by queue, as messages are booked."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.ignored: dict[str, Counter[str]] = {}
        self._open: dict[str, dict[bytes, int]] = {}
        self._touched: dict[str, None] = {}

    def touched(self) -> list[str]:
        """The queues whose figures have changed since this was asked last."""
        queues, self._touched = list(self._touched), {}
        return queues

    def _of(self, queue: str) -> Counter[str]:
        self._touched[queue] = None
        return self.counts.setdefault(queue, Counter())

    # --- what happened ------------------------------------------------------------------------------------------

    def happened(self, queue: str, event: Event, *, presumed: bool, escalates: bool) -> None:
        """A transition; ``presumed``: from a success that was only presumed, ``escalates``: it gives the message up."""
        counts = self._of(queue)
        if event in _TOTAL_OF:
            counts[_TOTAL_OF[event]] += 1
        counts["reopened"] += presumed and event in (Event.FAILED_AGAIN, Event.FAILED_FINALLY)
        counts["escalated_total"] += escalates

    def ignored_event(self, queue: str, reason: str) -> None:
        """An event had no effect on a message; without one, ``queue`` is empty."""
        self._touched[queue] = None
        self.ignored.setdefault(queue, Counter())[reason] += 1

    def of_partition(self, name: str, count: int) -> None:
        """Events were quarantined or forwarded."""
        if count:
            self._of(PARTITION_QUEUE)[name] += count

    # --- what there is ------------------------------------------------------------------------------------------

    def changed(self, id_: bytes, old: Message | None, new: Message | None) -> None:
        """A row was replaced."""
        for row, sign in ((old, -1), (new, 1)):
            if row is not None:
                counts = self._of(row.booked)
                for name in _gauges(row):
                    counts[name] += sign
        if old is not None:
            self._open.get(old.booked, {}).pop(id_, None)
        if new is not None and new.status in stats.OPEN:
            self._open.setdefault(new.booked, {})[id_] = new.created_ms

    def wrong(self, queue: str, found: Stats) -> dict[str, Any]:
        """Figures of a queue that are not the truth, with what they should be."""
        counts = self.counts.get(queue, _NONE)
        expected: dict[str, Any] = {name: counts[name] for name in (*GAUGES, *TOTALS)}
        expected["ignored"] = self.ignored.get(queue, {})
        for name in REASONS:
            by_reason = {key.removeprefix(f"{name}."): count for key, count in counts.items() if key.startswith(name)}
            expected[name] = {reason: count for reason, count in by_reason.items() if count}
        expected["oldest_open_ms"] = min(self._open.get(queue, {}).values(), default=None)
        return {name: (got, value) for name, value in expected.items() if (got := getattr(found, name)) != value}

    def wrongly_recounted(self, rows: Mapping[bytes, Message]) -> dict[str, Any]:
        """Gauges of queues that a recount over all rows does not come to."""
        recount: dict[str, Counter[str]] = {}
        for row in rows.values():
            recount.setdefault(row.booked, Counter()).update(_gauges(row))
        queues = recount.keys() | self.counts.keys()
        return {
            f"{name} of {queue!r}": (counted, kept)
            for queue in sorted(queues)
            for name in GAUGES
            if (counted := recount.get(queue, Counter())[name]) != (kept := self.counts.get(queue, _NONE)[name])
        }


def _gauges(row: Message) -> Iterable[str]:
    yield _NAMES[row.status]
    if row.stuck_reason:
        yield "stuck"
        yield f"stuck_reasons.{StuckReason.of(row.stuck_reason)}"
    if row.dead_letter in (DeadLetter.WAITING, DeadLetter.IMPOSSIBLE):
        yield "unwritten"
        yield f"unwritten_reasons.{UnwrittenReason.of(row.dead_letter_reason)}"


_NAMES = {
    DLQMessageStatus.PENDING: "pending",
    DLQMessageStatus.RETRYING: "retrying",
    DLQMessageStatus.RESOLVED: "resolved",
    DLQMessageStatus.ESCALATED: "escalated",
}
