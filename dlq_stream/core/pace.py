"""How a queue's retries keep to ``emit_per_second_max``, in one partition.

Partitions know nothing of each other, so each gets its share: the limit divided by the number of partitions.  Messages
are spread over partitions by their ids, so a herd meets the limit nearly; a queue of few messages, which sit in few
partitions, gets less.

The share is kept by a token bucket, written as one instant (the generic cell rate algorithm, ITU-T I.371): ``next_us``
is when the next retry would go if all went evenly, and one may go `AHEAD_US` before that.  So in any second no more go
than the limit, a quarter of it again, and one per partition.  A whole second's burst would double what was promised in
a herd's first second; without any, a tick that comes a little late would cost throughput.  However small the limit,
one retry per interval goes.

What is due and may not go yet is given a *slot*, an instant of its own, as its new due time; the due index holds it
back until then.  So a herd is looked at once, not at every tick, holds up no other queue, and stays spread whatever
restarts: slots are rows, and this value is stored with the queue's figures in the same transaction.

* First come, first served: whoever falls due while others have slots ahead goes behind the last of them (``ends_us``).
* Who has a slot and is refused at it (the worker stood still, or the limit was lowered), or is to go before it by an
  operator's order, gets one right behind those whom that befell before (``again_us``), not behind the whole herd.  They
  share the rate with those whose slots come meanwhile, so order is no longer exact then, and each emission costs about
  one more write.
* Both ends are held to what can be there: no more can wait than messages are pending; one that is twice as far off
  counts no more.  So when a herd is resolved or purged by an operator, or a limit that was a mistake is mended, the
  next retries do not queue behind nothing.

A limit that is raised or lifted leaves slots as they are, like any due time that is set; an order to retry now gives
new ones.  What is not a slot goes by the new limit at once: `Pace.next_us` is held to what that could have made it, so
that one retry at a thousandth per second does not hold up the queue for hours after somebody saw the mistake, nor does
the next owner of the partition wait for an hour that its predecessor's clock was ahead.
"""

from __future__ import annotations

from typing import NamedTuple

AHEAD_US = 250_000
"""So much earlier than evenly a retry may go: the burst that is allowed, and how late a tick may be at no cost."""

SLOT_MS_MAX = 2**53
"""A slot is never later than this, whatever the limit and the herd."""


class Pace(NamedTuple):
    """Where a queue stands in one partition; instants in epoch microseconds, 0 before anything was limited."""

    next_us: int = 0
    ends_us: int = 0
    again_us: int = 0


class Pacer:
    """A queue's pace during one tick, at ``now_ms``; `pace` is what has to be kept.

    ``per_second_max``: of the whole queue; ``pending``: how many of its messages wait in this partition, of which at
    least those that are asked about.  ``shared``: by queues whose limits differ, so what ``next_us`` is may be another
    one's doing, and is left as it is.
    """

    __slots__ = ("_bound_us", "_interval_us", "_now_us", "pace")

    def __init__(
        self, pace: Pace, per_second_max: float, partitions: int, now_ms: int, pending: int, *, shared: bool = False
    ) -> None:
        self._now_us = now_ms * 1_000
        self._interval_us = max(1, round(1_000_000 * partitions / per_second_max))
        if not shared:
            pace = pace._replace(next_us=min(pace.next_us, self._now_us + AHEAD_US + self._interval_us))
        self._bound_us = max(pace.next_us, self._now_us) + max(0, pending - 1) * self._interval_us
        ends = [0 if self._is_stale(end_us) else end_us for end_us in (pace.ends_us, pace.again_us)]
        self.pace = Pace(pace.next_us, *ends)

    def _is_stale(self, end_us: int) -> bool:
        """Whether an end is of another time, when the limit was lower or far more were waiting.

        Twice what can be there: whoever goes before the slots of others costs them a write, so that must not be often.
        """
        return end_us - self._now_us > 2 * (self._bound_us - self._now_us) + self._interval_us

    def slot_ms(self, *, again: bool, had_ms: int = 0) -> int | None:
        """When the next retry that is due may go: None for now, which it then does; else its slot.

        ``again``: it was given a slot before, which has come, or which it need not wait for.
        ``had_ms``: that slot; where it still lies ahead, it gets none that is later.
        """
        pace, now = self.pace, self._now_us
        ends = min(pace.ends_us, self._bound_us)
        if pace.next_us - AHEAD_US <= now and (again or ends <= now):
            self.pace = pace._replace(next_us=max(pace.next_us, now) + self._interval_us)
            return None
        first = min(pace.again_us, self._bound_us) if again else ends
        slot_us = max(first, pace.next_us, now + 1_000)
        if self._now_us < had_ms * 1_000 <= slot_us:
            return had_ms
        behind = min(slot_us + self._interval_us, SLOT_MS_MAX * 1_000)
        self.pace = pace._replace(ends_us=max(ends, behind), again_us=behind if again else pace.again_us)
        return min(-(-slot_us // 1_000), SLOT_MS_MAX)  # rounded up: never early
