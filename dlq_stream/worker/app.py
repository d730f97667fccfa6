"""The worker for ``faust -A dlq_stream.worker.app worker``; settings from environment and settings file."""

from dlq_stream.settings import load
from dlq_stream.worker.run import spare_the_collector
from dlq_stream.worker.stream import stream

app = stream(load())
spare_the_collector()
