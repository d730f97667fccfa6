"""What replaying a changelog does to the store: rows, and the index entries derived from them.

Apart from the reading of changelogs: this knows no Kafka.
"""

from __future__ import annotations

from collections.abc import Mapping

from dlq_stream.core.errors import UnsupportedFormat
from dlq_stream.runtime.ports import Store
from dlq_stream.tables import INDEXES, MAJOR, TABLES, marker

_SPECS = {spec.name: spec for spec in TABLES}
_INDEX_TAGS = {spec.name: spec.tag for spec in INDEXES}


def changes_of(store: Store, table: str, rows: Mapping[bytes, bytes | None]) -> dict[bytes, bytes | None]:
    """The changes for one atomic write that bring ``rows`` of a changelog (None: tombstone) into the store.

    The incarnation marker is no row.  Raises `UnsupportedFormat` where a row has another major format.
    """
    spec = _SPECS[table]
    rows = {key: value for key, value in rows.items() if key != marker.MARKER_KEY}
    changes: dict[bytes, bytes | None] = {}
    for key, value in rows.items():
        if value is not None and value[:1] != bytes((MAJOR,)):
            raise UnsupportedFormat(
                f"the changelog of table {table!r} holds rows of format {value[:1].hex()}, this version reads "
                f"{MAJOR:02x}: upgrade this worker"
            )
        changes[spec.tag + key] = value
    if spec.derive is not None and rows:
        before = store.get_many([spec.tag + key for key in rows])
        for (key, value), old in zip(rows.items(), before, strict=True):
            removed, added = spec.derive(key, old, value)
            for index, entry in removed:
                changes[_INDEX_TAGS[index] + entry] = None
            for index, entry in added:
                changes[_INDEX_TAGS[index] + entry] = b""
    return changes
