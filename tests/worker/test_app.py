"""The worker under Faust's own command: whose word on logging counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dlq_stream.logs import THEIRS

PROBE = """
import logging
from dlq_stream.worker import app
command = object.__new__(app.Command)
command.loglevel, command.logfile = {level!r}, {file!r}
command._setup_logging()
print(logging.getLevelName(logging.root.level), command.spinner)
print(min(logging.getLogger(name).level for name in {theirs!r}) >= logging.INFO)
logging.getLogger("dlq_stream").error("said")
"""


@pytest.mark.parametrize(
    ("ours", "theirs", "in_force"),
    [("error", "WARN", "ERROR"), ("error", None, "ERROR"), ("error", "debug", "DEBUG"), ("debug", "CRIT", "CRITICAL")],
)
def test_the_commands_level_beats_ours_unless_it_is_its_default(
    ours: str, theirs: str | None, in_force: str, tmp_path: Path
) -> None:
    """In our format, where that command says; at level debug aiokafka and Faust say no more than at info."""
    file = tmp_path / "worker.log"
    source = PROBE.format(level=theirs, file=str(file), theirs=THEIRS)
    environment = os.environ | {"DLQ_LOG_LEVEL": ours, "DLQ_LOG_FORMAT": "json", "DLQ_WEB_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=50, env=environment, cwd=tmp_path
    )
    assert done.stdout.splitlines() == [f"{in_force} None", "True"], done.stderr
    assert ('"message": "said"' in file.read_text()) == (in_force != "CRITICAL")
