"""What waits for a person, and how old the figures are that say so."""

from __future__ import annotations

from collections.abc import Iterable

from dlq_stream.cli.doctor.finding import Finding, counted, ok, some, warning
from dlq_stream.cli.doctor.patient import Patient
from dlq_stream.cli.figures import Figures
from dlq_stream.cli.layout import duration
from dlq_stream.core.reasons import UnwrittenReason

PASSING = frozenset((UnwrittenReason.UNKNOWN, UnwrittenReason.DEFERRED))
"""Reasons that pass by themselves within a second."""


async def check(patient: Patient) -> list[Finding]:
    """Stuck and unwritten messages, and what is in quarantine."""
    figures = await patient.figures()
    found = list(_held_up(figures))
    if held := await _in_quarantine(patient):
        found.append(
            warning(
                "quarantine",
                f"{patient.topics.quarantine} holds events that could not be understood "
                f"({figures.own.quarantined} since the beginning, {held} offsets of it are kept)",
                "read what their dlq-quarantine-reason says (dlq-stream quarantine list), and correct the sender",
                patient.topics.quarantine,
            )
        )
    return [*(found or [ok("message", "no message waits for a person, and quarantine is empty")]), _freshness(figures)]


def _held_up(figures: Figures) -> Iterable[Finding]:
    for queue, row in figures.queues.items():
        if row.stuck:
            yield warning(
                "stuck",
                f"{counted(row.stuck, 'message')} of {queue} {'is' if row.stuck == 1 else 'are'} stuck: "
                f"{_reasons(row.stuck_reasons)}",
                "no timer looks at them: dlq-stream retry, resolve or escalate them",
                queue,
            )
        lasting = {reason: count for reason, count in row.unwritten_reasons.items() if reason not in PASSING}
        if lasting:
            yield warning(
                "unwritten",
                f"{counted(sum(lasting.values()), 'message')} of {queue} given up and not in the -dlq topic: "
                f"{_reasons(lasting)}",
                "mend the topic that the reason is about: what can be written at all is tried again",
                queue,
            )


def _reasons(counts: dict[str, int]) -> str:
    return some([f"{reason} {count}" for reason, count in sorted(counts.items())]) or "no reason told"


def _freshness(figures: Figures) -> Finding:
    if figures.updated_ms is None:
        return ok("figures", "no worker has counted anything yet")
    age = max(0.0, (figures.as_of_ms - figures.updated_ms) / 1000)
    return ok("figures", f"the figures last changed {duration(age)} ago")


async def _in_quarantine(patient: Patient) -> int:
    """Offsets that the topic spans, transaction markers included."""
    places = await patient.places([patient.topics.quarantine])
    begins, ends = await patient.ends(places, first=True), await patient.ends(places, committed=True)
    return sum(ends[place] - begins[place] for place in ends.keys() & begins.keys())
