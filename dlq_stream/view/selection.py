"""Which messages are meant, and in what order they are taken.  Pure: rows in, answers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from struct import Struct

from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.core.rule import short_name
from dlq_stream.tables.messages import Message

_TURN = Struct(">BQ")

OPEN = frozenset((DLQMessageStatus.PENDING, DLQMessageStatus.RETRYING))
"""Statuses whose `Message.due_ms` is when something happens to the message itself."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What all of these are true of; what is empty or None is true of every message.

    ``queues`` and ``error_types`` are `fnmatch` patterns in the letters' own case, one of which must fit; an error type
    fits as classification rules have it, dotted (``httpx.ReadTimeout``) or by its class alone.  ``older_than_ms`` is
    an age, counted from the first failure.
    """

    queues: tuple[str, ...] = ()
    statuses: frozenset[DLQMessageStatus] = frozenset()
    error_types: tuple[str, ...] = ()
    older_than_ms: int | None = None

    def __bool__(self) -> bool:
        """Whether anything is asked for at all."""
        return bool(self.queues or self.statuses or self.error_types or self.older_than_ms is not None)

    def fits(self, row: Message, now_ms: int) -> bool:
        """Whether the row is meant, at ``now_ms`` (epoch milliseconds)."""
        return (
            (not self.statuses or row.status in self.statuses)
            and (self.older_than_ms is None or row.created_ms <= now_ms - self.older_than_ms)
            and (not self.queues or _fits((row.queue,), self.queues))
            and (not self.error_types or _fits((row.error_type, short_name(row.error_type)), self.error_types))
        )


def turn_of(message_id: bytes, row: Message) -> bytes:
    """Sorts messages: open ones first, what is due next before the rest; then all others, the oldest first.

    An open message without a due time waits for an operator (it is stuck) and comes after those that have one.  Ends in
    the id: sorted turns say all there is to say of an order.
    """
    if row.status not in OPEN:
        rank, instant_ms = 2, row.created_ms
    elif row.due_ms is None:
        rank, instant_ms = 1, row.created_ms
    else:
        rank, instant_ms = 0, row.due_ms
    return _TURN.pack(rank, max(0, instant_ms)) + message_id


def id_of_turn(turn: bytes) -> bytes:
    """The id that a turn ends in."""
    return turn[_TURN.size :]


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)
