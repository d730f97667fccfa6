"""What a field accepts, in words, read from its declaration: for error messages and for ``--help``."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from dlq_stream.settings.model import Settings

_KINDS: dict[Any, str] = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    Path: "path",
    tuple[str, ...]: "list of text",
    SecretStr: "text",
}
_CONSTRAINTS = ("ge", "gt", "le", "max_length", "pattern")


def type_of(field: FieldInfo) -> Any:
    """The declared type without its "or None"."""
    if typing.get_origin(field.annotation) in (Literal, tuple, dict):
        return field.annotation
    parts = [part for part in typing.get_args(field.annotation) if part is not type(None)]
    return parts[0] if parts else field.annotation


def is_secret(field: FieldInfo) -> bool:
    """Whether the field's value is never shown."""
    return type_of(field) is SecretStr


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """The words that a field takes where it takes nothing else; empty for all others."""
    declared = type_of(field)
    return typing.get_args(declared) if typing.get_origin(declared) is Literal else ()


def allowed_of(field: FieldInfo) -> str:
    """``whole number, 1 to 4096 (default 12)``."""
    kind = ", ".join(choices_of(field)) or _KINDS.get(type_of(field), "")
    text = ", ".join(part for part in (kind, *_bounds(field)) if part)
    default = default_of(field)
    return f"{text} (default {default})".strip() if default else text


def default_of(field: FieldInfo) -> str:
    """The default as one would write it; empty where there is none."""
    default = field.get_default()
    if default is None or default in ((), {}):
        return ""
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _bounds(field: FieldInfo) -> list[str]:
    bounds = {
        name: getattr(constraint, name)
        for constraint in field.metadata
        for name in _CONSTRAINTS
        if getattr(constraint, name, None) is not None
    }
    words = []
    if "gt" in bounds or "ge" in bounds:
        low = f"above {bounds['gt']}" if "gt" in bounds else str(bounds["ge"])
        words.append(f"{low} to {bounds['le']}" if "le" in bounds else low if "gt" in bounds else f"{low} or more")
    if "pattern" in bounds:
        words.append("of letters, digits, '.', '_' and '-'")
    if "max_length" in bounds:
        words.append(f"at most {bounds['max_length']} characters")
    return words


def field_at(location: list[Any]) -> FieldInfo | None:
    """The field that a location of a validation error points to; None where there is none of that name."""
    return holder_of(location).model_fields.get(str(location[-1])) if location else None


def holder_of(location: list[Any]) -> type[BaseModel]:
    """The model in which the last part of a location is, or should be, a field.

    Parts that are no fields are keys of tables and indexes of lists, whose values belong to the model just entered.
    """
    model: type[BaseModel] = Settings
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        for inner in typing.get_args(field.annotation) if field is not None else ():
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                model = inner
    return model
