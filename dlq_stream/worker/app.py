"""The worker for ``faust -A dlq_stream.worker.app worker``; settings from environment and settings file.

That command has exit codes of its own: 1 where ours has 2.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from faust.cli.base import DEFAULT_LOGLEVEL

from dlq_stream import logs
from dlq_stream.runtime.crash import EXIT_FAILED, refuse
from dlq_stream.runtime.process import Worker
from dlq_stream.settings import load, remarks
from dlq_stream.worker.allocator import bound_arenas
from dlq_stream.worker.collector import spare_the_collector
from dlq_stream.worker.run import free_port
from dlq_stream.worker.stream import stream


class Command(Worker):
    """The process of ``faust worker``, with our log."""

    def _setup_logging(self) -> None:
        """Removes: whole requests and events in the log at level debug, payloads included, and prints as log lines.

        ``--loglevel`` beats DLQ_LOG_LEVEL where it is not that command's default; ``--logfile`` is where the log goes.
        """
        given = str(self.loglevel or DEFAULT_LOGLEVEL).upper()
        level = settings.log_level if given == DEFAULT_LOGLEVEL else {"CRIT": "CRITICAL"}.get(given, given)
        file = Path(self.logfile).open("a") if self.logfile else None  # noqa: SIM115  # until the process ends
        logs.set_up(settings.log_format, level, file)
        self.spinner = None  # it is drawn into the log, and makes everybody log at level debug


bound_arenas()
settings = load()
logs.set_up(settings.log_format, settings.log_level)
for remark in remarks():
    logging.getLogger(__name__).warning(remark)
if settings.web_port == 0:  # which Faust does not know the meaning of
    settings = settings.model_copy(update={"web_port": free_port(0)})
app = stream(settings, refuse=partial(refuse, code=EXIT_FAILED), process=Command)
spare_the_collector()
