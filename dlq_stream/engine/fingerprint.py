"""Which failures are the same failure: eight bytes of the error's type and its message without what varies.

People see "TimeoutError in fetch_sensor, 412 messages", not 412 lines.  Words that hold a digit (numbers, ids, hashes,
timestamps) are taken for what varies; everything else counts.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b

MESSAGE_CHARS_MAX = 200
"""So much of the error's message counts."""

FINGERPRINTS_CACHED_MAX = 4_096
"""So many are remembered; at the bound the least recently used is worked out again."""

# The anchor makes it linear: a word is looked at from its beginning only.
_VARIES = re.compile(r"\b\w*\d\w*")


def fingerprint(error_type: str, message: str) -> bytes:
    """The fingerprint of an error."""
    return _fingerprint(error_type, message[:MESSAGE_CHARS_MAX])


@lru_cache(FINGERPRINTS_CACHED_MAX)
def _fingerprint(error_type: str, message: str) -> bytes:
    text = f"{error_type}\0{_VARIES.sub('#', message)}"
    return blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).digest()
