"""What agents import to report failures.  Never imports Faust.

async with FailureReporter("localhost:9092", "heat-agents") as reporter:
    try:
        handle(record)
    except Exception as error:
        await reporter.report(record, error)
    else:
        await reporter.succeeded(record)
"""

from dlq_stream.client.delivery import Delivery
from dlq_stream.client.errors import NotStarted, UnusableRecord
from dlq_stream.client.reporter import FailureReporter

__all__ = ["Delivery", "FailureReporter", "NotStarted", "UnusableRecord"]
