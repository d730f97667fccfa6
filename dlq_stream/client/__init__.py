"""What agents import to report failures.  Never imports Faust.

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
    "SyncFailureReporter",
    "UnusableRecord",
]
