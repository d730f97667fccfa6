"""What agents import.  Never imports Faust.

`RetryConsumer` is what most want: it reads, has records handled, and hands over what fails.

consumer = RetryConsumer("heat-processing", group="heat-agents", handler=handle, brokers="localhost:9092")
await consumer.run()

`FailureReporter` is for those with a consumer loop of their own.

async with FailureReporter("localhost:9092", "heat-agents") as reporter:
    try:
        handle(record)
    except Exception as error:
        await reporter.report(record, error)
    else:
        await reporter.succeeded(record)

`SyncFailureReporter` is the same for code without asyncio.  `dlq_stream.adapters` fits them into Faust, FastStream and
confluent-kafka.
"""

from dlq_stream.client.consumer import RetryConsumer
from dlq_stream.client.delivery import Delivery
from dlq_stream.client.errors import NotStarted, Permanent, RetryAfter, UnusableRecord
from dlq_stream.client.records import PlainRecord
from dlq_stream.client.reporter import FailureReporter
from dlq_stream.client.sync_reporter import SyncFailureReporter

__all__ = [
    "Delivery",
    "FailureReporter",
    "NotStarted",
    "Permanent",
    "PlainRecord",
    "RetryAfter",
    "RetryConsumer",
    "SyncFailureReporter",
    "UnusableRecord",
]
