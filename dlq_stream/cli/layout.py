"""How commands show things to people: aligned tables, ages, instants, and nothing that a terminal would obey.

Queue names, error texts, headers and payloads come from anybody.  A terminal takes escape sequences in them for
orders (set the title, clear the screen, type something), and bidirectional marks make a text look like another one.
So all text from outside goes through `printable` or `in_one_line`, whether it is shown on a terminal or in a file that
somebody shows on one later.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

_INSTANT_MS_MAX = 253_402_300_799_999  # the end of the year 9999, which is as far as dates go
_PRINTABLE_ASCII = re.compile(r"[ -~\n]*")


def printable(text: str) -> str:
    """The text with all that is not to be seen written as an escape; line breaks stay, tabs become four spaces."""
    if _PRINTABLE_ASCII.fullmatch(text):
        return text
    return "".join(_escaped(char) for char in text.replace("\t", "    ").replace("\r\n", "\n"))


def in_one_line(text: str, chars_max: int | None = None) -> str:
    """`printable`, line breaks escaped, too; what is longer than ``chars_max`` is cut and ends in an ellipsis."""
    if chars_max is not None:
        text = text[: chars_max + 1]  # an escape is never shorter than what it stands for
    text = printable(text.replace("\n", "\\n"))
    return text if chars_max is None or len(text) <= chars_max else f"{text[: chars_max - 1]}…"


def _escaped(char: str) -> str:
    if char == "\n" or char.isprintable():  # no control, format, surrogate or private character is, nor a separator
        return char
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def aligned(rows: Sequence[Sequence[str]], *, right: Sequence[int] | None = None) -> list[str]:
    """The rows as lines with columns; those of the numbers ``right`` are right-aligned (None: all but the first)."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    at_right = range(1, len(widths)) if right is None else right
    return [
        "  ".join(
            cell.rjust(width) if place in at_right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def duration(seconds: float) -> str:
    """``45s``, ``4m10s``, ``3h05m``, ``2d04h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def age_seconds(instant_ms: int | None, as_of_ms: int) -> float | None:
    """How long ago an instant was; never negative, None where there is none."""
    return None if instant_ms is None else max(0, as_of_ms - instant_ms) / 1000


def instant(instant_ms: int | None) -> str:
    """``2026-11-24T19:58:03Z``; ``-`` where there is none, ``the far future`` where dates do not reach."""
    if instant_ms is None:
        return "-"
    if not 0 <= instant_ms <= _INSTANT_MS_MAX:
        return "the far future" if instant_ms > 0 else f"{instant_ms} ms before 1970"
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(instant_ms / 1000))
