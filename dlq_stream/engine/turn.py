"""What the steps of one transaction share: figures, observations, byte budgets, and the one way to change a status."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace

from dlq_stream.core.events import Happening
from dlq_stream.core.lifecycle import LIFECYCLE, Event, State
from dlq_stream.core.transaction import Transaction
from dlq_stream.engine.context import Engine
from dlq_stream.tables.messages import Message, state_of
from dlq_stream.tables.stats import StatsBook

PURGES_PER_BATCH_MAX = 200
"""Messages that one batch of commands deletes itself."""


_AFTER = {
    state: {event: (becomes.status, becomes is State.PRESUMED) for event, becomes in arrows.items()}
    for state, arrows in LIFECYCLE.items()
}
"""The lifecycle table in terms of rows: status, and whether it is presumed."""


class Turn:
    """One transaction's worth of work.

    ``dead_letters`` and ``purges`` bound what a batch of intake or commands writes and deletes beside its own rows, in
    however many steps it is staged.
    """

    __slots__ = ("book", "dead_letters", "engine", "now_ms", "purges", "purges_left", "seen", "tx")

    def __init__(self, tx: Transaction, engine: Engine) -> None:
        self.tx = tx
        self.engine = engine
        self.now_ms = tx.now_ms
        self.book = StatsBook(tx, engine.queues_max)
        self.seen: list[Happening] = []
        self.dead_letters = Budget(engine.dead_letter_bytes_max)
        self.purges = Budget(engine.purge_bytes_max)
        self.purges_left = PURGES_PER_BATCH_MAX

    @classmethod
    def of(cls, tx: Transaction, engine: Engine) -> Turn:
        """The turn that the steps of ``tx`` share; the transaction finishes it."""
        return tx.shared(partial(cls, tx, engine))

    def finish(self) -> None:
        """Write the figures and have the observations told after the commit; last, and once."""
        self.book.flush()
        if self.seen:
            self.tx.after_commit(partial(_tell, self.engine.observe, self.seen))


class Budget:
    """Bytes of records that may still be read and written; the first record fits whatever its size."""

    __slots__ = ("_left", "_spent")

    def __init__(self, bytes_max: int) -> None:
        self._left = bytes_max
        self._spent = False

    def affords(self, size: int) -> bool:
        """Whether another record of ``size`` bytes fits."""
        return size <= self._left or not self._spent

    def spend(self, size: int) -> None:
        """A record of ``size`` bytes it is."""
        self._left -= size
        self._spent = True


def advance(row: Message, event: Event, **changes: Any) -> Message:
    """The row after ``event``: status from the lifecycle table, next revision, no longer stuck, and ``changes``.

    Made from its predecessor, so that fields of a newer version travel along.  Raises KeyError for an event that the
    row's state does not list: ask `dlq_stream.core.lifecycle.next_state` where that may be.
    """
    status, presumed = _AFTER[state_of(row)][event]
    return replace(row, status=status, presumed=presumed, revision=row.revision + 1, stuck_reason="", **changes)


def _tell(observe: Callable[[Happening], None], seen: Sequence[Happening]) -> None:
    for happening in seen:
        observe(happening)
