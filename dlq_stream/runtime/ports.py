"""What a partition needs of the world: a producer, a store, a changelog, a clock, and what is known of destinations.

These are the seams between the partition's algorithm and the machinery.  The real ones are in `producer`, `rocks`,
`changelog` and `destinations`; the simulation has its own, but for the changelog, which it gives another consumer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dlq_stream.core.model import Headers, Record, size_of
from dlq_stream.core.transaction import Destination

OutRecord = tuple[bytes | None, bytes | None, Headers]
"""Key, value and headers of a record to be written."""


@dataclass(frozen=True, slots=True)
class Run:
    """Records of one source partition, and the positions before the first and after the last of them.

    Positions are the consumer's own, so that gaps in the offsets (transaction markers, compaction) are part of a run
    and runs that follow each other touch: ``start`` of the next is ``stop`` of this one, unless something was lost.
    """

    start: int
    stop: int
    records: Sequence[Record]
    size: int = -1
    """At most so many bytes its records take; counted where it is not given."""

    def __post_init__(self) -> None:
        if self.size < 0:
            object.__setattr__(self, "size", sum(map(size_of, self.records)))


class Fenced(Exception):
    """Another owner of this partition has started its producer; what was being written is void."""


class Unavailable(Exception):
    """No answer in time before the commit was asked for: nothing was committed, try again.

    ``silent`` are topics that did not answer while everything else did.
    """

    def __init__(self, message: str, silent: Collection[str] = ()) -> None:
        super().__init__(message)
        self.silent = frozenset(silent)


class OutcomeUnknown(Exception):
    """No answer to a commit in time: it may have happened.  Only a new start (which fences and reads) can tell."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Records for one partition of one topic.

    ``batch_bytes_max`` bounds one record batch on the wire, since that is what ``max.message.bytes`` bounds;
    ``one_by_one`` narrows a refusal down, so that it names single records.
    """

    topic: str
    partition: int
    records: Sequence[OutRecord]
    batch_bytes_max: int
    compress: bool = False
    one_by_one: bool = False


TOO_LARGE = "too-large"
"""`Refusal.reason` where records exceed what the destination takes."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The brokers did not take a batch and never will.

    ``records`` are the positions in the batch's records that are meant; empty means the whole destination.
    """

    topic: str
    partition: int
    reason: str
    records: tuple[int, ...] = ()


@dataclass(slots=True)
class Written:
    """What became of a transaction's records: the last offset per batch, in order, and the refusals."""

    last_offsets: list[int] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Latest:
    """What changelogs tell of the latest transaction of their partition, without knowing how it was decided.

    ``outputs`` are the topics and partitions that it may have written to, changelogs among them; ``hangs`` says that
    some of it is neither committed nor aborted, ``applied`` that the store holds it, so that it was committed.
    """

    outputs: frozenset[tuple[str, int]] = frozenset()
    hangs: bool = False
    applied: bool = False


class Producer(Protocol):
    """A transactional producer with an id of its own for the partition."""

    @property
    def in_doubt(self) -> bool:
        """Whether the brokers may have forgotten to end what was committed last; `start` and `settle` end that.

        Nothing is to be begun then: it would end that as well, and maybe otherwise than it was decided.
        """
        ...

    def when_in_doubt(self, told: Callable[[], None]) -> None:
        """Have ``told`` called whenever `in_doubt` becomes true."""
        ...

    async def start(self) -> None:
        """Fence former owners and end what they (or an earlier life of this object) left open.

        May be called again at any time.  Raises `Unavailable`.
        """
        ...

    async def settle(self, latest: Latest) -> None:
        """End the latest transaction before `start` once more, as it was decided, wherever it has not been ended.

        Does nothing where its decision is not known any more and nothing hangs.  To be called right after `start`; may
        be called again.  Raises `Fenced`, `Unavailable`.
        """
        ...

    async def write(self, batches: Sequence[Batch], offsets: Mapping[str, int]) -> Written:
        """Begin a transaction, write the batches and the next input offset by topic, and await every answer.

        Raises `Fenced`, `Unavailable`.
        """
        ...

    async def commit(self) -> None:
        """Commit the transaction.  Raises `Fenced`, `OutcomeUnknown`."""
        ...

    async def stop(self) -> None:
        """End the producer.  Raises nothing."""
        ...


class Store(Protocol):
    """Committed state of one partition: an ordered map of bytes, written in atomic batches."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values in the order of the keys."""
        ...

    def scan(self, start: bytes, stop: bytes, limit: int, *, reverse: bool = False) -> list[tuple[bytes, bytes]]:
        """At most ``limit`` entries with ``start <= key < stop``."""
        ...

    def write(self, changes: Mapping[bytes, bytes | None], offsets: Mapping[str, int], now_ms: int) -> None:
        """Apply changes (None deletes) and the changelog offsets by table in one atomic write."""
        ...

    def close(self) -> None:
        """Release it."""
        ...


class Changelog(Protocol):
    """The changelogs of one partition."""

    async def catch_up(self) -> int:
        """Apply to the store what is committed beyond its stored offsets; returns how many rows that were.

        Raises `Unavailable`.
        """
        ...

    async def latest(self) -> Latest:
        """What there is to tell of the latest transaction.  Raises `Unavailable`."""
        ...


class Clock(Protocol):
    """Wall-clock time."""

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        ...


class Destinations(Protocol):
    """What is known of the topics that records may be sent to; filled elsewhere, see `Transaction.destination`."""

    def known(self, topic: str) -> Destination | None:
        """What is known now; asks for a look-up where nothing is."""
        ...

    def refuse(self, topic: str, reason: str) -> None:
        """Remember that the brokers refused to write to ``topic``."""
        ...

    async def look_up(self, topics: Collection[str]) -> None:
        """Ask the brokers afresh about these topics and wait for the answer."""
        ...
