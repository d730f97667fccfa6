"""What a worker's process ends with, and what it says first: under our command, and under Faust's own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dlq_stream.tables.codec import MAJOR
from tests.integration.conftest import MakeApp
from tests.integration.harness import CLI, FAUST, Worker
from tests.kafka_clients import Outgoing, delete_topic
from tests.kafka_fixture import LocalKafka

OURS: Sequence[str] = (*CLI, "worker")
BOTH = pytest.mark.parametrize("command", [OURS, FAUST], ids=["dlq-stream", "faust"])


def last_words(worker: Worker) -> str:
    """The line that says why a process ended: the last one of level critical."""
    return [line for line in worker.log.splitlines() if " CRITICAL " in line][-1]


@BOTH
async def test_what_is_unexpected_is_code_70(kafka: LocalKafka, make_app: MakeApp, command: Sequence[str]) -> None:
    """A topic of our own that somebody deletes under a running worker; the log names it, with a traceback."""
    app = await make_app(kafka)
    worker = await app.worker(command=command).start()
    gone = app.topic("quarantine")
    await delete_topic(kafka.bootstrap, gone)
    await app.send(Outgoing(app.topic("failures"), b"poison", b"k", partition=2))
    assert await worker.ended() == 70, worker.log
    said = f"turn of partition 2: RuntimeError(\"our own topic '{gone}' is gone\"); this process ends with code 70"
    assert said in last_words(worker)
    assert "Traceback" in worker.log
    await app.run("init")
    await worker.start()
    await app.until(gone, 1)
    assert (await worker.stop())[0] == 0


@BOTH
async def test_what_no_restart_cures_has_a_code_of_its_own(
    kafka: LocalKafka, make_app: MakeApp, command: Sequence[str]
) -> None:
    """A row of a newer format, found after the checks of the start: 2, and 1 under Faust's command, which has no 2."""
    app = await make_app(kafka)
    newer = bytes((MAJOR + 1, 0)) + b"\x90"
    await app.send(Outgoing(app.topic("messages-changelog"), newer, b"i" * 16, partition=0))
    worker = app.worker(command=command)
    await worker.start(wait_ready=False)
    assert await worker.ended() == (2 if command is OURS else 1), worker.log
    assert "upgrade this worker" in last_words(worker)
    assert "Traceback" not in worker.log
