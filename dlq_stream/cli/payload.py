"""Bytes of others as people and programs can look at them: JSON where they are JSON, else text, else hex.

JSON is only laid out anew, never read and written again: numbers keep their digits, and a field that is given twice
is shown twice.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

import msgspec

from dlq_stream.cli.layout import printable

BYTES_MAX: Final = 4_096
"""So much of a text is shown at most, and a quarter of it of bytes in hex, unless all was asked for."""

LINES_MAX: Final = 60
"""So many lines are shown at most, unless all was asked for."""

HEADER_CHARS_MAX: Final = 200
"""So much of a key or header is shown, unless all was asked for."""

_ROW: Final = 16


class Content(NamedTuple):
    """Bytes, and as what they can be shown; ``text`` is what they say, laid out if JSON, empty for all but the two."""

    kind: Literal["null", "json", "text", "hex"]
    raw: bytes
    text: str = ""


def content_of(raw: bytes | None) -> Content:
    """What these bytes are.  Text is UTF-8 without NUL, which only binary formats have (and Avro begins with)."""
    if raw is None:
        return Content("null", b"")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return Content("hex", raw)
    try:
        return Content("json", raw, msgspec.json.format(text, indent=2))
    except (msgspec.DecodeError, RecursionError):
        return Content("hex" if "\0" in text else "text", raw, text)


def as_object(content: Content) -> dict[str, Any]:
    """For JSON: ``kind``, ``size_bytes`` (null for null) and ``content``: JSON itself, a text, hex digits, or null."""
    size = None if content.kind == "null" else len(content.raw)
    told: Any
    match content.kind:
        case "json":
            told = msgspec.Raw(content.raw)
        case "text":
            told = content.text
        case "hex":
            told = content.raw.hex()
        case "null":
            told = None
    return {"kind": content.kind, "size_bytes": size, "content": told}


def as_lines(content: Content, *, full: bool) -> list[str]:
    """For people: as many lines as it takes, or as are shown at most and a last one that says how much there is."""
    if content.kind == "null":
        return ["null"]
    if not content.raw:
        return ["(empty)"]
    if content.kind == "hex":
        bytes_max = len(content.raw) if full else BYTES_MAX // 4
        lines = hex_dump(content.raw[:bytes_max])
        return lines if len(content.raw) <= bytes_max else [*lines, _more(content)]
    text = content.text if full else content.text[:BYTES_MAX]
    lines = printable(text).split("\n")
    if full or (len(lines) <= LINES_MAX and len(content.text) <= BYTES_MAX):
        return lines
    return [*lines[:LINES_MAX], _more(content)]


def _more(content: Content) -> str:
    return f"… of {len(content.raw):,} bytes; --full shows them all"


def in_short(raw: bytes | None, *, full: bool) -> str:
    """A key or a header's value in one line: a text as it is, other bytes as ``0x`` and hex digits."""
    if raw is None:
        return "null"
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\0"
    shown = f"0x{raw.hex()}" if "\0" in text else printable(text).replace("\n", "\\n")
    if full or len(shown) <= HEADER_CHARS_MAX:
        return shown or "(empty)"
    return f"{shown[:HEADER_CHARS_MAX]}… of {len(raw):,} bytes"


def hex_dump(raw: bytes) -> list[str]:
    """Sixteen bytes a line: offset, hex digits, and the letters among them."""
    lines = []
    for start in range(0, len(raw), _ROW):
        row = raw[start : start + _ROW]
        letters = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{start:08x}  {row.hex(' '):<{3 * _ROW - 1}}  |{letters}|")
    return lines
