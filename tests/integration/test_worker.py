"""The worker as a process: how it starts, refuses to start, stops, and comes back."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Sequence

import pytest
from aiokafka.admin import NewPartitions

from tests.integration.conftest import MakeApp
from tests.integration.harness import (
    FAUST,
    PARTITIONS,
    STOP_SECONDS_MAX,
    App,
    Worker,
    attempt_of,
    by_id,
    eventually,
    listeners_of,
)
from tests.kafka_clients import Outgoing, admin, delete_topic, list_topics
from tests.kafka_fixture import LocalKafka
from tests.promises import assert_promise

READY_SECONDS_MAX = 3.0
"""What a start may take with four partitions and a small state, as promised."""

SESSION_SECONDS = 6.0
"""The shortest that brokers allow."""

EXIT_CRASH_ONLY = 70


async def some_messages(app: App, count: int = 40) -> str:
    """A source with messages that wait, and some that were retried."""
    source = await app.source()
    records = await app.produced(*(Outgoing(source, b"%d" % n, b"k%d" % n) for n in range(count)))
    await app.send(*(app.failure(each, retry_after_ms=0 if n % 2 else 600_000) for n, each in enumerate(records)))
    await app.until(source, count + count // 2)
    return source


async def is_refused(worker: Worker, *words: str) -> None:
    """The process ends with 2 and says why in words, without a traceback."""
    await worker.start(wait_ready=False)
    assert await worker.ended() == 2, worker.log
    for word in words:
        assert word in worker.log
    assert "Traceback" not in worker.log


async def test_a_worker_comes_back_quickly(kafka: LocalKafka, make_app: MakeApp) -> None:
    """With a stable instance id within seconds, however it ended; what its disk has lost, the changelogs have."""
    app = await make_app(kafka, session_timeout_seconds=30)
    worker = await app.worker("--instance-id", "stable").start()
    source = await some_messages(app)
    for how in ("SIGTERM", "kill -9", "kill -9 and the loss of its disk"):
        if how == "SIGTERM":
            code, seconds = await worker.stop()
            print(f"ended {seconds:.2f} s after SIGTERM")
            assert code == 0
        else:
            await worker.kill9()
        if "disk" in how:
            shutil.rmtree(worker.data)
        await worker.start(wait_ready=False)
        seconds = await worker.ready()
        assert_promise(f"ready after {how}, with an instance id", seconds, READY_SECONDS_MAX, worker.crowd)
        assert "opened partitions [0, 1, 2, 3]" in worker.log
        assert ("s, 0 rows restored" in worker.log) == ("disk" not in how)
    await app.figures(source, pending=20, retrying=20, total_retries=20)


@pytest.mark.parametrize("moment", ["web server on", "opened partitions"])
async def test_a_worker_may_be_stopped_while_it_starts(kafka: LocalKafka, make_app: MakeApp, moment: str) -> None:
    """A rolling update does not wait; it ends with 0 all the same, and the next start is a usual one."""
    app = await make_app(kafka)
    worker = app.worker()
    await worker.start(wait_ready=False)
    await worker.said(moment)
    code, seconds = await worker.stop()
    print(f"ended {seconds:.2f} s after SIGTERM while starting")
    assert code == 0, worker.log
    assert seconds <= STOP_SECONDS_MAX
    await worker.start()
    await some_messages(app)


async def test_a_nameless_worker_waits_for_the_session_of_its_former_self(kafka: LocalKafka, make_app: MakeApp) -> None:
    """After kill -9 for at most the session time-out and a start; after SIGTERM, which leaves the group, not at all."""
    app = await make_app(kafka, session_timeout_seconds=SESSION_SECONDS)
    worker = await app.worker().start()
    source = await some_messages(app)
    assert (await worker.stop())[0] == 0
    await worker.start(wait_ready=False)
    seconds = await worker.ready()
    assert_promise("ready after SIGTERM, without an instance id", seconds, READY_SECONDS_MAX, worker.crowd)
    await worker.kill9()
    await worker.start(wait_ready=False)
    seconds = await worker.ready()
    what = f"ready after kill -9, without an instance id, session time-out {SESSION_SECONDS:g} s"
    assert_promise(what, seconds, READY_SECONDS_MAX, worker.crowd, besides=SESSION_SECONDS)
    await app.figures(source, pending=20, retrying=20, total_retries=20)


async def test_sigterm_ends_a_busy_worker(kafka: LocalKafka, make_app: MakeApp) -> None:
    """In the middle of a flood, within ten seconds and with code 0; what was in flight is done once, then or later."""
    app = await make_app(kafka)
    worker = await app.worker().start()
    source = await app.source()
    records = await app.produced(*(Outgoing(source, b"v" * 500, b"k%d" % n) for n in range(3_000)))
    await app.send(*(app.failure(each) for each in records))
    await eventually(lambda: app.read(source), wanted=lambda found: len(found) > len(records))
    code, seconds = await worker.stop()
    print(f"ended {seconds:.2f} s after SIGTERM while busy")
    assert code == 0, worker.log
    assert seconds <= STOP_SECONDS_MAX
    assert "Traceback" not in worker.log
    await worker.start()
    deliveries = by_id(await app.until(source, 2 * len(records), seconds=60))
    assert all(sorted(map(attempt_of, each)) == [0, 1] for each in deliveries.values())
    await app.figures(source, retrying=len(records), total_retries=len(records), total_failures=len(records))


async def test_a_second_worker_takes_a_share_and_gives_it_back(kafka: LocalKafka, make_app: MakeApp) -> None:
    """Partitions move at its start and its end; no retry is lost or repeated over it."""
    app = await make_app(kafka)
    first = await app.worker().start()
    source = await app.source()
    records = await app.produced(*(Outgoing(source, b"v", b"k%d" % n) for n in range(300)))
    await app.send(*(app.failure(each, retry_after_ms=20 * n) for n, each in enumerate(records)))
    second = await app.worker().start()
    await first.ready(times=2)
    assert second.log.count("ready: partitions []") == 0
    assert (await second.stop(signal.SIGINT))[0] == 0
    await first.said("ready: partitions [0, 1, 2, 3]", times=2)
    deliveries = by_id(await app.until(source, 2 * len(records)))
    assert all(sorted(map(attempt_of, each)) == [0, 1] for each in deliveries.values())
    assert first.code is None


async def test_a_worker_that_is_frozen_and_thaws(kafka: LocalKafka, make_app: MakeApp) -> None:
    """Longer than its session lasts, in the middle of its work: another one takes over, and it does no harm after."""
    app = await make_app(kafka, session_timeout_seconds=SESSION_SECONDS)
    first, second = await app.worker().start(), await app.worker().start()
    await first.ready(times=2)
    source = await app.source()
    records = await app.produced(*(Outgoing(source, b"v", b"k%d" % n) for n in range(400)))
    await app.send(*(app.failure(each, retry_after_ms=20 * n) for n, each in enumerate(records)))
    await eventually(lambda: app.read(source), wanted=lambda found: len(found) > len(records))
    os.kill(first.pid, signal.SIGSTOP)
    await second.said("ready: partitions [0, 1, 2, 3]")
    await eventually(lambda: app.read(source), wanted=lambda found: len(found) > 1.6 * len(records))
    os.kill(first.pid, signal.SIGCONT)
    deliveries = by_id(await app.until(source, 2 * len(records), seconds=60))
    assert all(sorted(map(attempt_of, each)) == [0, 1] for each in deliveries.values())
    await app.figures(source, retrying=len(records), total_retries=len(records), total_failures=len(records))
    if first.code is None:
        await first.ready(times=3)  # a member again, with a share
        await second.ready(times=3)
    print(f"exits after a freeze: of the frozen {first.code}, of the other {second.code}")
    assert first.code in (None, EXIT_CRASH_ONLY)
    assert second.code is None


async def test_one_data_directory_is_for_one_worker(kafka: LocalKafka, make_app: MakeApp) -> None:
    """The second one is told so, and the first one works on."""
    app = await make_app(kafka)
    first = await app.worker(data="shared").start()
    await is_refused(app.worker(data="shared"), "is in use by process", "give each worker a directory of its own")
    assert first.code is None
    await some_messages(app)


async def test_topics_that_do_not_fit_are_refused(kafka: LocalKafka, make_app: MakeApp) -> None:
    """One that is gone, one that somebody has given more partitions: code 2, what is wrong and what to do."""
    app = await make_app(kafka)
    grown = app.topic("failures")
    async with admin(kafka.bootstrap) as client:
        await client.create_partitions({grown: NewPartitions(PARTITIONS + 2)})

    async def partitions() -> int:
        return (await list_topics(kafka.bootstrap))[grown]

    await eventually(partitions, wanted=lambda count: count == PARTITIONS + 2)
    gone = app.topic("attempts-changelog")
    await delete_topic(kafka.bootstrap, gone)
    await is_refused(
        app.worker(),
        f"topic {grown}: partitions is {PARTITIONS + 2}, expected {PARTITIONS}",
        f"topic {gone} does not exist; run `dlq-stream init`",
    )


async def test_nobody_answers(kafka: LocalKafka, make_app: MakeApp) -> None:
    """Code 69 after the time given."""
    app = await make_app(kafka)
    worker = app.worker("--brokers", "127.0.0.1:1", "--wait-seconds", "0.5")
    await worker.start(wait_ready=False)
    assert await worker.ended() == 69
    assert "127.0.0.1:1" in worker.log


def answer_of(url: str) -> int:
    """The status of a page."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


async def only_our_pages(worker: Worker, port: int) -> None:
    """One socket, on the loopback interface, and nothing of Faust's behind it."""
    assert listeners_of(worker.pid) == {("127.0.0.1", port)}
    for page in ("", "stats/", "graph/", "router/", "table/", "table/messages/", "metrics/"):
        assert (page, await asyncio.to_thread(answer_of, f"http://127.0.0.1:{port}/{page}")) == (page, 404)


@pytest.mark.parametrize("options", [(), ("--web-port", "6066", "--web-bind", "0.0.0.0")], ids=["plain", "web options"])
async def test_it_runs_under_fausts_own_command(
    kafka: LocalKafka, make_app: MakeApp, free_port: int, options: Sequence[str]
) -> None:
    """With our web settings, whatever that command's are; it works, and ends with 0."""
    app = await make_app(kafka, web_port=free_port)
    worker = await app.worker(command=[*FAUST, *options]).start()
    source = await some_messages(app)
    await only_our_pages(worker, free_port)
    code, seconds = await worker.stop()
    print(f"faust's command ended {seconds:.2f} s after SIGTERM")
    assert code == 0, worker.log
    await app.figures(source, pending=20, retrying=20)


async def test_our_own_command_serves_the_same(kafka: LocalKafka, make_app: MakeApp, free_port: int) -> None:
    """On the port that was asked for; one that is taken is code 2 and named."""
    app = await make_app(kafka, web_port=free_port)
    worker = await app.worker().start()
    await only_our_pages(worker, free_port)
    await is_refused(app.worker(), f"web_port {free_port} cannot be used on 127.0.0.1")


async def test_fausts_command_refuses_what_does_not_fit(kafka: LocalKafka, make_app: MakeApp) -> None:
    """It has other exit codes, but says the same."""
    app = await make_app(kafka)
    await delete_topic(kafka.bootstrap, app.topic("commands"))
    worker = app.worker(command=FAUST)
    await worker.start(wait_ready=False)
    assert await worker.ended() == 1, worker.log
    assert f"topic {app.topic('commands')} does not exist; run `dlq-stream init`" in worker.log
