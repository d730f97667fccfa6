"""Failures of agents of an existing Faust app.

Stock Faust acknowledges an event whose agent raised, commits its offset and never shows it again.  `reported` makes an
agent of a function for one event, which may raise; each event is acknowledged by hand, and only after it was handled,
or after the brokers have acknowledged the report of its failure:

    import json

    import faust
    from dlq_stream import FailureReporter
    from dlq_stream.adapters.faust import reported

    app = faust.App("heat-agents", broker="kafka://localhost:9092")
    readings = app.topic("heat-processing", value_serializer="raw")
    reporter = FailureReporter("localhost:9092", group="heat-agents")     # the group of a Faust app is its id

    @app.agent(readings)
    @reported(reporter)
    async def handle(event):
        bake(json.loads(event.value))

* What the function returns, unless it is None, is what the agent yields: for sinks, and for who asks.
* Retries that are meant for another consumer group are acknowledged and not handled; those for this one are followed by
  a report of their outcome.
* While a report is not acknowledged, the agent waits, and its partitions with it, and says so in the log.  A rebalance
  waits for it, too, as Faust waits for every event; after ``broker_max_poll_interval`` Kafka gives the partitions to
  another worker, which reads the event again.
* The topic should be ``raw``.  What Faust's own deserializers cannot read never reaches an agent: Faust acknowledges
  it and throws the error into the agent.  Parsed in the function, it is a failure like any other.
* Faust hands over headers as a dict, which loses repeats.  Reports are made from the message as it came; a function
  that reports something itself gets that as ``record_of(event.message)``.
* Workers emit retries in transactions, whose markers stall the commits of stock Faust consumers: give such queues a
  retry topic (``emit_to``), and let the agent read both: ``app.topic("heat-processing", "heat-processing-retry")``.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

from dlq_stream.adapters.holding import Stopped, is_failure, until_acknowledged
from dlq_stream.client.current import handling
from dlq_stream.client.records import NO_TIMESTAMP, PlainRecord
from dlq_stream.client.reporter import FailureReporter
from dlq_stream.core.errors import ConfigurationError, DLQError

try:
    from faust import EventT, StreamT
except ImportError as missing:
    raise ImportError(
        "dlq_stream.adapters.faust needs Faust, which is not installed: pip install 'dlq-stream[faust]'"
    ) from missing

Handle: TypeAlias = Callable[[EventT], Awaitable[Any]]
"""What is decorated: it is given one event."""

Agent: TypeAlias = Callable[[StreamT], AsyncIterator[Any]]
"""What ``app.agent`` takes: it is given the stream."""


def reported(reporter: FailureReporter) -> Callable[[Handle], Agent]:
    """Make an agent function of a function for one event; see the module.

    The reporter is started by the agent and stopped with the app; its group must be the app's id.  Where it cannot be
    started (ConfigurationError, BrokersUnavailable), the worker ends with that error.
    """

    def decorate(handle: Handle) -> Agent:
        @functools.wraps(handle)
        async def agent(stream: StreamT) -> AsyncIterator[Any]:
            try:
                await _start(reporter, stream.app)
            except DLQError as error:
                await stream.app.crash(error)
                return
            by_hand = stream.noack()
            async for event in by_hand.events():
                try:
                    result = await _handled(event, handle, reporter)
                except Stopped:  # the worker ends; it would wait for this event to be acknowledged, for ever
                    stream.app.consumer.unacked.discard(event.message)
                    return
                if result is not None:
                    yield result
                await by_hand.ack(event)

        return agent

    return decorate


async def _start(reporter: FailureReporter, app: Any) -> None:
    if reporter.group != app.conf.id:
        raise ConfigurationError(
            f"group: {reporter.group!r} is not the consumer group of this Faust app, its id {app.conf.id!r}: retries "
            "would be meant for somebody else"
        )
    await reporter.start()
    app.on_before_shutdown.connect(_stopping(reporter))


@functools.lru_cache
def _stopping(reporter: FailureReporter) -> Callable[..., Awaitable[None]]:
    """What stops the reporter; the same for all agents, so that signals know it again."""

    async def stop(app: Any, **_: Any) -> None:
        await reporter.stop()

    return stop


async def _handled(event: EventT, handle: Handle, reporter: FailureReporter) -> Any:
    """What the function returned; None where it failed, which is reported then, or where the event is not for us."""
    record = record_of(event.message)
    delivery = reporter.delivery(record)
    if delivery is not None and delivery.for_another_group:
        return None
    stopping = event.app.wait_for_stopped
    with handling(record) as handled:
        try:
            result = await handle(event)
        except BaseException as error:
            if not is_failure(error):
                raise
            failure = error
        else:
            if delivery is not None and not handled.reported:
                await until_acknowledged(lambda: reporter.succeeded(record), stopping)
            return result
    await until_acknowledged(lambda: reporter.report(record, failure), stopping)
    return None


def record_of(message: Any) -> PlainRecord:
    """The record that a Faust message was read as; Faust gives timestamps in seconds."""
    timestamp = NO_TIMESTAMP if message.timestamp is None else round(message.timestamp * 1000)
    return PlainRecord(
        message.topic, message.partition, message.offset, timestamp, message.key, message.value, message.headers or ()
    )
