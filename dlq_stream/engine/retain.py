"""Retention: what was closed long enough ago is deleted, in steps that never hold up a partition.

The index of closed messages says what is next, so nothing is ever searched.  What is open is not in it, and neither is
an escalated message that could not be written to its ``-dlq`` topic.
"""

from __future__ import annotations

from dlq_stream.core.transaction import Transaction
from dlq_stream.engine.commands import purge
from dlq_stream.engine.context import Engine
from dlq_stream.engine.turn import Turn
from dlq_stream.tables import messages
from dlq_stream.tables.codec import UndecodableRow
from dlq_stream.tables.messages import Message


def retain(tx: Transaction, engine: Engine, *, steps_max: int) -> int | None:
    """Delete at most ``steps_max`` messages whose retention has passed, the longest closed first.

    Returns when the next one's passes, which is not after ``tx.now_ms`` where there is more to do at once; None where
    nothing is closed.
    """
    turn = Turn(tx, engine)
    entries = messages.closed_first(tx, steps_max + 1)
    passed = [entry for entry in entries[:steps_max] if entry[0] + engine.retention_ms <= tx.now_ms]
    stored = tx.get_many("messages", [message_id for _, message_id in passed])
    for closed_ms, message_id in passed:
        row = _row(stored[message_id])
        if row is not None and row.closed_ms == closed_ms:
            purge(turn, message_id, row, "retention")
    turn.finish()
    left = entries[len(passed) :]
    return left[0][0] + engine.retention_ms if left else None


def _row(raw: bytes | None) -> Message | None:
    if raw is None:
        return None
    try:
        return messages.codec.decode(raw)
    except UndecodableRow:  # what can be read of it is enough to count it out
        return messages.salvage(raw)
