"""A Process Heat agent as people write them, with its failures handed over: the demo's example of using the SDK.

``python -m dlq_stream.demo.agent PLAN``.  It validates a reading, asks the sensor backend for the asset's calibration
and appends the corrected reading to ``heat-results``.  Whatever raises on the way is reported, and the agent goes on;
offsets are committed once every record of the batch is either a result or a report on the brokers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError

from dlq_stream.client import FailureReporter
from dlq_stream.client.delivery import delivery_of
from dlq_stream.demo.backend import SensorBackend
from dlq_stream.demo.events import validated
from dlq_stream.demo.plan import Plan
from dlq_stream.kafka import client_options, no_topic_creation, writer

RECORDS_AT_ONCE_MAX = 500
POLL_MS = 200

log = logging.getLogger("dlq_stream.demo.agent")


class HeatAgent:
    """What happens to one reading."""

    def __init__(self, plan: Plan, reporter: FailureReporter, results: Any) -> None:
        self._plan = plan
        self._reporter = reporter
        self._results = results
        self._backend = SensorBackend(plan)

    async def handle(self, record: Any) -> None:
        """Process a record; hand it over when that fails, report the outcome when it was a retry."""
        try:
            await self.process(record)
        except Exception as error:
            await self._reporter.report(record, error)
        else:
            await self._reporter.succeeded(record)

    async def process(self, record: Any) -> None:
        """The agent's actual work; it knows nothing of retries except for the number in its result."""
        body = validated(record.value)
        delivery = delivery_of(record, self._plan.group)
        attempt = delivery.attempt if delivery else 0
        offset = await self._backend.calibration(body["event_id"], attempt)
        readings = {name: round(value + offset, 3) for name, value in body["readings"].items()}
        result = {"event_id": body["event_id"], "asset_id": body["asset_id"], "readings": readings, "attempt": attempt}
        acknowledged = await self._results.send(self._plan.results, json.dumps(result).encode(), record.key)
        await acknowledged


async def consume(plan: Plan, stop: asyncio.Event) -> None:
    """Batches, side by side within a batch, committed when all of it is settled; until ``stop`` is set."""
    consumer = no_topic_creation(
        AIOKafkaConsumer(
            plan.source,
            **client_options(plan.connection),
            group_id=plan.group,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
    )
    async with (
        FailureReporter(plan.connection, plan.group, app_id=plan.app_id) as reporter,
        writer(plan.connection, linger_ms=5) as results,
    ):
        agent = HeatAgent(plan, reporter, results)
        await consumer.start()
        try:
            while not stop.is_set():
                batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_AT_ONCE_MAX)
                await asyncio.gather(*(agent.handle(record) for batch in batches.values() for record in batch))
                if batches:
                    await commit(consumer)
        finally:
            await consumer.stop()


async def commit(consumer: Any) -> None:
    """Commit what was handled; a rebalance in between means that it is handled again, which is allowed."""
    try:
        await consumer.commit()
    except CommitFailedError as error:
        log.warning("offsets not committed: %s", error)


async def main(plan: Plan) -> None:
    """Run until told to end."""
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    await consume(plan, stop)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(main(Plan.from_json(sys.argv[1])))
