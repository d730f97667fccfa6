"""The worker for ``faust -A dlq_stream.worker.app worker``; settings from environment and settings file."""

from dlq_stream.settings import load
from dlq_stream.worker.run import free_port, spare_the_collector
from dlq_stream.worker.stream import stream

settings = load()
if settings.web_port == 0:  # which Faust does not know the meaning of
    settings = settings.model_copy(update={"web_port": free_port(0)})
app = stream(settings)
spare_the_collector()
