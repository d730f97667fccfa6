"""What people write on the command line besides plain words: ages and durations, instants, message ids."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import click

from dlq_stream.core.errors import MalformedEvent
from dlq_stream.core.headers import time_ms_max
from dlq_stream.core.ids import parse_id

_UNITS_MS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_DURATION = re.compile("".join(rf"(?:(\d{{1,12}}){unit})?" for unit in _UNITS_MS))

DURATION_MS_MAX = 3_660 * 86_400_000
"""A longer duration than ten years is refused: most likely a mistake in units."""


def duration_ms(text: str) -> int:
    """Milliseconds of ``90s``, ``2h``, ``1d12h``: numbers with units w, d, h, m, s, ms, largest first, each once.

    Raises ValueError for anything else (a number without a unit, too), and beyond `DURATION_MS_MAX`.
    """
    found = _DURATION.fullmatch(text.strip()) if text.isascii() else None
    if found is None or not any(found.groups()):
        raise ValueError(f"{text!r} is not a duration; write for example 90s, 2h or 1d12h (w, d, h, m, s, ms)")
    total = sum(int(count or 0) * unit for count, unit in zip(found.groups(), _UNITS_MS.values(), strict=True))
    if total > DURATION_MS_MAX:
        raise ValueError(f"{text!r} is longer than ten years")
    return total


def instant_ms(text: str) -> int:
    """Epoch milliseconds of an ISO 8601 date and time with a zone, like ``2026-11-25T06:00:00+01:00`` or ``...Z``.

    Raises ValueError for anything else: without a zone it would mean something else on another machine.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is not an ISO 8601 date and time such as 2026-11-25T06:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone; end it with Z, or an offset like +01:00")
    milliseconds = round(moment.timestamp() * 1000)
    if not 0 <= milliseconds <= time_ms_max:
        raise ValueError(f"{text!r} is before 1970 or after the year 9999")
    return milliseconds


def message_id(text: str) -> bytes:
    """The 16 bytes of a message id as commands print it; raises ValueError."""
    try:
        return parse_id(text.encode())
    except (MalformedEvent, UnicodeEncodeError):  # the command line may hold surrogates
        raise ValueError(f"{text[:80]!r} is not a message id (32 hex digits)") from None


class Kind(click.ParamType):
    """One of these functions as a type of click's; what it raises is a usage error that names the option."""

    def __init__(self, name: str, read: Any) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value read; what was read already stays."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as wrong:
            self.fail(str(wrong), param, ctx)


DURATION = Kind("duration", duration_ms)
INSTANT = Kind("instant", instant_ms)
MESSAGE_ID = Kind("id", message_id)
