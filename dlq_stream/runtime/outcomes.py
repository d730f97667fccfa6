"""What a turn of a partition is made of, and what it can come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol, TypeAlias, TypeVar

from dlq_stream.core.model import Record
from dlq_stream.core.transaction import Transaction
from dlq_stream.runtime.ports import Batch, Refusal, Run
from dlq_stream.runtime.transaction import StagedTransaction

T = TypeVar("T")

Fatal: TypeAlias = Callable[[str, BaseException], NoReturn]
"""Ends the process, given where and why; see `dlq_stream.runtime.crash`."""


class Watcher(Protocol):
    """Told after a commit, with its index entries at hand; timers are."""

    def committed(self, tx: StagedTransaction) -> None:
        """Look at what was committed; must not raise."""
        ...


@dataclass(frozen=True, slots=True)
class Identification:
    """Which partition this is, of how many, and under which generation of the group it was assigned."""

    number: int
    partitions: int
    generation: int
    app_id: str


class NotOurs:
    """What a turn returns when nothing was done: the partition is not ours any more, or everything was known."""


NOT_OURS: Final = NotOurs()


@dataclass(frozen=True, slots=True)
class Missed:
    """Records between ``position`` and the run that was delivered never arrived: read on from there."""

    topic: str
    partition: int
    position: int


@dataclass(frozen=True, slots=True)
class Share:
    """Input that a tick takes along in its transaction; ``over`` is called when that has ended, however it did."""

    topic: str
    run: Run
    apply: Callable[[Transaction, Sequence[Record]], object]
    over: Callable[[], None]


class Input(Protocol):
    """Input that waits for a turn; feeds are."""

    def share(self, expected: Mapping[str, int]) -> Share | None:
        """Let go of what waits, if it is little, for a tick that is about to be staged; None where there is nothing.

        ``expected`` are the positions by topic that the next run has to begin with.
        """
        ...


Work: TypeAlias = tuple[Sequence[Callable[[Transaction], T]], Mapping[str, int]]
"""What a turn stages, step by step, and the positions by source topic that become consumed with it."""


class Rejected(Exception):
    """The transaction is void because of these refusals of these batches."""

    def __init__(self, refusals: Sequence[Refusal], batches: Sequence[Batch]) -> None:
        super().__init__(refusals)
        self.refusals = refusals
        self.records = {(batch.topic, batch.partition): batch.records for batch in batches}
