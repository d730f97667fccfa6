"""How a value that nobody vouches for is shown in an error message: escaped, and short."""

from __future__ import annotations

shown_chars_max = 80
"""A longer ``repr`` is cut here and ends in an ellipsis."""


def shown(value: object) -> str:
    """The value's ``repr``, at most `shown_chars_max` characters; a megabyte is not formatted only to be cut."""
    if isinstance(value, bytes | str):
        value = value[: shown_chars_max + 1]
    try:
        text = repr(value)
    except Exception:  # a huge int refuses to be printed; nothing here may raise
        text = f"<{type(value).__name__}>"
    return text if len(text) <= shown_chars_max else text[: shown_chars_max - 1] + "…"
