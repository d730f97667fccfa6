"""Counts of what handlers did, per queue, as the traffic reports that tell the system of it.

Rates need what succeeded as well as what failed, and only consumers know that.  Pure: whoever sends gives the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlq_stream.core.commands import Traffic

QUEUES_MAX = 64
"""So many queues are counted apart; the names of further ones, which headers bring, count as `OTHER`."""
OTHER = "other"


@dataclass(slots=True)
class Count:
    """``processed`` records of a queue, ``failed`` of them."""

    processed: int = 0
    failed: int = 0


class TrafficMeter:
    """What the consumers of ``group`` in this process did since ``from_ms`` (epoch milliseconds)."""

    def __init__(self, group: str, from_ms: int) -> None:
        self._group = group
        self._from_ms = from_ms
        self._counts: dict[str, Count] = {}

    def of(self, queue: str) -> Count:
        """The count of ``queue``, to be added to; it stays the same object."""
        count = self._counts.get(queue)
        if count is None:
            if len(self._counts) >= QUEUES_MAX and queue != OTHER:
                return self.of(OTHER)
            count = self._counts[queue] = Count()
        return count

    def take(self, now_ms: int) -> list[Traffic]:
        """A report for each queue with traffic since the last call; counting begins anew."""
        # A clock that was set back makes no interval that ends before it began.
        to_ms = max(now_ms, self._from_ms)
        reports = [
            Traffic(queue, self._group, count.processed, count.failed, self._from_ms, to_ms)
            for queue, count in self._counts.items()
            if count.processed
        ]
        for count in self._counts.values():
            count.processed = count.failed = 0
        self._from_ms = to_ms
        return reports

    def put_back(self, report: Traffic) -> None:
        """``report`` was not sent: it is part of the next one, which then goes back as far."""
        count = self.of(report.queue)
        count.processed += report.processed
        count.failed += report.failed
        self._from_ms = min(self._from_ms, report.from_ms)
