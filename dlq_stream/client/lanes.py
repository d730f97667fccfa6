"""Order per key: of records with the same key one is handled at a time, in the order in which they came.

Pure.  A lane exists while its key is being handled; who comes meanwhile waits in it.  Different keys do not wait for
each other, however many lanes there are, so that concurrency is bounded by whoever does the work and not here.

Records without a key have no order: Kafka's producers spread them over partitions, so there is none to keep.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class Lanes(Generic[ItemT]):
    """The lanes of one partition."""

    __slots__ = ("_lanes",)

    def __init__(self) -> None:
        # None: the key is being handled and nobody waits, which is most of them.
        self._lanes: dict[Hashable, deque[ItemT] | None] = {}

    def enter(self, key: Hashable | None, item: ItemT) -> bool:
        """Whether ``item`` may be handled at once; else `leave` will name it when it is its turn."""
        if key is None:
            return True
        lanes = self._lanes
        if key not in lanes:
            lanes[key] = None
            return True
        waiting = lanes[key]
        if waiting is None:
            lanes[key] = deque((item,))
        else:
            waiting.append(item)
        return False

    def leave(self, key: Hashable | None) -> ItemT | None:
        """The item of ``key`` that was being handled no longer is; returns the one that is now, if any.

        Raises KeyError where nothing of that key was being handled.
        """
        if key is None:
            return None
        waiting = self._lanes[key]
        if waiting:
            return waiting.popleft()
        del self._lanes[key]
        return None

    def forget_waiting(self) -> None:
        """Drop what waits; what is being handled still has its lane, so that it is not overtaken."""
        self._lanes = dict.fromkeys(self._lanes)

    def __len__(self) -> int:
        return len(self._lanes)
