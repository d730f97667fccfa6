"""``dlq-stream quarantine list | show | retry``: what workers could not understand.

A record there is named by its partition and offset in the quarantine topic, like ``3-1042``.  The topic is only ever
appended to: what is retried stays in it, and listed, until retention takes it; retrying it again does no harm.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from dlq_stream.cli.kinds import DURATION, Kind
from dlq_stream.cli.options import (
    SENDING,
    line_option,
    listing_options,
    sending_options,
    settings_options,
    showing_options,
)
from dlq_stream.cli.run import run
from dlq_stream.settings import Settings
from dlq_stream.settings.groups import ConnectionSettings, LogSettings, MaskingSettings
from dlq_stream.view.restored import Place

if TYPE_CHECKING:
    from dlq_stream.view.quarantine import Listed
    from dlq_stream.view.restored import Held

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

PLACE: Final = Kind("place", Place.parse)

_filters: Final = (
    line_option("--kind", type=click.Choice(("failures", "commands")), help="Only what came from this topic."),
    line_option("--reason", metavar="TEXT", help="Only records whose reason holds this text, in any case."),
    line_option("--older-than", type=DURATION, metavar="AGE", help="Only what was put there so long ago, like 2h."),
)


def filter_options(function: FunctionT) -> FunctionT:
    """Add ``--kind --reason --older-than``; `take_filter` makes one function of them."""
    for option in reversed(_filters):
        function = option(function)
    return function


def take_filter(options: dict[str, Any]) -> tuple[Callable[[Settings], Callable[[Held, int], bool]], bool]:
    """What the options ask for, given the settings, and whether they ask for anything; takes them out."""
    kind, reason, older = options.pop("kind"), options.pop("reason"), options.pop("older_than")

    def of(settings: Settings) -> Callable[[Held, int], bool]:
        def fits(told: Held, now_ms: int) -> bool:
            return (
                (kind is None or told.topic == f"{settings.app_id}-{kind}")
                and (reason is None or reason.lower() in told.reason.lower())
                and (older is None or told.timestamp_ms <= now_ms - older)
            )

        return fits

    return of, any(each is not None for each in (kind, reason, older))


@click.group("quarantine")
def command() -> None:
    """List, show or retry what workers could not understand: failure events and commands, whole, with the reason.

    A record is named by partition and offset in the quarantine topic, like 3-1042.
    """


@command.command("list")
@filter_options
@listing_options
@settings_options(ConnectionSettings, LogSettings)
def list_command(limit: int, everything: bool, as_json: bool, **options: Any) -> None:
    """List records by the topic they came from, reason and age: the latest first."""
    fits, _ = take_filter(options)

    def body(settings: Settings) -> int:
        from dlq_stream.cli.held import as_lines, listed_as_object

        listed = asyncio.run(read(settings, fits(settings)))
        shown = None if everything else limit
        if as_json:
            click.echo(json.dumps(listed_as_object(settings, listed, shown), indent=2))
        else:
            click.echo("\n".join(as_lines(settings, listed, shown)))
        return 0

    run(options, body, quiet=True)


async def read(settings: Settings, fits: Callable[[Held, int], bool]) -> Listed:
    """The records that fit, the oldest first."""
    from dlq_stream.topics import AppTopics
    from dlq_stream.view.app import open_app
    from dlq_stream.view.quarantine import read_quarantine

    async with open_app(settings, AppTopics(settings.app_id).quarantine) as app:
        return await read_quarantine(app, fits)


@command.command("show")
@click.argument("place", metavar="PARTITION-OFFSET", type=PLACE)
@showing_options("payload and headers")
@settings_options(ConnectionSettings, MaskingSettings, LogSettings)
def show_command(place: Place, full: bool, unmasked: bool, as_json: bool, **options: Any) -> None:
    """Show one record: why it is there, where it came from, and all that was received."""

    def body(settings: Settings) -> int:
        from dlq_stream.cli.held import show

        return show(settings, place, full=full, unmasked=unmasked, as_json=as_json)

    run(options, body, quiet=True)


@command.command("retry")
@click.argument("places", metavar="[PARTITION-OFFSET]...", nargs=-1, type=PLACE)
@filter_options
@line_option("--all", "everything", is_flag=True, help="All of them.")
@line_option(
    "--limit", type=click.IntRange(1), metavar="INTEGER", help="Take so many of those that fit, the oldest first."
)
@sending_options(rate="a second", unconfirmed="they will have what was sent later")
@settings_options(ConnectionSettings, LogSettings)
def retry_command(places: tuple[Place, ...], everything: bool, limit: int | None, **options: Any) -> None:
    """Send records as they were received to the topics they came from, after an upgrade or a change of settings.

    They stay in quarantine, and listed, until retention takes them; to retry one twice does no harm. Exit code 0 means
    that the workers understood all of them this time, 1 that they did not.
    """
    fits, given = take_filter(options)
    if bool(places) == (given or everything):
        raise click.UsageError("name records (3-1042), or give a filter, or --all: one of them")
    if places and limit is not None:
        raise click.UsageError("--limit belongs to a filter")
    how = {name: options.pop(name) for name in SENDING}

    def body(settings: Settings) -> int:
        from dlq_stream.cli.returning import Asked, retry

        return retry(settings, Asked(tuple(dict.fromkeys(places)), limit=limit, **how), fits(settings))

    run(options, body, quiet=True)
