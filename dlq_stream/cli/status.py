"""``dlq-stream status [--json]``: the cluster-wide numbers per queue, and why messages do not move on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from dlq_stream.cli.layout import age_seconds, aligned, duration, instant
from dlq_stream.cli.options import settings_options
from dlq_stream.cli.run import run
from dlq_stream.settings import Settings
from dlq_stream.settings.groups import ConnectionSettings, LogSettings, StatusSettings

if TYPE_CHECKING:
    from dlq_stream.cli.figures import Figures
    from dlq_stream.tables.stats import Stats

GAUGES: Final = ("pending", "retrying", "resolved", "escalated", "stuck", "unwritten")
"""Messages as they stand; `stuck` ones wait for an operator, `unwritten` ones for their ``-dlq`` topic."""

REASONS: Final = {"stuck": "stuck_reasons", "unwritten": "unwritten_reasons"}
"""The gauges that have reasons, and where `Stats` keeps these."""

TOTALS: Final = {
    "failures": "failures",
    "retries": "retries",
    "succeeded": "succeeded",
    "presumed": "presumed",
    "reopened": "reopened",
    "timed_out": "timed_out",
    "escalated_total": "escalated",
    "resolved_by_operator": "resolved_by_operator",
    "redriven": "redriven",
    "purged": "purged",
}
"""Figures that count since the app's topics exist, and their names in the JSON."""


@click.command("status")
@settings_options(StatusSettings, ConnectionSettings, LogSettings)
def command(**options: Any) -> None:
    """Show the cluster-wide numbers per queue, read from Kafka; no worker needs to run."""
    run(options, _status, quiet=True)


def _status(settings: Settings) -> int:
    from dlq_stream.cli.figures import read_figures

    figures = asyncio.run(read_figures(settings))
    click.echo(json.dumps(as_object(figures), indent=2) if settings.status_json else "\n".join(as_lines(figures)))
    return 0


def as_object(figures: Figures) -> dict[str, Any]:
    """The figures as JSON shows them.  Names and units are a contract: fields are added, never renamed."""
    as_of = figures.as_of_ms
    return {
        "app_id": figures.app_id,
        "partitions": figures.partitions,
        "as_of_ms": as_of,
        "updated_ms": figures.updated_ms,
        "queues": [{"queue": queue, **_row(row, as_of)} for queue, row in figures.queues.items()],
        "total": _row(figures.total, as_of),
        "quarantined": figures.own.quarantined,
        "forwarded": figures.own.forwarded,
        "ignored": _ignored(figures),
        "lag": dict(figures.lag),
    }


def _row(row: Stats, as_of_ms: int) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in GAUGES},
        **{name: _sorted(getattr(row, name)) for name in REASONS.values()},
        "oldest_open_ms": row.oldest_open_ms,
        "oldest_open_age_seconds": age_seconds(row.oldest_open_ms, as_of_ms),
        "totals": {shown: getattr(row, name) for name, shown in TOTALS.items()},
        "ignored": _sorted(row.ignored),
        "updated_ms": row.updated_ms or None,
    }


def _ignored(figures: Figures) -> dict[str, int]:
    """All events that had no effect, by reason: those of queues and those about no known message."""
    total = dict(figures.total.ignored)
    for reason, count in figures.own.ignored.items():
        total[reason] = total.get(reason, 0) + count
    return _sorted(total)


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def as_lines(figures: Figures) -> list[str]:
    """The figures as an aligned table and a few lines below it."""
    header = ["QUEUE", *(name.upper() for name in GAUGES), "OLDEST OPEN"]
    rows = [_cells(queue, row, figures.as_of_ms) for queue, row in figures.queues.items()]
    if len(rows) > 1:
        rows.append(_cells("(all)", figures.total, figures.as_of_ms))
    total, ignored = figures.total, _ignored(figures)
    return [
        f"{figures.app_id}, {figures.partitions} partitions, as of {instant(figures.as_of_ms)}; {_freshness(figures)}",
        "",
        *(aligned([header, *rows]) if rows else ["No failure was ever reported."]),
        "",
        *_reasons(figures),
        "since the beginning: " + ", ".join(f"{shown} {getattr(total, name)}" for name, shown in TOTALS.items()),
        f"events: quarantined {figures.own.quarantined}, forwarded {figures.own.forwarded}, "
        f"ignored {sum(ignored.values())}{f' ({_words(ignored)})' if ignored else ''}",
        "not yet processed: " + ", ".join(f"{name} {count}" for name, count in figures.lag.items()),
    ]


def _reasons(figures: Figures) -> Iterator[str]:
    """``stuck in heat-processing: record-missing 2``, a line for each queue and gauge that has reasons."""
    for queue, row in figures.queues.items():
        for gauge, name in REASONS.items():
            if counts := _sorted(getattr(row, name)):
                yield f"{gauge} in {queue}: {_words(counts)}"


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items())


def _cells(queue: str, row: Stats, as_of_ms: int) -> list[str]:
    age = age_seconds(row.oldest_open_ms, as_of_ms)
    return [queue, *(str(getattr(row, name)) for name in GAUGES), "-" if age is None else duration(age)]


def _freshness(figures: Figures) -> str:
    age = age_seconds(figures.updated_ms, figures.as_of_ms)
    return "nothing was ever counted" if age is None else f"last change {duration(age)} before"
