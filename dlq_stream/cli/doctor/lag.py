"""Whether what is reported is taken in."""

from __future__ import annotations

from typing import Final

from dlq_stream.cli.doctor.finding import Finding, counted, ok, warning, wrong
from dlq_stream.cli.doctor.patient import Patient
from dlq_stream.cli.layout import duration

LAG_MAX: Final = 10_000
"""More waiting records are worth a look, though workers run."""

QUIET_SECONDS_MAX: Final = 60.0
"""Workers that have changed nothing for longer, with work waiting, do not move."""


async def check(patient: Patient) -> list[Finding]:
    """Lag of each intake topic, and who is there to take it in."""
    figures, group = await patient.figures(), await patient.group()
    workers, found = len(group["members"]), []
    quiet_seconds = (figures.as_of_ms - (figures.updated_ms or 0)) / 1000
    for name, lag in figures.lag.items():
        topic = f"{patient.settings.app_id}-{name}"
        waiting = f"{counted(lag, 'record')} in {topic} {'waits' if lag == 1 else 'wait'} for a worker"
        if not lag:
            found.append(ok("lag", f"{topic} is taken in to its end", topic))
        elif not workers:
            found.append(wrong("lag", f"{waiting}, and none runs", "start dlq-stream worker", topic))
        elif quiet_seconds > QUIET_SECONDS_MAX and figures.updated_ms is not None:
            found.append(
                wrong(
                    "lag",
                    f"{waiting}, and the last figure changed {duration(quiet_seconds)} ago",
                    "see the workers' logs; they restore state, or cannot write",
                    topic,
                )
            )
        elif lag > LAG_MAX:
            found.append(warning("lag", waiting, "look again; if it grows, start more workers", topic))
        else:
            found.append(ok("lag", waiting, topic))
    return found
