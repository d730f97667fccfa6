"""The loop around a confluent-kafka consumer: handles, reports what raises, and commits what is settled.

    import json

    from confluent_kafka import Consumer
    from dlq_stream import SyncFailureReporter
    from dlq_stream.adapters.confluent import consumer_config, run

    def handle(message):
        bake(json.loads(message.value()))

    consumer = Consumer(
        consumer_config(
            {"bootstrap.servers": "localhost:9092", "group.id": "heat-agents", "auto.offset.reset": "earliest"}
        )
    )
    consumer.subscribe(["heat-processing"])
    with SyncFailureReporter("localhost:9092", group="heat-agents") as reporter:
        run(consumer, handle, reporter)

Who has a loop of his own calls `handle_batch` in it, and commits when it returns.

* Offsets are committed by batch, and only after the brokers have acknowledged every failure and every outcome of it.
* Retries that are meant for another consumer group are not handled; those for this one are followed by a report of
  their outcome.
* While a report is not acknowledged, the loop waits and says so in the log.  After ``max.poll.interval.ms`` Kafka gives
  the partitions to somebody else, who reads the batch again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, TypeAlias

from dlq_stream.adapters.holding import complain, waits
from dlq_stream.client.current import handling
from dlq_stream.client.errors import NotStarted, UnusableRecord
from dlq_stream.client.sync_reporter import SyncFailureReporter
from dlq_stream.core.errors import ConfigurationError

try:
    from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
except ImportError as missing:
    raise ImportError(
        "dlq_stream.adapters.confluent needs confluent-kafka, which is not installed: "
        "pip install 'dlq-stream[confluent]'"
    ) from missing

log = logging.getLogger(__name__)

Handle: TypeAlias = Callable[[Message], object]
"""Returns to succeed, raises to fail."""

Attempt: TypeAlias = Callable[[], "Future[Any]"]

_ENDS_THE_LOOP = frozenset(
    (
        KafkaError._AUTHENTICATION,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    )
)
"""What librdkafka reports and only a person can cure; it cures the rest itself."""


def consumer_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with what the loop needs: no automatic commits, and committed records only.

    Raises ConfigurationError where it says otherwise.
    """
    needed: dict[str, Any] = {"enable.auto.commit": False, "isolation.level": "read_committed"}
    for name, value in needed.items():
        if name in config and str(config[name]).lower() != str(value).lower():
            raise ConfigurationError(
                f"{name}: {config[name]!r} would lose records or read what was never written; leave it out, or say "
                f"{value!r}"
            )
    return {**config, **needed}


def run(
    consumer: Consumer,
    handle: Handle,
    reporter: SyncFailureReporter,
    *,
    batch_records_max: int = 500,
    poll_seconds: float = 0.1,
    stop: threading.Event | None = None,
) -> None:
    """Consume batch by batch, each in order, until ``stop`` is set; then the consumer is closed.

    * ``batch_records_max``: so many records are handled between two commits.
    * ``poll_seconds``: how long to wait for a batch to fill; also how fast ``stop`` is noticed.

    Raises KafkaException for what is wrong with the consumer, whatever is not an `Exception` from the handler
    (KeyboardInterrupt, SystemExit), and, when it is stopped while a report is not acknowledged, the report's error.
    Nothing of the batch is committed then.
    """
    stop = stop or threading.Event()
    try:
        while not stop.is_set():
            messages = consumer.consume(batch_records_max, poll_seconds)
            if messages:
                handle_batch(messages, handle, reporter, stop=stop)
                _commit(consumer, messages)
    finally:
        consumer.close()


def handle_batch(
    messages: Iterable[Message],
    handle: Handle,
    reporter: SyncFailureReporter,
    *,
    stop: threading.Event | None = None,
) -> None:
    """Handle the messages in order; returns when the brokers know what became of each: their offsets may be committed.

    Events of the consumer among them (``message.error()``) are logged, or raised as KafkaException where only a person
    can help.  ``stop`` ends the wait for an acknowledgement, with the error of the last try.  UnusableRecord (from a
    consumer with deserializers) and NotStarted are raised at once: waiting would not cure them.
    """
    waiting: list[tuple[Attempt, Future[Any]]] = []
    for message in messages:
        if (error := message.error()) is not None:
            _look_at(error)
        elif (attempt := _handled(message, handle, reporter)) is not None:
            waiting.append((attempt, _begun(attempt)))
    for attempt, future in waiting:
        _until_acknowledged(attempt, future, stop or threading.Event())


def _handled(message: Message, handle: Handle, reporter: SyncFailureReporter) -> Attempt | None:
    """Handle it; what there is to report of it, as something that can be tried again."""
    delivery = reporter.delivery(message)
    if delivery is not None and delivery.for_another_group:
        return None
    with handling(message) as handled:
        try:
            handle(message)
        except Exception as error:
            failure = error
        else:
            return None if delivery is None or handled.reported else lambda: reporter.submit_succeeded(message)
    return lambda: reporter.submit(message, failure)


def _until_acknowledged(attempt: Attempt, future: Future[Any], stop: threading.Event) -> None:
    for wait_seconds in waits():
        try:
            future.result()
            return
        except Exception as error:
            if stop.is_set():
                raise
            complain(error, wait_seconds)
        stop.wait(wait_seconds)
        future = _begun(attempt)


def _begun(attempt: Attempt) -> Future[Any]:
    try:
        return attempt()
    except (NotStarted, UnusableRecord):
        raise
    except Exception as error:  # too large, most likely; to be complained about like what the brokers say
        refused: Future[Any] = Future()
        refused.set_exception(error)
        return refused


def _look_at(error: KafkaError) -> None:
    if error.code() == KafkaError._PARTITION_EOF:
        return
    if error.fatal() or error.code() in _ENDS_THE_LOOP:
        raise KafkaException(error)
    log.warning("the consumer says: %s", error)


def _commit(consumer: Consumer, messages: Iterable[Message]) -> None:
    """Commit the places behind the batch; those of the consumer itself may be further, or set by somebody else."""
    behind: dict[tuple[str, int], int] = {}
    for message in messages:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if message.error() is None and topic is not None and partition is not None and offset is not None:
            behind[topic, partition] = offset + 1
    if not behind:
        return
    places = [TopicPartition(topic, partition, offset) for (topic, partition), offset in behind.items()]
    try:
        consumer.commit(offsets=places, asynchronous=False)
    except KafkaException as problem:  # the next commit makes up for it, or the partition has moved and is read again
        _look_at(problem.args[0])
