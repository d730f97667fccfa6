"""A sensor backend that an agent depends on, as bad as they are: an outage in the middle, a time-out now and then.

Who times out is a function of the seed, the event and the attempt, and nobody does more than `TIMEOUTS_PER_EVENT_MAX`
times, so that only the outage and the schema decide how far a message gets: a message that can succeed never runs out
of retries, however the dice fall.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from random import Random

from dlq_stream.demo.plan import Plan

TIMEOUT_CHANCE = 0.04
TIMEOUTS_PER_EVENT_MAX = 2
LATENCY_SECONDS = 0.002


class BackendDown(ConnectionRefusedError):
    """Nobody listens."""


class SensorBackend:
    """Answers with an asset's calibration offset, or does not."""

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.time) -> None:
        begin, end = plan.outage
        self._outage_from, self._outage_until = plan.start_ms / 1000 + begin, plan.start_ms / 1000 + end
        self._seed = plan.seed
        self._clock = clock

    async def calibration(self, event_id: str, attempt: int) -> float:
        """The offset to apply.  Raises BackendDown in the outage and TimeoutError sometimes."""
        await asyncio.sleep(LATENCY_SECONDS)
        if self._outage_from <= self._clock() < self._outage_until:
            raise BackendDown("sensor backend: connection refused")
        dice = Random(f"{self._seed}/{event_id}/{attempt}")
        if attempt < TIMEOUTS_PER_EVENT_MAX and dice.random() < TIMEOUT_CHANCE:
            raise TimeoutError("sensor backend: no answer within 2.0 s")
        return round(dice.uniform(-0.5, 0.5), 3)
