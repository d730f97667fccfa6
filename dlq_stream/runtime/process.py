"""Faust's worker process, which ends in time when it is told to.

An orderly end takes about two seconds: turns are finished, producers ended, stores closed, the group left.  Brokers
that do not answer would draw it out to a minute and more, time-out after time-out, and supervisors kill before that.
It may as well end at any instant: nothing that was not committed counts, and the next start goes on from there.
"""

from __future__ import annotations

import threading
from typing import Any

from faust.worker import Worker as FaustWorker

from dlq_stream.runtime.crash import give_up, told_to_stop

STOP_SECONDS_MAX = 9.0
"""From a signal to the end of the process; supervisors are told that ten seconds are enough."""


class Worker(FaustWorker):
    """Faust's worker with a deadline."""

    def _schedule_shutdown(self, signal: Any) -> None:
        """Removes: an end that waits for brokers as long as it takes."""
        told_to_stop()
        deadline = threading.Timer(STOP_SECONDS_MAX, give_up, (STOP_SECONDS_MAX,))
        deadline.daemon = True
        deadline.start()
        super()._schedule_shutdown(signal)
