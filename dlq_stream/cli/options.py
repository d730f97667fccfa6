"""Options generated from the settings: what a setting is called, means and accepts is written once, at its field.

Values are passed on as text and judged by the settings, so that a wrong one gets the same answer wherever it came from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from pydantic.fields import FieldInfo

from dlq_stream.settings import QueueSettings, Settings
from dlq_stream.settings.groups import Group
from dlq_stream.settings.sources import PREFIX, option_of
from dlq_stream.settings.words import allowed_of, choices_of, default_of, type_of

QUEUE_FIGURES = tuple(name for name in QueueSettings.model_fields if name not in ("rules", "by_error"))
"""The fields of a queue's policy that one value on the command line can set."""

QUEUE_PREFIX = "queue_"
"""Of the names under which a command gets those."""

LISTED = 50
"""So much is listed unless asked otherwise."""

CONFIRM_SECONDS = 30.0
"""How long the workers may be silent before what is left counts as unconfirmed."""

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def settings_options(*groups: type[Group], leave_out: tuple[str, ...] = ()) -> Callable[[FunctionT], FunctionT]:
    """Add ``--config`` and an option for every field of the groups; the command gets them as ``**options``."""
    fields = {"config": Settings.model_fields["config"]}
    for group in groups:
        fields |= {name: field for name, field in group.model_fields.items() if name not in leave_out}

    def add(function: FunctionT) -> FunctionT:
        for name, field in reversed(fields.items()):
            function = _option(name, field, help_of(name, field))(function)
        return function

    return add


class LineOption(click.Option):
    """An option that is said on the command line only: what names messages, and what is done to them or shown."""


def line_option(*names: str, **how: Any) -> Callable[[FunctionT], FunctionT]:
    """Add an option that is no setting; the arguments are `click.option`'s."""
    return click.option(*names, cls=LineOption, **how)


def queue_options(function: FunctionT) -> FunctionT:
    """Add an option for every figure of a queue's policy; its tables (rules, by_error) are a file's.

    The command gets them with `QUEUE_PREFIX` before their names, which are those of settings, too.
    """
    for name in reversed(QUEUE_FIGURES):
        field = QueueSettings.model_fields[name]
        function = _option(name, field, help_of_queue(name), QUEUE_PREFIX + name, LineOption)(function)
    return function


def listing_options(function: FunctionT) -> FunctionT:
    """Add ``--limit --all --json`` of a list; the command gets ``limit``, ``everything`` and ``as_json``."""
    for option in (
        line_option(
            "--json", "as_json", is_flag=True, help="Print one JSON object, with stable names, instead of a table."
        ),
        line_option("--all", "everything", is_flag=True, help="List all of them."),
        line_option(
            "--limit",
            type=click.IntRange(1),
            metavar="INTEGER",
            default=LISTED,
            show_default=True,
            help="List at most so many.",
        ),
    ):
        function = option(function)
    return function


def showing_options(full: str) -> Callable[[FunctionT], FunctionT]:
    """Add ``--full --unmasked --json`` of what shows one thing; ``full`` says what is cut without the first."""

    def add(function: FunctionT) -> FunctionT:
        for option in (
            line_option(
                "--json", "as_json", is_flag=True, help="Print one JSON object, with stable names and nothing cut."
            ),
            line_option("--unmasked", is_flag=True, help="Show what mask_headers and mask_pointers hide."),
            line_option("--full", is_flag=True, help=f"Show all of the {full}, however long."),
        ):
            function = option(function)
        return function

    return add


SENDING = ("rate", "dry_run", "yes", "confirm_seconds", "as_json")
"""What a command gets from `sending_options`."""


def sending_options(*, rate: str, unconfirmed: str) -> Callable[[FunctionT], FunctionT]:
    """Add ``--rate --dry-run --yes --confirm-seconds --json`` of what sends; the ends of two helps are told."""

    def add(function: FunctionT) -> FunctionT:
        for option in (
            line_option(
                "--json", "as_json", is_flag=True, help="Print one JSON object, with stable names, at the end."
            ),
            line_option(
                "--confirm-seconds",
                type=click.FloatRange(0, max=86_400),
                metavar="NUMBER",
                default=CONFIRM_SECONDS,
                show_default=True,
                help=f"End when the workers have done nothing for so long; {unconfirmed}.",
            ),
            line_option("--yes", is_flag=True, help="Do not ask."),
            line_option("--dry-run", is_flag=True, help="Say what would be done, and send nothing."),
            line_option(
                "--rate",
                type=click.FloatRange(0, min_open=True, max=1_000_000),
                metavar="NUMBER",
                help=f"At most so many {rate}.",
            ),
        ):
            function = option(function)
        return function

    return add


def _option(
    name: str, field: FieldInfo, text: str, parameter: str | None = None, kind: type[click.Option] = click.Option
) -> Callable[[FunctionT], FunctionT]:
    flag, parameter = option_of(name), parameter or name
    choices = choices_of(field)
    if type_of(field) is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", parameter, cls=kind, default=None, help=text)
    values: Any = click.Choice(choices, case_sensitive=False) if choices else str
    return click.option(flag, parameter, cls=kind, type=values, default=None, metavar=_metavar(field), help=text)


def _metavar(field: FieldInfo) -> str | None:
    words = {int: "INTEGER", float: "NUMBER"}
    return None if choices_of(field) else words.get(type_of(field), "TEXT")


def help_of(name: str, field: FieldInfo) -> str:
    """What a field means, what it takes, and its environment variable."""
    plain = choices_of(field) or type_of(field) is bool
    notes = [f"default {default}" if (default := default_of(field)) else ""] if plain else [allowed_of(field)]
    notes.append(f"{PREFIX}{name.upper()}")
    return f"{' '.join((field.description or '').split())} [{'; '.join(note for note in notes if note)}]"


def help_of_queue(name: str) -> str:
    """What a field of a queue's policy means and takes."""
    field = QueueSettings.model_fields[name]
    notes = "" if choices_of(field) or type_of(field) is bool else f" [{allowed_of(field)}]"
    return f"{' '.join((field.description or '').split())}{notes}"
