"""Keeping queues to ``emit_per_second_max``: which retry that is due may go, and when the others may.

What goes by the limit is every emission, whoever caused it: also of messages that an operator retries or redrives.
The limit protects those who read the retries, and they do not care why one comes; whoever wants more of them raises it.
What an operator orders to be retried now does not wait for the slot that it had, nor behind those that have one; it
keeps that one where the next that is free would be later.

Being given a slot is no transition: the message is PENDING before and after, and its revision stays, so that an
operator's command about a message that he saw before still holds.  The slot is its due time then, as it is for a
redriven message: ``dlq-due-at`` and lateness go by it, for the delay is meant.

Queues beyond ``queues_max``, which are booked together, keep to their limits together.
"""

from __future__ import annotations

from dlq_stream.core.pace import Pacer
from dlq_stream.core.policy import RetryPolicy
from dlq_stream.engine.turn import Turn
from dlq_stream.tables.messages import OTHER_QUEUE, Message


class Pacing:
    """The paces of one tick; `save` keeps them with the figures of their queues."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._pacers: dict[str, tuple[float, Pacer]] = {}

    def slot_ms(self, row: Message, policy: RetryPolicy) -> int | None:
        """The slot of a PENDING row that is due; None where it may go now, which is counted."""
        limit = policy.emit_per_second_max
        if limit is None:
            return None
        # A slot that lies beyond the due time is one that an operator's order does not wait for.
        had_ms, due_ms = row.slot_ms, row.due_ms
        if had_ms is None or due_ms is None or had_ms < due_ms:
            return self._pacer(row.booked, limit).slot_ms(again=False)
        return self._pacer(row.booked, limit).slot_ms(again=True, had_ms=had_ms)

    def _pacer(self, booked: str, limit: float) -> Pacer:
        known = self._pacers.get(booked)
        if known is not None and known[0] == limit:
            return known[1]
        stored = self._turn.book.stored(booked)
        pace = stored.pace if known is None else known[1].pace
        tx = self._turn.tx
        shared = booked == OTHER_QUEUE
        pacer = Pacer(pace, limit, tx.partitions, self._turn.now_ms, stored.pending, shared=shared)
        self._pacers[booked] = limit, pacer
        return pacer

    def save(self) -> None:
        """Hand the paces over, before the turn is finished."""
        for booked, (_, pacer) in self._pacers.items():
            self._turn.book.paced(booked, pacer.pace)
