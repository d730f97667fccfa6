"""The one seam: everything that reads or writes state, or sends a record, does it through a `Transaction`.

A transaction belongs to one partition.  It stages; nothing is visible outside before the runtime commits it, and then
all of it is: outputs, changelog records, consumed offsets and the local state.  The engine and the tables know nothing
else of the world, so exactly-once on Kafka, the embedded mode and the simulation are implementations of this protocol,
under one contract suite (``tests/contract``).

Staging is synchronous and free of I/O except for reads of local committed state.  It may be repeated: when a broker
refuses a record, the runtime aborts, remembers the refusal (see `Destination.refusal` and `TooLarge`) and calls the
same staging function again on a new transaction.  So staging must have no effects of its own; what has to happen
outside goes into `after_commit`.

A large batch is staged in steps, between which the event loop runs.  What holds for the whole of it, such as bounds and
figures, is shared by the steps (`Transaction.shared`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol, TypeVar

from dlq_stream.core.model import Headers

INDEX_SUFFIX_BYTES = 24
"""Index keys are ``prefix | milliseconds (8 bytes, big-endian) | message id (16)``: sorted by prefix, then time."""


IndexKeys = list[tuple[str, bytes]]
"""Entries of indexes: the index's name and the key, without its tag."""

IndexMoves = tuple[IndexKeys, IndexKeys]
"""Index entries that a change removes, and those that it adds."""

UNAVAILABLE = "unavailable"
"""The refusal of a topic that does not answer at the moment, while others do: no reason to give anything up."""


@dataclass(frozen=True, slots=True)
class Destination:
    """What is known of a topic that a record may be sent to.

    ``refusal`` is None where a record may be written, else the reason why the brokers (or the topic's settings) do not
    take it: ``missing``, ``not-authorised``, ``invalid-name``; or `UNAVAILABLE`.  ``record_bytes_max`` is the topic's
    ``max.message.bytes``.
    """

    topic: str
    partitions: int = 0
    compacted: bool = False
    record_bytes_max: int = 1_048_576
    refusal: str | None = None


class Finishing(Protocol):
    """What the steps of a transaction share."""

    def finish(self) -> None:
        """Stage what was collected; once, when all steps are taken."""
        ...


F = TypeVar("F", bound=Finishing)


class Transaction(Protocol):
    """Staged reads, writes and sends of one partition.  Keys and values are bytes; see the module's text."""

    partition: int
    """The partition whose state this is; tables, failures and commands share the numbering."""
    partitions: int
    """How many partitions the app has."""
    now_ms: int
    """The worker's clock, epoch milliseconds; never runs backwards while the partition is owned."""

    def get_many(self, table: str, keys: Collection[bytes]) -> dict[bytes, bytes | None]:
        """Values by key, None where there is no row; sees this transaction's own writes."""
        ...

    def put(self, table: str, key: bytes, value: bytes, moves: IndexMoves | None = None) -> None:
        """Write a row.  Raises `TooLarge` where the changelog would not take it.

        ``moves`` are the index entries that this removes and adds, where the caller knows them; they are what the
        table's ``derive`` would say, which is asked otherwise.
        """
        ...

    def written(self, table: str) -> frozenset[bytes]:
        """Keys of the rows that this transaction has written or deleted so far."""
        ...

    def delete(self, table: str, key: bytes) -> None:
        """Delete a row (a tombstone in the changelog)."""
        ...

    def scan(
        self, name: str, start: bytes, stop: bytes, limit: int, *, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """At most ``limit`` entries of a table or an index with ``start <= key < stop``, in key order.

        Own writes are seen, those derived for the indexes included.  A forward scan that starts at the beginning of an
        index prefix remembers where the first live entry was, so that the next one does not wade through tombstones.
        """
        ...

    def destination(self, topic: str) -> Destination | None:
        """What is known of ``topic``; None where it is not known yet (the look-up is then asked for).  Never waits."""
        ...

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, partition: int | None = None
    ) -> None:
        """Stage a record; ``partition`` None means by key.

        Raises `TooLarge` where the record exceeds what the destination takes, and `Refused` where the brokers refused
        this very record in an earlier try.
        """
        ...

    def mark(self) -> int:
        """A point to roll back to."""
        ...

    def rollback(self, mark: int) -> None:
        """Forget every write, send and effect staged since ``mark``."""
        ...

    def shared(self, make: Callable[[], F]) -> F:
        """What the steps of this transaction share: made by the first that asks, finished when the last was taken.

        Roll-backs leave it alone.
        """
        ...

    def after_commit(self, effect: Callable[[], None]) -> None:
        """Call ``effect`` once the commit succeeded; never on abort."""
        ...
