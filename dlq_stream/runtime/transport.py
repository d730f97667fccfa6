"""Faust's Kafka driver, with our consumer, and producers that do not create topics.

Everything Faust would write itself (declared topics, table changelogs, commits) is written by the runtime; Faust's own
producer is started, because it insists, and never used.
"""

from __future__ import annotations

from typing import Any

from faust.transport.drivers import aiokafka as driver

from dlq_stream.kafka import no_topic_creation
from dlq_stream.runtime.consumer import Consumer


class Producer(driver.Producer):
    """Faust's plain producer."""

    def _new_producer(self, transactional_id: str | None = None) -> Any:
        """Removes: metadata requests of stock producers bring a deleted topic back (aiokafka asks for creation)."""
        return no_topic_creation(super()._new_producer(transactional_id=transactional_id))


class Transport(driver.Transport):
    """The driver with our consumer and producer."""

    Consumer = Consumer
    Producer = Producer
