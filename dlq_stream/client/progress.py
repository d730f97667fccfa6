"""What of a partition may be committed: the highest offset below which everything is finished.

Pure.  Offsets are begun in ascending order, with gaps (transaction markers, compacted records, skipped ones), and
finished in any order.
"""

from __future__ import annotations

from collections import deque


class Progress:
    """One assignment of one partition.  ``over``: the partition was taken away, what is still at work does not count.

    ``position``: where reading goes on, the offset after the last one that was looked at; None before the first.
    """

    __slots__ = ("_finished", "_open", "over", "position")

    def __init__(self) -> None:
        self.over = False
        self.position: int | None = None
        self._open: deque[int] = deque()  # from the first unfinished one on, finished ones among them
        self._finished: dict[int, int] = {}  # those of them, and their timestamps

    def begin(self, offset: int) -> None:
        """``offset``, higher than any before it, is to be handled."""
        self._open.append(offset)

    def finish(self, offset: int, timestamp: int = -1) -> None:
        """``offset``, whose record is of ``timestamp``, is finished; each that was begun is so once."""
        begun, finished = self._open, self._finished
        if begun[0] != offset:
            finished[offset] = timestamp
            return
        begun.popleft()
        while begun and begun[0] in finished:
            del finished[begun.popleft()]

    def committable(self) -> int | None:
        """The offset to commit (that of the next record to be handled after a crash); None where nothing is known."""
        return self._open[0] if self._open else self.position

    def ahead(self) -> dict[int, int]:
        """What is finished and not committable, and the records' timestamps."""
        return dict(self._finished)

    @property
    def unfinished(self) -> int:
        """How many were begun and are not finished."""
        return len(self._open) - len(self._finished)

    @property
    def span(self) -> int:
        """How many were begun since the oldest unfinished one, finished or not."""
        return len(self._open)
