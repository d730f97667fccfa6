"""Options generated from the settings: what a setting is called, means and accepts is written once, at its field.

Values are passed on as text and judged by the settings, so that a wrong one gets the same answer wherever it came from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from pydantic.fields import FieldInfo

from dlq_stream.settings import Settings
from dlq_stream.settings.groups import Group
from dlq_stream.settings.sources import PREFIX, option_of
from dlq_stream.settings.words import allowed_of, choices_of, default_of, type_of

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def settings_options(*groups: type[Group], leave_out: tuple[str, ...] = ()) -> Callable[[FunctionT], FunctionT]:
    """Add ``--config`` and an option for every field of the groups; the command gets them as ``**options``."""
    fields = {"config": Settings.model_fields["config"]}
    for group in groups:
        fields |= {name: field for name, field in group.model_fields.items() if name not in leave_out}

    def add(function: FunctionT) -> FunctionT:
        for name, field in reversed(fields.items()):
            function = _option(name, field)(function)
        return function

    return add


def _option(name: str, field: FieldInfo) -> Callable[[FunctionT], FunctionT]:
    flag = option_of(name)
    choices = choices_of(field)
    if type_of(field) is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=help_of(name, field))
    kind: Any = click.Choice(choices, case_sensitive=False) if choices else str
    return click.option(flag, name, type=kind, default=None, metavar=_metavar(field), help=help_of(name, field))


def _metavar(field: FieldInfo) -> str | None:
    words = {int: "INTEGER", float: "NUMBER"}
    return None if choices_of(field) else words.get(type_of(field), "TEXT")


def help_of(name: str, field: FieldInfo) -> str:
    """What a field means, what it takes, and its environment variable."""
    plain = choices_of(field) or type_of(field) is bool
    notes = [f"default {default}" if (default := default_of(field)) else ""] if plain else [allowed_of(field)]
    notes.append(f"{PREFIX}{name.upper()}")
    return f"{' '.join((field.description or '').split())} [{'; '.join(note for note in notes if note)}]"
