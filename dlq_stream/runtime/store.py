"""Tables as Faust sees them: changelog topics for the assignment, and reads of committed state.

Rows are written by the partitions' transactions only.  ``table[key] = value`` in an agent would go around them, with a
changelog record of its own and a dirty disk, so it raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from faust.stores.base import SerializedStore
from faust.tables.table import Table as FaustTable

from dlq_stream.tables import TABLES

_TAGS = {spec.name: spec.tag for spec in TABLES}


def _refuse(table: str) -> NoReturn:
    raise TypeError(
        f"table {table!r} is written by transactions only: stage the row in a Transaction "
        f"(dlq_stream.core.transaction), do not assign to the table"
    )


class CommittedStore(SerializedStore):
    """Reads rows of the partitions that this worker owns; refuses writes.

    What its overrides remove are defects of Faust's RocksDB store, which it stands in for.
    """

    def _set(self, key: bytes, value: bytes | None) -> NoReturn:
        """Removes: writes that reach the disk before they are committed, and stay there when they never are."""
        _refuse(self.table_name)

    def _del(self, key: bytes) -> NoReturn:
        """Removes: deletions that reach the disk before they are committed, and are not undone when they never are."""
        _refuse(self.table_name)

    def _clear(self) -> NoReturn:
        """Removes: a bare "TODO" where somebody wants to clear a table."""
        _refuse(self.table_name)

    def persisted_offset(self, tp: Any) -> int | None:
        """Removes: Faust's own idea of what is restored; the partitions keep theirs beside the rows."""
        return None

    def set_persisted_offset(self, tp: Any, offset: int) -> None:
        """See `persisted_offset`."""

    def _committed(self) -> Iterator[tuple[bytes, bytes]]:
        tag = _TAGS[self.table_name]
        for partition in list(self.app.owner.partitions.values()):
            yield from partition.committed_rows(tag)

    def _get(self, key: bytes) -> bytes | None:
        """Removes: inside a stream only the event's partition is looked at, outside of one stale standbys are, too."""
        tag = _TAGS[self.table_name]
        for partition in list(self.app.owner.partitions.values()):
            value: bytes | None = partition.committed(tag + key)
            if value is not None:
                return value
        return None

    def _contains(self, key: bytes) -> bool:
        """Removes: the same partial look as in `_get`."""
        return self._get(key) is not None

    def _iteritems(self) -> Iterator[tuple[bytes, bytes]]:
        """Removes: iterating over rows that were never committed."""
        yield from self._committed()

    def _iterkeys(self) -> Iterator[bytes]:
        """Removes: iterating over keys that were never committed."""
        return (key for key, _ in self._committed())

    def _itervalues(self) -> Iterator[bytes | None]:
        """Removes: iterating over values that were never committed."""
        return (value for _, value in self._committed())

    def _size(self) -> int:
        """Removes: counting rows that were never committed."""
        return sum(1 for _ in self._committed())

    def reset_state(self) -> None:
        """Removes: ``faust reset`` deleting databases that a worker may have open; nothing is kept here."""

    async def backup_partition(self, tp: Any, flush: bool = True, purge: bool = False, keep: int = 1) -> NoReturn:
        """There are no backups: the changelogs are what a lost state is built from."""
        raise NotImplementedError("local state is rebuilt from the changelogs, not from backups")

    def restore_backup(self, tp: Any, latest: bool = True, backup_id: int = 0) -> NoReturn:
        """See `backup_partition`."""
        raise NotImplementedError("local state is rebuilt from the changelogs, not from backups")


class Table(FaustTable):
    """A Faust table over the partitions' stores."""

    def _new_store_by_url(self, url: Any) -> CommittedStore:
        """Removes: stores of Faust's own, which are dirty after a crash, whatever the URL says."""
        return CommittedStore(
            url,
            self.app,
            self,
            table_name=self.name,
            key_type=self.key_type,
            key_serializer=self.key_serializer,
            value_serializer=self.value_serializer,
            value_type=self.value_type,
            loop=self.loop,
        )

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        """Removes: a changelog record outside the transaction and a dirty disk (upstream #177, #517)."""
        _refuse(self.name)

    def __delitem__(self, key: Any) -> NoReturn:
        """See `__setitem__`."""
        _refuse(self.name)
