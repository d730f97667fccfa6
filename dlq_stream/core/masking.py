"""What is hidden of a record: values of headers by name, and parts of a JSON payload by JSON pointer (RFC 6901).

Two places mask: an agent before a report leaves its process, and whoever shows a message to people.  Both fail closed:
a payload that pointers cannot be applied to (it is no JSON, or gives a field twice) is hidden whole, since nobody can
say what it holds.  An absent or empty one stays.  All that is not hidden stays as it came, byte for byte, and masking
twice changes nothing more.  Keys are never hidden: they decide the partition.

What was hidden in one place must not stand in another: `Secrets` takes it out of texts, such as the error's message
that quotes it.  It goes by the letters alone: what is reworded, cut or encoded there is not found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, NamedTuple

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.headers import MASKED, OWN_HEADERS
from dlq_stream.core.model import Headers
from dlq_stream.core.shown import shown

MASK = "***"
"""What stands in the place of what is hidden; in JSON it is a string."""

secret_chars_min = 4
"""Shorter secrets are not looked for in texts: a hidden ``1`` would take every digit out of a stack trace."""

secrets_max = 1_000
"""So many secrets of one record are looked for in texts, the longest first."""

pointer_steps_max = 32
"""A pointer of more steps is refused."""

trees_cached_max = 16
"""So many lists of pointers are remembered parsed; a process has one or two."""

Tree = Mapping[str, "Tree | None"]
"""Pointers by their steps; where one ends there is None."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Texts that must not be told, longest first.  False where there are none."""

    texts: tuple[str, ...] = ()

    @property
    def chars_max(self) -> int:
        """Length of the longest."""
        return len(self.texts[0]) if self.texts else 0

    def hide(self, text: str) -> str:
        """``text`` with a mask in the place of every secret."""
        for secret in self.texts:
            text = text.replace(secret, MASK)
        return text

    def hide_in_json(self, raw: bytes) -> bytes:
        """The same for a JSON text that `json.dumps` made: strings, names, and numbers that are secrets."""
        return json.dumps(self._hidden(json.loads(raw)), separators=(",", ":")).encode() if self.texts else raw

    def _hidden(self, value: Any) -> Any:
        match value:
            case str():
                return self.hide(value)
            case list():
                return [self._hidden(each) for each in value]
            case dict():
                return {self.hide(name): self._hidden(each) for name, each in value.items()}
            case int() | float() if str(value) in self.texts:
                return MASK
        return value

    def __bool__(self) -> bool:
        return bool(self.texts)


class Masked(NamedTuple):
    """A record after masking: ``parts`` names what was changed (``headers``, ``value``), ``secrets`` what was there."""

    headers: Headers
    value: bytes | None
    parts: tuple[str, ...] = ()
    secrets: Secrets = Secrets()


@dataclass(frozen=True, slots=True)
class Masking:
    """What to hide; False where that is nothing.

    * ``header_patterns``: names as `fnmatch` patterns, in any case.  The system's own headers are never hidden.
    * ``pointers``: JSON pointers into the payload.  What one points to is hidden whole, be it an object or a list; the
      empty pointer is the whole payload.

    Raises ConfigurationError for what is no pattern or no pointer.
    """

    header_patterns: tuple[str, ...] = ()
    pointers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given: tuple[object, ...] = self.header_patterns
        for pattern in given:
            if not (isinstance(pattern, str) and pattern):
                raise ConfigurationError(f"mask_headers: {shown(pattern)} is not a pattern for names of headers")
        for pointer in self.pointers:
            steps_of(pointer)

    def apply(self, headers: Headers, value: bytes | None) -> Masked:
        """The record without what is to be hidden."""
        if not self:
            return Masked(headers, value)
        shown_headers, from_headers = _mask_headers(headers, self.header_patterns)
        shown_value, from_value = _mask(value, self.pointers)
        parts = ("headers",) * (shown_headers != headers) + ("value",) * (shown_value != value)
        return Masked(shown_headers, shown_value, parts, secrets_in([*from_headers, *from_value]))

    def __bool__(self) -> bool:
        return bool(self.header_patterns or self.pointers)


NO_MASKING = Masking()
"""Hides nothing."""


def mask(value: bytes | None, pointers: Sequence[str]) -> bytes | None:
    """The payload with a mask for whatever the JSON pointers point to.  ConfigurationError for what is no pointer."""
    return _mask(value, tuple(pointers))[0]


def mask_headers(headers: Headers, patterns: Sequence[str]) -> Headers:
    """The headers with a mask for the values of those whose names match; null values stay null."""
    return _mask_headers(headers, patterns)[0]


def steps_of(pointer: str) -> tuple[str, ...]:
    """The names and indexes that a JSON pointer goes through.  Raises ConfigurationError for what is no pointer."""
    given: object = pointer
    if not isinstance(given, str) or (given and given[0] != "/"):
        raise ConfigurationError(
            f"mask_pointers: {shown(pointer)} is not a JSON pointer (RFC 6901): it begins with '/', as in /card/number"
        )
    if re.search(r"~(?![01])", pointer):
        raise ConfigurationError(f"mask_pointers: {shown(pointer)}: write ~0 for '~' and ~1 for '/' within a name")
    steps = tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])
    if len(steps) > pointer_steps_max:
        raise ConfigurationError(f"mask_pointers: {shown(pointer)} has more than {pointer_steps_max} steps")
    return steps


def secrets_in(texts: Iterable[str]) -> Secrets:
    """What to look for in other texts: each as it is, and as an error message or JSON would quote it."""
    found = {form for text in texts for form in _forms(text) if len(form) >= secret_chars_min}
    return Secrets(tuple(sorted(found, key=lambda text: (-len(text), text))[:secrets_max]))


def _forms(text: str) -> Iterator[str]:
    yield text
    yield str.encode(text, "utf-8", "backslashreplace").decode()
    yield repr(text)[1:-1]
    yield json.dumps(text)[1:-1]


def _mask_headers(headers: Headers, patterns: Sequence[str]) -> tuple[Headers, list[str]]:
    if not patterns:
        return headers, []
    lowered = [pattern.lower() for pattern in patterns]
    kept: list[tuple[str, bytes | None]] = []
    hidden: list[str] = []
    for name, value in headers:
        ours = name in OWN_HEADERS or name == MASKED
        if value is None or ours or not any(fnmatchcase(name.lower(), pattern) for pattern in lowered):
            kept.append((name, value))
        else:
            kept.append((name, MASK.encode()))
            hidden.append(value.decode("utf-8", "backslashreplace"))
    return tuple(kept), hidden


def _mask(value: bytes | None, pointers: tuple[str, ...]) -> tuple[bytes | None, list[str]]:
    if not pointers or not value:
        return value, []
    tree = _tree_of(pointers)
    try:
        text = value.decode()
        _DECODER.decode(text)  # the whole of it: what follows relies on it
        spans: list[tuple[int, int]] = []
        _walk(text, _after_space(text, 0), tree, spans)
        hidden = [leaf for start, end in spans for leaf in _leaves(_DECODER.decode(text[start:end]))]
    except (ValueError, RecursionError):  # not UTF-8, not JSON, a field given twice, nested too deeply
        return MASK.encode(), [value.decode("utf-8", "backslashreplace")]
    if not spans:
        return value, []
    for start, end in reversed(spans):
        text = f'{text[:start]}"{MASK}"{text[end:]}'
    return text.encode(), hidden


@lru_cache(trees_cached_max)
def _tree_of(pointers: tuple[str, ...]) -> Tree | None:
    """The pointers as a tree; None where one of them is the whole payload."""
    tree: dict[str, Any] = {}
    for steps in sorted(map(steps_of, pointers)):  # a pointer comes before those that go on from its end
        if not steps:
            return None
        branch = tree
        for step in steps[:-1]:
            further = branch.setdefault(step, {})
            if further is None:
                break
            branch = further
        else:
            branch[steps[-1]] = None
    return tree


def _walk(text: str, start: int, tree: Tree | None, spans: list[tuple[int, int]]) -> int:
    """Add where the values that ``tree`` leads to stand; returns the end of the value at ``start``.

    The text is JSON, so what is expected somewhere is there.
    """
    end: int
    if tree is None or text[start] not in "{[":
        end = _DECODER.raw_decode(text, start)[1]
        if tree is None:
            spans.append((start, end))
        return end
    position, index = _after_space(text, start + 1), 0
    while text[position] not in "}]":
        step = str(index)
        if text[start] == "{":
            step, position = _DECODER.raw_decode(text, position)
            position = _after_space(text, _after_space(text, position) + 1)
        further = _walk(text, position, tree[step], spans) if step in tree else _DECODER.raw_decode(text, position)[1]
        position = _after_space(text, further)
        if text[position] == ",":
            position = _after_space(text, position + 1)
        index += 1
    return position + 1


def _after_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\n\r":
        position += 1
    return position


def _leaves(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for each in value:
                yield from _leaves(each)
        case dict():
            for each in value.values():
                yield from _leaves(each)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field is given twice")
    return fields


# Numbers stay the text that they are: none is too long, and none loses digits.  NaN is no JSON, but Python writes it.
_DECODER = json.JSONDecoder(object_pairs_hook=_once_each, parse_int=str, parse_float=str, parse_constant=str)
