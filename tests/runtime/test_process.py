"""How a worker's process ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

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


CRASH = """
import logging
logging.basicConfig(level=logging.INFO)
from dlq_stream.runtime import process
from dlq_stream.runtime.crash import crash
from dlq_stream.runtime.ports import OutcomeUnknown
if {told}:
    worker = object.__new__(process.Worker)
    process.FaustWorker._schedule_shutdown = lambda self, signal: None
    worker._schedule_shutdown(15)
crash("turn of partition 3", {error}("commit of producer p3"))
"""


@pytest.mark.parametrize(
    ("told", "error", "code"),
    [
        (False, "OutcomeUnknown", 70),
        (True, "OutcomeUnknown", 0),
        (True, "RuntimeError", 70),
    ],
)
def test_a_commit_whose_outcome_is_unknown_is_no_crash_of_a_worker_that_is_told_to_stop(
    told: bool, error: str, code: int
) -> None:
    """The next start finds out what became of it, as it would after a crash; anything else is a crash all the same."""
    source = CRASH.format(told=told, error=error)
    process = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=50)
    assert process.returncode == code
    assert "turn of partition 3" in process.stderr
    assert ("the next start finds out" in process.stderr) == (code == 0)
    assert ("ends with code 70" in process.stderr) == (code == 70)
