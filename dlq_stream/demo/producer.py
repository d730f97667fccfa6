"""The plant's gateway: writes the seeded readings to the source topic at a steady rate, then ends.

``python -m dlq_stream.demo.producer PLAN``.  SIGTERM ends it early, after what was sent has been acknowledged.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable
from typing import Any

from dlq_stream.demo.events import event
from dlq_stream.demo.plan import Plan
from dlq_stream.kafka import writer

TICK_SECONDS = 0.02
UNACKNOWLEDGED_MAX = 5_000
"""Readings on their way; beyond that the gateway waits for the brokers, and is late."""


async def produce(plan: Plan, stop: asyncio.Event) -> int:
    """Write what is due at each tick until all is written or ``stop`` is set; returns the number of events."""
    async with writer(plan.connection, linger_ms=5) as kafka:
        sent: deque[Awaitable[Any]] = deque()
        number = 0
        while number < plan.events_planned and not stop.is_set():
            due = int((time.time() - plan.start_ms / 1000) * plan.rate) + 1
            while number < min(due, plan.events_planned):
                reading = event(plan.seed, number)
                headers = list(reading.headers)
                sent.append(await kafka.send(plan.source, reading.value, reading.key, headers=headers))
                number += 1
                if len(sent) > UNACKNOWLEDGED_MAX:
                    await sent.popleft()
            await asyncio.sleep(TICK_SECONDS)
        for acknowledgement in sent:
            await acknowledgement
        return number


async def main(plan: Plan) -> None:
    """Run until done or told to end."""
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    print(f"{await produce(plan, stop)} readings written to {plan.source}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(Plan.from_json(sys.argv[1])))
