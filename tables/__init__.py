"""The state layer: one module per table with its key layout, row, index keys and typed access through a `Transaction`.

Import name ``dlq_stream.tables``; the directory lies at the top level.  Nothing here registers anything when imported,
and nothing imports Faust: each table has a ``define(app)`` that is given the app.
"""

from dlq_stream.tables import attempts, marker, messages, stats
from dlq_stream.tables.codec import MAJOR, Codec, UndecodableRow
from dlq_stream.tables.spec import Derive, IndexKeys, IndexSpec, TableSpec

TABLES: tuple[TableSpec, ...] = (messages.TABLE, attempts.TABLE, stats.TABLE)
"""Every table, in the order in which init creates their changelogs."""

INDEXES: tuple[IndexSpec, ...] = (messages.DUE, messages.STATUS, messages.CLOSED)
"""Every local index; all are derived from rows of `messages`."""

__all__ = [
    "INDEXES",
    "MAJOR",
    "TABLES",
    "Codec",
    "Derive",
    "IndexKeys",
    "IndexSpec",
    "TableSpec",
    "UndecodableRow",
    "attempts",
    "marker",
    "messages",
    "stats",
]
