"""``dlq-stream quarantine retry``: which records, whether really, and what became of each."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import click

from dlq_stream.cli.confirming import agreed
from dlq_stream.cli.held import table
from dlq_stream.cli.layout import in_one_line
from dlq_stream.cli.quarantine import read
from dlq_stream.cli.rows import as_of_line
from dlq_stream.cli.run import EXIT_FAILED
from dlq_stream.settings import Settings
from dlq_stream.topics import AppTopics
from dlq_stream.view.app import open_app
from dlq_stream.view.quarantine import Fate, Return, send_again
from dlq_stream.view.restored import Held, Place

SAMPLE: Final = 5
"""So many of the records that a filter means are shown before it is asked."""

_SAID: Final = {
    Fate.TAKEN_IN: "taken in",
    Fate.HELD_AGAIN: "held again",
    Fate.UNCONFIRMED: "not confirmed",
    Fate.IMPOSSIBLE: "not sent",
    Fate.ABSENT: "not sent",
    Fate.NOT_SENT: "not sent",
}

_WHY: Final = {
    Fate.TAKEN_IN: "a worker understood it",
    Fate.UNCONFIRMED: "no worker has had it yet",
    Fate.ABSENT: "there is no such record, or retention took it",
    Fate.NOT_SENT: "it would be sent",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for; no ``places`` where a filter says which records are meant."""

    places: tuple[Place, ...]
    limit: int | None
    rate: float | None
    confirm_seconds: float
    dry_run: bool
    yes: bool
    as_json: bool


def retry(settings: Settings, asked: Asked, fits: Callable[[Held, int], bool]) -> int:
    """Ask where it has to be asked, send, and say what became of each record; returns the exit code."""
    places = asked.places
    if not places:
        listed = asyncio.run(read(settings, fits))
        chosen = listed.records[: asked.limit]
        places = tuple(told.place for told in chosen)
        lines = [as_of_line(settings.app_id, listed.as_of), "", f"{len(listed.records)} fit, {len(chosen)} are meant"]
        if chosen:
            lines += ["", *table(settings, chosen[:SAMPLE], listed.as_of.as_of_ms), ""]
        click.echo("\n".join(lines), err=asked.as_json)
        if places and not asked.dry_run:
            agreed(f"retry {len(places)} record{'s' if len(places) > 1 else ''}?", yes=asked.yes)
    returns = [Return(place) for place in places]

    def settled(one: Return) -> None:
        if not asked.as_json:
            click.echo(_line(one))

    try:
        if returns and not asked.dry_run:
            asyncio.run(_send(settings, asked, returns, settled))
    finally:  # also when told to stop, or when the brokers went away: what was sent is said
        counts = Counter(one.fate for one in returns)
        if asked.as_json:
            click.echo(json.dumps(_object(settings, asked, returns, counts), indent=2))
        elif asked.dry_run:
            click.echo(f"dry run: nothing was sent, {len(returns)} would have been")
        elif any(one.fate is not Fate.NOT_SENT for one in returns):
            said = Counter(_SAID[one.fate] for one in returns)
            click.echo(f"quarantine retry: {', '.join(f'{count} {what}' for what, count in sorted(said.items()))}")
    return 0 if asked.dry_run or all(one.fate is Fate.TAKEN_IN for one in returns) else EXIT_FAILED


async def _send(settings: Settings, asked: Asked, returns: list[Return], on_settled: Callable[[Return], None]) -> None:
    async with open_app(settings, AppTopics(settings.app_id).quarantine) as app:
        await send_again(settings, app, returns, on_settled, rate=asked.rate, confirm_seconds=asked.confirm_seconds)


def _line(one: Return) -> str:
    return f"{one.place}  {_SAID[one.fate]:<13}  {in_one_line(one.said or _WHY[one.fate])}"


def _object(settings: Settings, asked: Asked, returns: list[Return], counts: Counter[Fate]) -> dict[str, Any]:
    """Names are a contract: ``outcome`` is a `dlq_stream.view.quarantine.Fate`, ``said`` why, null where all is well.

    ``sent_to`` is where it lies in the topic it came from, null where it was not sent.
    """
    return {
        "app_id": settings.app_id,
        "dry_run": asked.dry_run,
        "counts": {str(fate): count for fate, count in sorted(counts.items())},
        "results": [
            {
                "record": str(one.place),
                "outcome": one.fate,
                "said": one.said or None,
                "sent_to": one.sent_to and dict(zip(("topic", "partition", "offset"), one.sent_to, strict=True)),
            }
            for one in returns
        ],
    }
