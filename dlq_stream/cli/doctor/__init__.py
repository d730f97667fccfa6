"""``dlq-stream doctor``: is anything wrong between here, the brokers and the workers, and what mends it.

It only looks: nothing is written, created or joined, so it may be run at any time.  Every check is a module of its own
with one function, ``check``, that turns a `Patient` into findings.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from dlq_stream.cli.options import settings_options
from dlq_stream.cli.run import EXIT_FAILED, EXIT_UNREACHABLE, run
from dlq_stream.settings import Settings
from dlq_stream.settings.groups import ConnectionSettings, DoctorSettings, LogSettings, TopicSettings

if TYPE_CHECKING:
    from dlq_stream.cli.doctor.examination import Examination


@click.command("doctor")
@settings_options(DoctorSettings, ConnectionSettings, TopicSettings, LogSettings)
def command(**options: Any) -> None:
    """Look for what is wrong with brokers, topics and workers, and say what mends it.

    Ends with code 1 where something is wrong, 69 where no broker answers, else 0; warnings do not count. Nothing is
    changed, and no worker is asked.
    """
    run(options, _doctor, quiet=True)


def _doctor(settings: Settings) -> int:
    from dlq_stream.cli.doctor.examination import examine
    from dlq_stream.cli.doctor.finding import Level

    examined = asyncio.run(examine(settings))
    as_of_ms = time.time_ns() // 1_000_000
    if settings.doctor_json:
        click.echo(json.dumps(as_object(settings.app_id, examined, as_of_ms), indent=2))
    else:
        click.echo("\n".join(as_lines(examined)))
    if not examined.reached:
        return EXIT_UNREACHABLE
    return EXIT_FAILED if examined.verdict is Level.WRONG else 0


def as_object(app_id: str, examined: Examination, as_of_ms: int) -> dict[str, Any]:
    """The findings as JSON shows them.  Names are a contract: fields, checks and codes are added, never renamed."""
    from dlq_stream.cli.doctor.finding import Level

    return {
        "app_id": app_id,
        "as_of_ms": as_of_ms,
        "verdict": examined.verdict.value,
        "counts": {level.value: examined.count(level) for level in Level},
        "findings": [
            {
                "check": check,
                "code": finding.code,
                "level": finding.level.value,
                "subject": finding.subject or None,
                "what": finding.what,
                "fix": finding.fix or None,
            }
            for check, finding in examined.findings
        ],
    }


def as_lines(examined: Examination) -> Iterator[str]:
    """A line for each finding, with its fix below it, and how many there are of each level."""
    from dlq_stream.cli.doctor.finding import Level, counted

    for check, finding in examined.findings:
        level = finding.level.upper() if finding.level is Level.WRONG else finding.level
        yield f"{level:<8} {check:<13} {finding.what}"
        if finding.fix:
            yield f"{'':<8} {'':<13} fix: {finding.fix}"
    yield ""
    warnings = counted(examined.count(Level.WARNING), "warning")
    yield f"{examined.count(Level.WRONG)} wrong, {warnings}, {examined.count(Level.OK)} ok"
