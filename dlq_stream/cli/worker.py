"""``dlq-stream worker``: a stream worker, until SIGTERM or SIGINT."""

from __future__ import annotations

import logging
import signal
from types import FrameType
from typing import Any, NoReturn

import click

from dlq_stream.cli.options import settings_options
from dlq_stream.cli.run import need_extras, run
from dlq_stream.settings import Settings
from dlq_stream.settings.groups import GROUPS

log = logging.getLogger(__name__)


@click.command("worker")
@settings_options(*GROUPS)
def command(**options: Any) -> None:
    """Run a stream worker until it is told to stop.

    SIGTERM or SIGINT end it cleanly, with code 0. Anything unexpected ends it with code 70: let a supervisor restart
    it. Workers of one app id share the partitions; start as many as are needed, at most one per partition.
    """
    need_extras("worker", "worker")
    run(options, _work)


def _work(settings: Settings) -> int:
    """Run the worker; a signal before it has handlers of its own (brokers are waited for) is a clean end, too."""
    early = _Signals()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, early)
    try:
        from dlq_stream.worker.run import main

        return main(settings, early.check)
    except KeyboardInterrupt:
        log.info("told to stop before this worker had joined")
        return 0


class _Signals:
    """Interrupts whatever runs, and remembers it: Python drops what is raised while it runs a finalizer."""

    def __init__(self) -> None:
        self._came = False

    def __call__(self, number: int, frame: FrameType | None) -> NoReturn:
        self._came = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come."""
        if self._came:
            raise KeyboardInterrupt
