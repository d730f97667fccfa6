"""``dlq-stream list``: the messages, next due first."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

import click

from dlq_stream.cli.options import line_option, settings_options
from dlq_stream.cli.run import run, warn
from dlq_stream.cli.selecting import selection_options, take_selection
from dlq_stream.settings import Settings
from dlq_stream.settings.groups import ConnectionSettings, LogSettings

if TYPE_CHECKING:
    from dlq_stream.view.messages import Answer
    from dlq_stream.view.selection import Selection

LIMIT: Final = 50
"""So many messages are listed unless asked otherwise."""


@click.command("list")
@selection_options
@line_option(
    "--limit", type=click.IntRange(1), metavar="INTEGER", default=LIMIT, show_default=True, help="List at most so many."
)
@line_option("--all", "everything", is_flag=True, help="List all of them.")
@line_option("--json", "as_json", is_flag=True, help="Print one JSON object, with stable names, instead of a table.")
@settings_options(ConnectionSettings, LogSettings)
def command(limit: int, everything: bool, as_json: bool, **options: Any) -> None:
    """List messages by queue, status, error type and age: next due first, then all others, the oldest first.

    Read from Kafka alone: no worker needs to run. The first line says of which moment the answer is, and how many
    records the workers had not processed then.
    """
    selection = take_selection(options)
    run(options, lambda settings: _list(settings, selection, None if everything else limit, as_json), quiet=True)


commands: Final = {"list": command}


def _list(settings: Settings, selection: Selection, limit: int | None, as_json: bool) -> int:
    answer = asyncio.run(read(settings, selection))
    if answer.undecodable:
        warn(f"{answer.undecodable} rows cannot be read at all and are not listed")
    click.echo(as_json_text(settings, answer, limit) if as_json else "\n".join(as_lines(settings, answer, limit)))
    return 0


async def read(settings: Settings, selection: Selection) -> Answer:
    """All messages that fit, in order."""
    from dlq_stream.tables import messages
    from dlq_stream.view.app import open_app
    from dlq_stream.view.messages import read_selected

    async with open_app(settings, messages.TABLE.changelog(settings.app_id)) as app:
        return await read_selected(app, selection)


def as_json_text(settings: Settings, answer: Answer, limit: int | None) -> str:
    """The JSON object: `rows.as_of_object`'s fields, ``matched``, ``undecodable``, ``messages`` of `rows.as_object`.

    ``matched`` counts all that fit; ``messages`` has no more than ``limit`` of them.
    """
    from dlq_stream.cli.rows import as_object, as_of_object

    at = answer.as_of.as_of_ms
    told = {
        **as_of_object(settings.app_id, answer.as_of),
        "matched": len(answer),
        "undecodable": answer.undecodable,
        "messages": [as_object(id_, row, at) for id_, row in answer.first(limit)],
    }
    return json.dumps(told, indent=2)


def as_lines(settings: Settings, answer: Answer, limit: int | None) -> list[str]:
    """Of which moment this is, the table, and how many more there are."""
    from dlq_stream.cli.rows import as_of_line, as_table

    lines = [as_of_line(settings.app_id, answer.as_of), ""]
    shown, found = answer.first(limit), len(answer)
    lines += as_table(shown, answer.as_of.as_of_ms) if shown else ["No message fits."]
    if found > len(shown):
        lines += ["", f"{found - len(shown)} more of {found}; --limit N or --all shows them"]
    elif shown:
        lines += ["", f"{found} message{'s' if found > 1 else ''}"]
    return lines
