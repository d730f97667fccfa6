"""``dlq-stream list``: the messages, next due first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import islice
from textwrap import indent
from typing import TYPE_CHECKING, Any, Final

import click

from dlq_stream.cli.options import listing_options, settings_options
from dlq_stream.cli.run import run, warn
from dlq_stream.cli.selecting import selection_options, take_selection
from dlq_stream.settings import Settings
from dlq_stream.settings.groups import ConnectionSettings, LogSettings

if TYPE_CHECKING:
    from dlq_stream.view.messages import Answer
    from dlq_stream.view.selection import Selection

PAGE: Final = 5_000
"""So many lines of a table are laid out at a time."""


@click.command("list")
@selection_options
@listing_options
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
    for part in (json_parts if as_json else text_parts)(settings, answer, limit):
        click.echo(part)
    return 0


async def read(settings: Settings, selection: Selection) -> Answer:
    """All messages that fit, in order."""
    from dlq_stream.tables import messages
    from dlq_stream.view.app import open_app
    from dlq_stream.view.messages import read_selected

    async with open_app(settings, messages.TABLE.changelog(settings.app_id)) as app:
        return await read_selected(app, selection)


def json_parts(settings: Settings, answer: Answer, limit: int | None) -> Iterator[str]:
    """The JSON object: `rows.as_of_object`'s fields, ``matched``, ``undecodable``, ``messages`` of `rows.as_object`.

    ``matched`` counts all that fit; ``messages`` has no more than ``limit`` of them.  Written one by one: they may be a
    million.
    """
    from dlq_stream.cli.rows import as_object, as_of_object

    told = {
        **as_of_object(settings.app_id, answer.as_of),
        "matched": len(answer),
        "undecodable": answer.undecodable,
        "messages": [],
    }
    before, after = json.dumps(told, indent=2).rsplit("[]", 1)
    yield f"{before}["
    rows, at = iter(answer.first(limit)), answer.as_of.as_of_ms
    row = next(rows, None)
    while row is not None:
        following = next(rows, None)
        yield indent(json.dumps(as_object(*row, at), indent=2), "    ") + ("," if following else "")
        row = following
    yield f"  ]{after}"


def text_parts(settings: Settings, answer: Answer, limit: int | None) -> Iterator[str]:
    """Of which moment this is, the table, and how many more there are; a long table is laid out page by page."""
    from dlq_stream.cli.rows import as_of_line, as_table

    yield as_of_line(settings.app_id, answer.as_of)
    yield ""
    rows, at, found = answer.first(limit), answer.as_of.as_of_ms, len(answer)
    page = list(islice(rows, PAGE))
    yield from as_table(page, at) if page else ["No message fits."]
    while page := list(islice(rows, PAGE)):
        yield from as_table(page, at)[1:]
    if limit is not None and found > limit:
        yield f"\n{found - limit} more of {found}; --limit N or --all shows them"
    elif found:
        yield f"\n{found} message{'s' if found > 1 else ''}"
