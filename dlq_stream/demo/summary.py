"""What the demo says at its beginning and its end: for people, and as one line of JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from dlq_stream.core.backoff import backoff_ms
from dlq_stream.demo.plan import MAX_RETRIES, Plan, retry_policy
from dlq_stream.demo.verdict import EXAMPLES_MAX, Verdict


@dataclass(slots=True)
class Outcome:
    """How a run ended.  ``mistakes`` are processes that ended as they should not; they fail the run, too."""

    plan: Plan
    verdict: Verdict
    mistakes: list[str]
    is_ended_early: bool
    kills: int
    restarts: int
    drain_seconds: float
    total_seconds: float
    left_behind: list[str] = field(default_factory=list)

    @property
    def word(self) -> Literal["good", "failed", "none"]:
        """``good``: nothing to complain about, and something proved; ``none``: ended before there was a reading."""
        if not self.verdict.is_good or self.mistakes:
            return "failed"
        if self.verdict.events == 0:
            return "none" if self.is_ended_early else "failed"
        return "good"


def backoffs_seconds() -> list[float]:
    """The shortened schedule."""
    return [backoff_ms(retry_policy(), retry) / 1000 for retry in range(1, MAX_RETRIES + 1)]


def introduction(plan: Plan, origin: str) -> str:
    """What is going to happen."""
    begin, end = plan.outage
    schedule = ", ".join(f"{each:g}" for each in backoffs_seconds())
    return (
        f"Kafka at {plan.brokers} ({origin}), app {plan.app_id}, source {plan.source}, seed {plan.seed}.\n"
        f"{plan.events_planned} readings in {plan.seconds:g} s; the sensor backend is down from second {begin:g} to "
        f"{end:g}.\nBackoff is shortened for the demo: retries after {schedule} s (the defaults are 60, 300, 1500 s)."
    )


def human_lines(outcome: Outcome) -> Iterator[str]:
    """The end, for people."""
    found = outcome.verdict
    yield (
        f"{found.events} readings: {found.results - found.repeated_results} succeeded, {found.dead_letters} in "
        f"{outcome.plan.dead_letters}; {found.failures} failures reported, {found.emissions} retries emitted, "
        f"{found.lateness_ms_median} ms late in the median and {found.lateness_ms_max} ms at most."
    )
    yield (
        f"Workers killed: {outcome.kills}, started again: {outcome.restarts}. "
        f"Settled {outcome.drain_seconds:.1f} s after the last reading."
    )
    yield from found.lines()
    yield from outcome.mistakes
    yield from (f"Left on the cluster: {each}" for each in outcome.left_behind)
    if not found.events:
        yield "No reading was written, so nothing is proved."
    if outcome.word == "none":
        return
    if outcome.word == "good":
        yield (
            "Verdict, from Kafka alone: GOOD. Nothing lost, the schema violations are exactly the dead letters, "
            "no retry emitted twice, none early."
        )
    else:
        yield f"Verdict, from Kafka alone: FAILED (seed {outcome.plan.seed})."


def json_line(outcome: Outcome) -> str:
    """The end, for scripts."""
    found = outcome.verdict
    return json.dumps(
        {
            "verdict": outcome.word,
            "events": found.events,
            "results": found.results,
            "repeated_results": found.repeated_results,
            "dead_letters": found.dead_letters,
            "failures": found.failures,
            "emissions": found.emissions,
            "lateness_ms_median": found.lateness_ms_median,
            "lateness_ms_max": found.lateness_ms_max,
            "faults": found.counts,
            "examples": {name: each[:EXAMPLES_MAX] for name, each in found.faults.items() if each},
            "mistakes": outcome.mistakes,
            "workers_killed": outcome.kills,
            "workers_restarted": outcome.restarts,
            "ended_early": outcome.is_ended_early,
            "drain_seconds": round(outcome.drain_seconds, 2),
            "total_seconds": round(outcome.total_seconds, 2),
            "backoff_seconds": backoffs_seconds(),
            "seed": outcome.plan.seed,
            "app_id": outcome.plan.app_id,
            "left_behind": outcome.left_behind,
        }
    )
