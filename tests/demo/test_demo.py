"""The demo itself, end to end: real workers, one of them killed, and a good verdict."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.demo.test_broker import groups
from tests.kafka_clients import list_topics
from tests.kafka_fixture import LocalKafka

SECONDS, RATE = 15, 30
RUN_SECONDS_MAX = 150


@pytest.mark.timeout(RUN_SECONDS_MAX + 30)
async def test_the_demo_ends_well(kafka: LocalKafka) -> None:
    """On brokers that were given: a good verdict, in good time, and nothing left behind."""
    command = [sys.executable, "-m", "dlq_stream.cli", "demo", "--no-tty", "--brokers", kafka.bootstrap]
    command += ["--seconds", str(SECONDS), "--rate", str(RATE), "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS_MAX)
    assert done.returncode == 0, done.stderr + done.stdout
    (line,) = done.stdout.splitlines()
    summary = json.loads(line)
    assert summary["verdict"] == "good"
    assert summary["events"] == SECONDS * RATE
    assert summary["results"] + summary["dead_letters"] == SECONDS * RATE
    assert summary["emissions"] > 0
    assert summary["dead_letters"] > 0
    assert (summary["workers_killed"], summary["workers_restarted"]) == (1, 1)
    assert summary["drain_seconds"] < 30
    assert summary["left_behind"] == []
    assert "shortened" in done.stderr
    name = summary["app_id"].removesuffix("-app")
    assert not [topic for topic in await list_topics(kafka.bootstrap) if topic.startswith(name)]
    assert not [group for group in await groups(kafka) if group.startswith(name)]
