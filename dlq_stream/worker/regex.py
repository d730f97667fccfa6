"""The regular expressions of classification rules run on RE2: linear time, whatever the pattern and the text.

Python's own engine can be made to backtrack for hours by an error message.
"""

from __future__ import annotations

from collections.abc import Callable

import re2

from dlq_stream.core.errors import ConfigurationError


def compile_regex(pattern: str) -> Callable[[str], bool]:
    """A search for ``pattern``; raises `ConfigurationError` where RE2 does not know what it means."""
    options = re2.Options()
    options.log_errors = False
    try:
        search = re2.compile(pattern, options).search
    except re2.error as error:
        raise ConfigurationError(f"rule regex {pattern!r} is not understood by RE2: {error}") from error
    return lambda text: search(text) is not None
