"""How a worker's process ends."""

from __future__ import annotations

import subprocess
import sys

END = """
import logging, sys, threading
logging.basicConfig(level=logging.INFO)
from dlq_stream.runtime import process
process.STOP_SECONDS_MAX = 0.2
worker = object.__new__(process.Worker)
process.FaustWorker._schedule_shutdown = lambda self, signal: None
worker._schedule_shutdown(15)
threading.Event().wait({wait})
print("on its own")
"""


def ended(wait: float) -> subprocess.CompletedProcess[str]:
    """A process that is told to stop and takes so long."""
    return subprocess.run([sys.executable, "-c", END.format(wait=wait)], capture_output=True, text=True, timeout=50)


def test_a_worker_that_cannot_stop_ends_nevertheless() -> None:
    """With code 0, since it was told to; and it says why."""
    process = ended(wait=60)
    assert (process.returncode, process.stdout) == (0, "")
    assert "told to stop 0.2 s ago" in process.stderr


def test_a_worker_that_stops_is_left_alone() -> None:
    """The deadline does not keep its process alive."""
    process = ended(wait=0)
    assert (process.returncode, process.stdout) == (0, "on its own\n")
    assert "told to stop" not in process.stderr
