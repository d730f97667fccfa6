"""The table of the crash matrix, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from tests.crash.scenarios import SCENARIOS, Outcome

COUNTED_APART = ("lost", "duplicate", "early")

COLUMNS = {
    "scenario": "Scenario",
    "events": "Failures",
    "retries": "Retries",
    "troubles": "Troubles",
    "lost": "Lost",
    "duplicate": "Duplicates",
    "early": "Early",
    "differences": "Differences",
    "ready": "Ready, s (median / max)",
    "emitting": "Emitting, s (median / max)",
    "seconds": "Took, s",
}
"""What a row has, and the heading of each.  "Differences" are all other findings: of tables, state, statistics..."""

Row = Mapping[str, object]


def told(name: str, result: Outcome) -> dict[str, object]:
    """The row of a scenario that was played to its end."""
    findings = result.findings
    return {
        "scenario": title(name),
        "events": f"{result.count:,}",
        "retries": f"{result.retries:,}",
        "troubles": len(result.comebacks),
        **{fault: findings.count(fault) for fault in COUNTED_APART},
        "differences": sum(len(found) for fault, found in findings.faults.items() if fault not in COUNTED_APART),
        "ready": _spread(each.ready_seconds for each in result.comebacks),
        "emitting": _spread(result.first_retry_seconds),
        "seconds": round(result.seconds),
        "good": findings.are_none and bool(result.comebacks),
    }


def failed(name: str, seed: int) -> dict[str, object]:
    """The row of a scenario that could not be played to its end."""
    return {"scenario": f"{title(name)} (seed {seed}): NOT PLAYED TO ITS END, see above", "good": False}


def skipped(name: str) -> dict[str, object]:
    """The row of a scenario that this machine cannot play."""
    return {"scenario": f"{title(name)}: SKIPPED, see above", "good": True}


def title(name: str) -> str:
    """What a scenario is called."""
    return (SCENARIOS[name].__doc__ or name).splitlines()[0].rstrip(".")


def table(rows: Sequence[Row]) -> str:
    """All of it."""
    lines = [list(COLUMNS.values()), ["---", *["---:"] * (len(COLUMNS) - 1)]]
    lines += [[str(row.get(column, "-")) for column in COLUMNS] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _spread(seconds: Iterable[float | None]) -> str:
    """Median and maximum of what is known."""
    known = [each for each in seconds if each is not None]
    return f"{statistics.median(known):.1f} / {max(known):.1f}" if known else "-"
