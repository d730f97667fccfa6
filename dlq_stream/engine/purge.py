"""The end of a message: its row goes, with its attempts and its index entries, and is counted out.

Retention purges what was closed long enough ago, an operator what he names.  His orders come in batches as large as he
likes, about messages of any size, and a batch is one transaction: what is too much for it is left to retention, marked
so that it goes first (`PURGE_ORDERED_MS`).  To whatever command comes afterwards it is gone already.
"""

from __future__ import annotations

from typing import Literal

from msgspec.structs import replace

from dlq_stream.core.events import MessagePurged
from dlq_stream.core.lifecycle import Event
from dlq_stream.engine.turn import Turn
from dlq_stream.tables import attempts, messages
from dlq_stream.tables.messages import Message

PURGE_ORDERED_MS = 0
"""`Message.closed_ms` of what an operator purged and retention is to delete: before everything that was ever closed."""


def purge_or_leave(turn: Turn, message_id: bytes, row: Message) -> None:
    """Delete the message as an operator ordered, or leave it to retention."""
    if turn.purges_left and turn.purges.affords(row.record_bytes):
        keys, size = attempts.keys_and_bytes(turn.tx, message_id)
        purge(turn, message_id, row, keys, "operator")
        turn.purges_left -= 1
        turn.purges.spend(size)
    else:
        messages.change(turn.tx, message_id, row, replace(row, closed_ms=PURGE_ORDERED_MS))


def purge(
    turn: Turn, message_id: bytes, row: Message, attempt_keys: list[bytes], how: Literal["retention", "operator"]
) -> None:
    """Delete a message with these attempts, all that it has; its index entries go with the row."""
    for key in attempt_keys:
        attempts.delete(turn.tx, key)
    messages.delete(turn.tx, message_id)
    turn.book.changed(row, None, Event.PURGED)
    turn.seen.append(MessagePurged(message_id, row.queue, how))
