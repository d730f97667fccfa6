"""What one ``dlq-*`` header's value means: each function takes the header's name and raw bytes, and trusts neither.

What identifies a message or steers it is checked strictly and raises `MalformedEvent`, naming the header and its
value.  What only describes the error is decoded leniently and cut: a report must not be lost over a bad byte in it.
Texts that repeat from event to event are remembered decoded, which saves their decoding, checking and memory.
"""

from __future__ import annotations

from functools import lru_cache

from dlq_stream.core.destinations import is_legal_topic
from dlq_stream.core.errors import MalformedEvent
from dlq_stream.core.model import ErrorCategory
from dlq_stream.core.shown import shown

queue_bytes_max = 249
"""A longer queue name is malformed; as long as a topic's, which it is by default."""

group_bytes_max = 1_024
"""A longer consumer group is malformed."""

error_types_bytes_max = 4_096
"""So much of a list of error types is read, the rest is cut off."""

error_types_max = 32
"""So many names of that list are kept; the first is what people see."""

error_message_chars_max = 2_048
"""A longer error message is cut."""

error_stacktrace_bytes_max = 8_192
"""A longer stack trace loses its middle, see `cap_stacktrace`."""

metadata_bytes_max = 8_192
"""Longer metadata is malformed: cut JSON would be no JSON."""

texts_cached_max = 1_024
"""So many texts of a kind are remembered; at the bound the least recently used is decoded again."""

_CUT = b"\n[...]\n"
_digits_max = 19
_bytes_per_char_max = 4


def number(name: str, raw: bytes, most: int) -> int:
    """A decimal number from 0 to ``most``, ASCII digits only."""
    # bytes.isdigit knows ASCII digits only; int alone takes signs, spaces, underscores and other scripts' digits, too.
    if raw.isdigit() and len(raw) <= _digits_max:
        value = int(raw)
        if value <= most:
            return value
    raise MalformedEvent(f"{name}: {shown(raw)} is not a decimal number from 0 to {most}")


def flag(name: str, raw: bytes | None, yes: bytes) -> bool:
    """Whether the header is there; ``yes`` is the only value it may have."""
    if raw is None:
        return False
    if raw == yes:
        return True
    raise MalformedEvent(f"{name}: {shown(raw)} is not {yes.decode()!r}, the only value it has")


@lru_cache(texts_cached_max)
def topic(name: str, raw: bytes) -> str:
    """A legal topic name."""
    text = raw.decode("ascii", "replace")
    if not is_legal_topic(text):
        raise MalformedEvent(f"{name}: {shown(raw)} is not a legal topic name")
    return text


@lru_cache(texts_cached_max)
def queue(name: str, raw: bytes) -> str:
    """A queue's name: printable, because it becomes part of keys (ended by NUL), of labels and of log lines."""
    text = _utf8(name, raw, queue_bytes_max)
    if not text or not text.isprintable():
        raise MalformedEvent(f"{name}: {shown(raw)} is empty or holds characters that cannot be printed")
    return text


@lru_cache(texts_cached_max)
def group(name: str, raw: bytes) -> str:
    """A consumer group; empty means none."""
    return _utf8(name, raw, group_bytes_max)


def category(name: str, raw: bytes) -> ErrorCategory:
    """One of the three categories, in either case."""
    try:
        return ErrorCategory(raw.lower().decode())
    except ValueError:  # UnicodeDecodeError is one, too
        raise MalformedEvent(f"{name}: {shown(raw)} is not one of {', '.join(ErrorCategory)}") from None


def metadata(name: str, raw: bytes) -> bytes:
    """The bytes as they are, if they are not too many."""
    if len(raw) > metadata_bytes_max:
        raise MalformedEvent(f"{name}: {len(raw)} bytes, at most {metadata_bytes_max} are allowed")
    return raw


def type_names(raw: bytes) -> tuple[str, ...]:
    """The names in a comma-separated list of error types, most specific first; lenient and cut at its bounds."""
    return _type_names(raw[:error_types_bytes_max])


@lru_cache(texts_cached_max)
def _type_names(raw: bytes) -> tuple[str, ...]:
    names = (name.strip() for name in raw.decode("utf-8", "replace").split(","))
    return tuple(name for name in names if name)[:error_types_max]


def error_message(raw: bytes) -> str:
    """What the error says; lenient and cut at its bound."""
    return raw[: _bytes_per_char_max * error_message_chars_max].decode("utf-8", "replace")[:error_message_chars_max]


def cap_stacktrace(raw: bytes) -> bytes:
    """At most `error_stacktrace_bytes_max` bytes: both ends are kept, for Python's news comes last and Java's first."""
    if len(raw) <= error_stacktrace_bytes_max:
        return raw
    half = (error_stacktrace_bytes_max - len(_CUT)) // 2
    return raw[:half] + _CUT + raw[-half:]


def _utf8(name: str, raw: bytes, bytes_max: int) -> str:
    if len(raw) > bytes_max:
        raise MalformedEvent(f"{name}: {shown(raw)} has {len(raw)} bytes, at most {bytes_max} are allowed")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise MalformedEvent(f"{name}: {shown(raw)} is not UTF-8") from None
