"""Retention: what was closed long enough ago is deleted, in steps that never hold up a partition.

The index of closed messages says what is next, so nothing is ever searched.  What is open is not in it, and neither is
an escalated message that could not be written to its ``-dlq`` topic.  A step is bounded in messages and in bytes, since
the attempts of a message hold anything from a few hundred bytes to many megabytes.
"""

from __future__ import annotations

from dlq_stream.core.transaction import Transaction
from dlq_stream.engine.context import Engine
from dlq_stream.engine.purge import PURGE_ORDERED_MS, purge
from dlq_stream.engine.turn import Budget, Turn
from dlq_stream.tables import attempts, messages
from dlq_stream.tables.codec import UndecodableRow
from dlq_stream.tables.messages import Message


def retain(tx: Transaction, engine: Engine, *, steps_max: int) -> int | None:
    """Delete messages whose retention has passed, the longest closed first.

    At most ``steps_max`` of them, and ``engine.purge_bytes_max`` bytes of attempts; the first goes whatever its size.
    Returns when the next one's passes, which is not after ``tx.now_ms`` where there is more to do at once; None where
    nothing is closed.
    """
    turn = Turn(tx, engine)
    entries = messages.closed_first(tx, steps_max + 1)
    passed = [entry for entry in entries[:steps_max] if _passes_ms(entry[0], engine) <= tx.now_ms]
    stored = tx.get_many("messages", [message_id for _, message_id in passed])
    budget = Budget(engine.purge_bytes_max)
    chosen: list[tuple[bytes, Message, list[bytes]]] = []
    looked_at = 0
    for closed_ms, message_id in passed:
        row = _row(stored[message_id])
        if row is not None and row.closed_ms == closed_ms:
            if not budget.affords(row.record_bytes):
                break
            keys, size = attempts.keys_and_bytes(tx, message_id)
            budget.spend(size)
            chosen.append((message_id, row, keys))
        looked_at += 1
    for message_id, row, keys in chosen:  # after the last scan, which would have to merge what is deleted here
        purge(turn, message_id, row, keys, "operator" if row.closed_ms == PURGE_ORDERED_MS else "retention")
    turn.finish()
    left = entries[looked_at:]
    return _passes_ms(left[0][0], engine) if left else None


def _passes_ms(closed_ms: int, engine: Engine) -> int:
    """When the retention passes of what was closed then."""
    return closed_ms if closed_ms == PURGE_ORDERED_MS else closed_ms + engine.retention_ms


def _row(raw: bytes | None) -> Message | None:
    if raw is None:
        return None
    try:
        return messages.codec.decode(raw)
    except UndecodableRow:  # what can be read of it is enough to count it out
        return messages.salvage(raw)
