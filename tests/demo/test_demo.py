"""The demo itself, end to end: real workers, one of them killed, and a good verdict."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from subprocess import PIPE

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
    await nothing_is_left(kafka, summary["app_id"].removesuffix("-app"))


@pytest.mark.timeout(RUN_SECONDS_MAX)
async def test_ending_it_early_is_no_failure(kafka: LocalKafka) -> None:
    """SIGINT ends production; what was written is settled and judged, and everything put away."""
    command = [sys.executable, "-m", "dlq_stream.cli", "demo", "--no-tty", "--brokers", kafka.bootstrap]
    with subprocess.Popen([*command, "--seconds", "600"], stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[") and float(line[1:].split()[0]) >= 3:
                break
        process.send_signal(signal.SIGINT)
        out, error = await asyncio.to_thread(process.communicate, timeout=RUN_SECONDS_MAX)
    assert process.returncode == 0, out + error
    summary = json.loads(out)
    assert (summary["verdict"], summary["ended_early"], summary["workers_killed"]) == ("good", True, 0)
    assert 50 <= summary["events"] < 1_000
    await nothing_is_left(kafka, summary["app_id"].removesuffix("-app"))


@pytest.mark.timeout(RUN_SECONDS_MAX)
@pytest.mark.parametrize("moment", ["Backoff is shortened", "[  0.0 s] 0 readings"])
async def test_ending_it_before_it_has_begun_is_no_failure(kafka: LocalKafka, moment: str) -> None:
    """SIGTERM before the first reading: there is nothing to judge, and everything is put away."""
    command = [sys.executable, "-m", "dlq_stream.cli", "demo", "--no-tty", "--brokers", kafka.bootstrap]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while moment not in said:
            said += process.stderr.readline()
            assert process.poll() is None, said
        process.send_signal(signal.SIGTERM)
        out, error = await asyncio.to_thread(process.communicate, timeout=RUN_SECONDS_MAX)
    assert process.returncode == 0, out + error
    assert "Interrupted before there was anything to judge." in error or '"verdict": "none"' in out
    assert "Traceback" not in error
    found = re.search(r"app (\S+)-app,", said)
    assert found is not None
    await nothing_is_left(kafka, found[1])


async def nothing_is_left(kafka: LocalKafka, name: str) -> None:
    assert not [topic for topic in await list_topics(kafka.bootstrap) if topic.startswith(name)]
    assert not [group for group in await groups(kafka) if group.startswith(name)]
