"""What a table and an index are, to those that store them: names, the tags of their keys, how index keys are derived.

One store holds all tables and indexes of a partition, so every key there begins with a one-byte tag.  Index entries are
no changelog records: whoever writes or replays a row derives them from its old and new bytes, in the same atomic write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Any

from dlq_stream.core.transaction import INDEX_SUFFIX_BYTES
from dlq_stream.core.transaction import IndexKeys as IndexKeys
from dlq_stream.core.transaction import IndexMoves as IndexMoves

Derive = Callable[[bytes, bytes | None, bytes | None], IndexMoves]
"""``derive(key, old, new)`` -> the index entries that this change of a row removes, and those that it adds."""

TIME_MS_MAX = 2**63 - 1
"""The latest instant that a row may hold; later ones (a hostile ``due_at``) are set to it."""

_TIME = Struct(">Q")
pack_time = _TIME.pack
"""Milliseconds as the eight bytes that sort like them."""


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """A secondary order: keys are ``prefix | milliseconds (8 bytes, big-endian) | message id (16)``, values empty."""

    name: str
    tag: bytes


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A table: its changelog is compacted and has as many partitions as the app's topics."""

    name: str
    tag: bytes
    derive: Derive | None = None
    cleanup: str = "compact"

    def changelog(self, app_id: str) -> str:
        """The name of the table's changelog topic (Faust's own pattern)."""
        return f"{app_id}-{self.name}-changelog"

    def define(self, app: Any, **options: Any) -> Any:
        """The Faust table of this name on ``app``: raw bytes both ways; ``options`` go to ``app.Table``."""
        return app.Table(self.name, key_type=bytes, value_type=bytes, **options)


def index_key(prefix: bytes, time_ms: int, message_id: bytes) -> bytes:
    """The key of an index entry."""
    return prefix + pack_time(time_ms) + message_id


def until(prefix: bytes, time_ms: int) -> bytes:
    """Where a scan stops that wants the entries of ``prefix`` up to and including ``time_ms``."""
    return prefix + pack_time(time_ms + 1)


def split_index_key(key: bytes) -> tuple[int, bytes]:
    """Milliseconds and message id of an index key."""
    return _TIME.unpack_from(key, len(key) - INDEX_SUFFIX_BYTES)[0], key[-16:]
