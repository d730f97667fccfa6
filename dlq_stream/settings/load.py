"""Load the settings, and say in words for people what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from dlq_stream.core.connection import InsecureOrInconsistent
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.settings.model import SECURITY_NAMES, Settings
from dlq_stream.settings.sources import PREFIX, file_named, nearest, option_of, read_file, unknown_variables
from dlq_stream.settings.words import allowed_of, field_at, holder_of, is_secret

VALUE_CHARS_MAX = 80
"""Longer values are cut in error messages."""


def load(options: Mapping[str, Any] | None = None) -> Settings:
    """The settings in force; ``options`` come from the command line and beat everything, None meaning "not given".

    Raises ConfigurationError that lists every wrong value with its field, what is allowed and where it came from.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise ConfigurationError(explain(error, lambda location: source_of(location, given))) from error
    except SettingsError as error:  # a table given as an environment variable that is not JSON
        raise ConfigurationError(f"environment: {error}: {error.__cause__}") from error
    try:
        settings.policies()
    except ConfigurationError as error:  # values that do not make a policy; the text begins with the field
        field = str(error).partition(":")[0].partition(".")[0].partition("[")[0]
        raise ConfigurationError(f"{error} ({source_of([field], given)})") from error
    try:
        _ = settings.connection
    except InsecureOrInconsistent as error:
        raise ConfigurationError(f"{error} ({source_of([SECURITY_NAMES[error.field]], given)})") from error
    return settings


def remarks() -> list[str]:
    """Sentences about the environment that are no errors: ``DLQ_*`` variables that set nothing."""
    return unknown_variables(list(Settings.model_fields), os.environ)


def explain(error: ValidationError, source: Callable[[list[Any]], str], at: Sequence[str] = ()) -> str:
    """Every wrong value in a sentence: its field, the value, where it came from (``source``), and what is allowed.

    ``at``: where in the settings the model that did not validate stands, such as ``("queues", "heat-processing")``.
    """
    problems = [_sentence(detail, source, at) for detail in error.errors(include_url=False)]
    if len(problems) == 1:
        return problems[0]
    return "\n".join([f"{len(problems)} settings are wrong:", *(f"  {problem}" for problem in problems)])


def _sentence(detail: ErrorDetails, source_of: Callable[[list[Any]], str], at: Sequence[str]) -> str:
    location = [*at, *(part for part in detail["loc"] if part != "[key]")]
    name, source = _name(location), source_of(location)
    if detail["type"] == "extra_forbidden":
        known = list(holder_of(location).model_fields)
        return f"{name} ({source}) is not a setting{nearest(str(location[-1]), known)}"
    field = field_at(location)
    value = "**********" if field is not None and is_secret(field) else repr(detail["input"])
    if len(value) > VALUE_CHARS_MAX:
        value = f"{value[:VALUE_CHARS_MAX]}..."
    message = detail["msg"].removeprefix("Value error, ")
    allowed = f"; allowed: {text}" if field is not None and (text := allowed_of(field)) else ""
    return f"{name} = {value} ({source}): {message[:1].lower()}{message[1:]}{allowed}"


def _name(location: list[Any]) -> str:
    """``queues."heat-processing".rules[0].category``."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = str(part) if str(part).isidentifier() or not text else f'"{part}"'
            text += f".{word}" if text else word
    return text


def source_of(location: list[Any], options: Mapping[str, Any]) -> str:
    """Where the value of a top-level field was taken from, looked up in the order of precedence."""
    field = str(location[0]) if location else ""
    if field in options:
        return f"from option {option_of(field)}"
    variable = f"{PREFIX}{field.upper()}"
    if any(name.upper() == variable and value for name, value in os.environ.items()):
        return f"from environment variable {variable}"
    path = file_named(options)
    return f"from settings file {path}" if path is not None and field in read_file(path) else "the default"
