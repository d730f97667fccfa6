"""``dlq-stream retry | reschedule | resolve | escalate | redrive | purge``: the operator's levers, made alike.

Messages are named by id, or meant by a filter.  An order names the revision of its message that was seen, so it has no
effect on one that changed meanwhile, and none when it is given twice.
"""

from __future__ import annotations

import asyncio
import getpass
import sys
from dataclasses import dataclass
from typing import Any, Final

import click

from dlq_stream.cli import results
from dlq_stream.cli.confirming import agreed
from dlq_stream.cli.kinds import DURATION, INSTANT
from dlq_stream.cli.naming import read_ids
from dlq_stream.cli.options import SENDING, line_option, sending_options, settings_options
from dlq_stream.cli.run import EXIT_FAILED, run
from dlq_stream.cli.selecting import selection_options, take_selection
from dlq_stream.core.commands import Action, by_chars_max, reason_chars_max
from dlq_stream.settings import Settings
from dlq_stream.settings.groups import ConnectionSettings, LogSettings
from dlq_stream.view.selection import Selection


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for."""

    action: Action
    ids: tuple[bytes, ...]
    """Empty where a filter says which messages are meant."""
    selection: Selection
    limit: int | None
    reason: str
    by: str
    at_ms: int | None
    """Of reschedule: the instant, unless it is counted from now."""
    in_ms: int | None
    rate: float | None
    confirm_seconds: float
    dry_run: bool
    yes: bool
    as_json: bool


def _run(action: Action, ids: tuple[str, ...], options: dict[str, Any]) -> None:
    selection = take_selection(options)
    if ids and selection:
        raise click.UsageError("name messages by id or by a filter, not both")
    if not ids and not selection:
        raise click.UsageError("which messages? name ids, '-' to read them from standard input, or give a filter "
                               "(--queue '*' means all)")  # fmt: skip
    if ids and options["limit"] is not None:
        raise click.UsageError("--limit belongs to a filter")
    at_ms, in_ms = options.pop("at", None), options.pop("in_", None)
    if action is Action.RESCHEDULE and (at_ms is None) == (in_ms is None):
        raise click.UsageError("reschedule to when? give --at or --in, one of them")
    own = {name: options.pop(name) for name in ("limit", *SENDING)}
    request = Request(
        action=action,
        ids=read_ids(ids, sys.stdin),
        selection=selection,
        reason=_text("--reason", options.pop("reason"), reason_chars_max),
        by=_text("--by", options.pop("by") or _user(), by_chars_max),
        at_ms=at_ms,
        in_ms=in_ms,
        **own,
    )
    run(options, lambda settings: _order(settings, request), quiet=True)


def _order(settings: Settings, request: Request) -> int:
    from dlq_stream.cli.ordering import Plan, look
    from dlq_stream.view.carrying import Dispatch, carry_out

    plan: Plan = asyncio.run(look(settings, request))
    if not request.ids:
        click.echo("\n".join(results.preview(settings, request, plan)), err=request.as_json)
    if plan.cases and not request.dry_run and not request.ids:
        count = f"{len(plan.cases)} message{'s' if len(plan.cases) > 1 else ''}"
        agreed(f"{request.action} {count}?", yes=request.yes)
    board = results.Board(request, plan)
    dispatch = Dispatch(plan.cases, board.settled)
    try:
        if plan.cases and not request.dry_run:
            with board:
                asyncio.run(
                    carry_out(
                        settings,
                        dispatch,
                        plan.answer.ends,
                        rate=request.rate,
                        confirm_seconds=request.confirm_seconds,
                    )
                )
    except BrokenPipeError:  # nobody reads the results any more
        board.say_last(dispatch, err=True)
        raise
    except KeyboardInterrupt:
        board.conclude(settings, dispatch)
        click.echo("told to stop before this was done", err=True)
    except BaseException:  # the brokers went away: what was sent is said
        board.conclude(settings, dispatch)
        raise
    else:
        board.conclude(settings, dispatch)
    return 0 if board.all_well(dispatch) else EXIT_FAILED


def _text(option: str, text: str, chars_max: int) -> str:
    if len(text) > chars_max:
        raise click.UsageError(f"{option}: {len(text)} characters, at most {chars_max} are allowed")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise click.UsageError(f"{option}: is not valid UTF-8") from None
    return text


def _user() -> str:
    """The name of whoever runs this; empty where the system knows none, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""


_HELP: Final = {
    Action.RETRY: "Emit pending messages now, whatever they were due.",
    Action.RESCHEDULE: "Emit pending messages at another time; one that has passed means now.",
    Action.RESOLVE: "Close pending, retrying or escalated messages: nothing more is to be done about them.",
    Action.ESCALATE: "Give pending or retrying messages up now, into their -dlq topics.",
    Action.REDRIVE: "Send escalated messages round again, now, with a fresh allowance of retries.",
    Action.PURGE: "Forget resolved messages, and escalated ones that are in their -dlq topics.",
}

_MORE: Final = """

Name messages by id, several if need be, '-' for ids on standard input; or by a filter, which shows how many are meant
and some of them, and asks. Each result is said: whether the message changed as ordered, or otherwise, or no worker has
had the order yet. Exit code 0 means that all changed as ordered, 1 that some did not.
"""


def _command(action: Action) -> click.Command:
    def callback(ids: tuple[str, ...], **options: Any) -> None:
        _run(action, ids, options)

    options = [
        click.argument("ids", nargs=-1, metavar="[ID]..."),
        selection_options,
        line_option(
            "--limit",
            type=click.IntRange(1),
            metavar="INTEGER",
            help="Take so many of those that fit: next due first, else the oldest.",
        ),
        *(_WHEN if action is Action.RESCHEDULE else ()),
        *_OPTIONS,
        settings_options(ConnectionSettings, LogSettings),
    ]
    for option in reversed(options):
        callback = option(callback)
    return click.command(action.value, help=_HELP[action] + _MORE)(callback)


_WHEN: Final = (
    line_option("--at", type=INSTANT, metavar="INSTANT", help="When, like 2026-11-25T06:00:00Z."),
    line_option("--in", "in_", type=DURATION, metavar="DURATION", help="When, counted from now, like 90s or 2h."),
)

_OPTIONS: Final = (
    line_option("--reason", default="", metavar="TEXT", help="Why; kept with the message."),
    line_option("--by", default="", metavar="NAME", help="Who says so; by default the name of this user."),
    sending_options(
        rate="orders a second, evenly spread; messages are emitted at that pace",
        unconfirmed="the orders stay, and will be obeyed",
    ),
)

commands: Final = {action.value: _command(action) for action in Action}
"""A command for each action, all with the same options."""
