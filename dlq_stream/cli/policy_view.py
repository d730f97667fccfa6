"""Policies as people and scripts see them: the value of each field, and which layer it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from dlq_stream.cli.options import QUEUE_FIGURES
from dlq_stream.settings import QueueSettings, Settings
from dlq_stream.settings.published import PublishedPolicies

PUBLISHED: Final = "published"
QUEUES_SETTINGS: Final = "queue's settings"
SETTINGS: Final = "settings"
DEFAULT: Final = "default"
"""The layers, the first that says something counts: the policies topic, the queue's table in the settings file, the
top level (or the environment), and the built-in default."""

NOTHING: Final = QueueSettings()


class Seen(NamedTuple):
    """A value as a settings file has it (None: no limit), and its layer."""

    value: Any
    layer: str


def figures_of(settings: Settings, queue: str, own: QueueSettings) -> dict[str, Seen]:
    """Every field of the queue's policy that is one value, with ``own`` published for it."""
    table = settings.queues.get(queue, NOTHING)
    found = {}
    for name in QUEUE_FIGURES:
        if (value := getattr(own, name)) is not None:
            found[name] = Seen(value, PUBLISHED)
        elif (value := getattr(table, name)) is not None:
            found[name] = Seen(value, QUEUES_SETTINGS)
        else:
            found[name] = Seen(getattr(settings, name), SETTINGS if name in settings.model_fields_set else DEFAULT)
    return found


def rules_of(settings: Settings, queue: str, own: QueueSettings) -> list[Seen]:
    """The rules in the order in which they are asked; the built-in ones, which come last, are left out."""
    layers = (
        (PUBLISHED, own.rules),
        (QUEUES_SETTINGS, settings.queues.get(queue, NOTHING).rules),
        (SETTINGS, settings.rules),
    )
    return [Seen(rule.model_dump(mode="json", exclude_none=True), layer) for layer, rules in layers for rule in rules]


def exceptions_of(settings: Settings, queue: str, own: QueueSettings) -> dict[str, Seen]:
    """What differs for an error type or category."""
    layers = (
        (SETTINGS, settings.by_error),
        (QUEUES_SETTINGS, settings.queues.get(queue, NOTHING).by_error),
        (PUBLISHED, own.by_error),
    )
    return {
        error: Seen(part.model_dump(exclude_none=True), layer)
        for layer, parts in layers
        for error, part in parts.items()
    }


def as_object(settings: Settings, published: PublishedPolicies, queue: str) -> dict[str, Any]:
    """A queue's policy as JSON shows it.  Names and units are a contract: fields are added, never renamed."""
    own = published.queues.get(queue, NOTHING)
    return {
        "queue": queue,
        "figures": {name: _object(seen) for name, seen in figures_of(settings, queue, own).items()},
        "rules": [_object(seen) for seen in rules_of(settings, queue, own)],
        "by_error": {error: _object(seen) for error, seen in exceptions_of(settings, queue, own).items()},
        "problem": published.problems.get(queue),
    }


def _object(seen: Seen) -> dict[str, Any]:
    return {"value": seen.value, "from": seen.layer}


def as_lines(settings: Settings, queue: str, own: QueueSettings, title: str) -> Iterator[str]:
    """A queue's policy as a small table under its title."""
    figures = {name: _Cells(shown(seen.value), seen.layer) for name, seen in figures_of(settings, queue, own).items()}
    first, second = max(map(len, figures)), max(len(cells.value) for cells in figures.values())
    yield title
    for name, cells in figures.items():
        yield f"  {name:{first}}  {cells.value:{second}}  {cells.layer}"
    for seen in rules_of(settings, queue, own):
        yield f"  rule: {shown(seen.value)}  {seen.layer}"
    for error, seen in exceptions_of(settings, queue, own).items():
        yield f"  for {error}: {shown(seen.value)}  {seen.layer}"


class _Cells(NamedTuple):
    value: str
    layer: str


def changes(settings: Settings, queue: str, before: QueueSettings, after: QueueSettings) -> list[str]:
    """What is different for the queue with ``after`` published instead of ``before``, a line each."""
    was, will = figures_of(settings, queue, before), figures_of(settings, queue, after)
    lines = [
        f"{name}: {shown(was[name].value)} ({was[name].layer}) -> {shown(seen.value)} ({seen.layer})"
        for name, seen in will.items()
        if seen != was[name]
    ]
    if before.rules != after.rules:
        lines.append(f"rules: {len(before.rules)} published -> {len(after.rules)} published")
    for error in sorted(before.by_error.keys() | after.by_error.keys()):
        old, new = (policy.by_error.get(error) for policy in (before, after))
        if old != new:
            words = (shown(part.model_dump(exclude_none=True)) if part else "nothing published" for part in (old, new))
            lines.append(f"by_error.{error}: {' -> '.join(words)}")
    return lines


def shown(value: Any) -> str:
    """A value as one would write it."""
    if value is None:
        return "unlimited"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(part)}" for name, part in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
