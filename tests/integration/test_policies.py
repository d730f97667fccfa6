"""Policies that are published while a worker runs: in effect at once, after a restart, and whatever else is written."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from dlq_stream.core.model import DLQMessageStatus
from tests.integration.harness import PARTITIONS, App, Worker, attempt_of, id_of, own
from tests.kafka_clients import Outgoing, list_topics
from tests.kafka_fixture import LocalKafka

EFFECTIVE_SECONDS_MAX = 1.0
"""From the command's end until every worker goes by what it wrote; two cores that are shared may take twice that."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """Queue ``early`` has a policy before the worker starts for the first time."""
    async with App(kafka, tmp_path_factory.mktemp("policies")) as app:
        await app.init()
        await policy(app, "set", "early", "--max-retries", "0")
        await app.worker().start()
        yield app


def worker_of(app: App) -> Worker:
    return app.workers[0]


async def policy(app: App, *arguments: str) -> str:
    done = await app.run("policy", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def failed(app: App, source: str, queue: str) -> str:
    """A failure of a new record of this queue; returns its message id."""
    (record,) = await app.produced(Outgoing(source, b"value"))
    await app.send(app.failure(record, queue=queue))
    return id_of(record)


async def test_what_was_published_before_holds_from_the_first_event_on(app: App) -> None:
    """The topic is read before a partition opens."""
    id_ = await failed(app, await app.source(), "early")
    await app.row(id_, status=DLQMessageStatus.ESCALATED, reason="retries-exhausted")


async def test_a_policy_is_in_effect_without_a_restart(app: App) -> None:
    """Within a second of the command; what was decided before stays, and other queues are untouched."""
    source = await app.source()
    before = await app.row(await failed(app, source, "ovens"), status=DLQMessageStatus.RETRYING)
    await policy(app, "set", "ovens", "--initial-backoff-seconds", "600", "--max-backoff-seconds", "600")
    written = time.monotonic()
    await worker_of(app).said("policy of queue ovens is now", EFFECTIVE_SECONDS_MAX * 2)
    print(f"the worker went by the policy {time.monotonic() - written:.2f} s after the command had ended")
    after = await app.row(await failed(app, source, "ovens"), status=DLQMessageStatus.PENDING)
    assert after.due_ms == after.last_failed_ms + 600_000
    assert before.due_ms is not None
    assert before.due_ms - before.last_failed_ms < 600_000
    await app.row(await failed(app, source, "furnaces"), status=DLQMessageStatus.RETRYING)


async def test_what_nobody_understands_stops_no_worker(app: App) -> None:
    """It is an error in the log, and its queue goes by the settings; a policy that is written again counts again."""
    queue, topic = "odd", app.topic("policies")
    await policy(app, "set", queue, "--max-retries", "0")
    await app.send(Outgoing(topic, b"\xff", b"\xff"), Outgoing(topic, b"{", queue.encode()))
    await worker_of(app).said('is not understood, so its queue goes by the settings: queues."odd": not a published')
    source = await app.source()
    await app.row(await failed(app, source, queue), status=DLQMessageStatus.RETRYING)
    shown = await app.run("policy", "get", queue, "--json")
    assert "not a published policy" in json.loads(shown.stdout)["queues"][0]["problem"]
    await policy(app, "set", queue, "--max-retries", "0")
    await worker_of(app).said("policy of queue odd is now", times=3)
    await app.row(await failed(app, source, queue), status=DLQMessageStatus.ESCALATED)
    assert worker_of(app).code is None


async def test_retries_go_to_the_retry_topic_from_the_next_decision_on(app: App) -> None:
    """`emit_to` in full: the command makes the topic, the worker writes there, and the source sees no more retries."""
    source = await app.source(partitions=2)
    await policy(app, "set", source, "--emit-to", "retry")
    assert (await list_topics(app.bootstrap))[f"{source}-retry"] == 2
    await worker_of(app).said(f"policy of queue {source} is now")
    id_ = await failed(app, source, source)
    (retry,) = await app.until(f"{source}-retry", 1)
    assert dict(retry.headers)["dlq-message-id"] == id_.encode()
    assert len(await app.read(source)) == 1


async def test_a_missing_retry_topic_loses_nothing(app: App) -> None:
    """A queue that is no topic: the command cannot know which topics to make, and says so; messages are escalated."""
    source = await app.source()
    done = await app.run("policy", "set", "boilers", "--emit-to", "retry")
    assert "messages whose retry topic is missing are escalated" in done.stderr
    await worker_of(app).said("policy of queue boilers is now")
    id_ = await failed(app, source, "boilers")
    row = await app.row(id_, status=DLQMessageStatus.ESCALATED, reason="missing", dead_letter="written")
    assert row.detail == f"topic {source}-retry"
    (given_up,) = await app.until(f"{source}-dlq", 1)
    assert given_up.value == b"value"
    assert f"{source}-retry" not in await list_topics(app.bootstrap)


async def test_a_herd_is_spread_as_the_limit_says(app: App) -> None:
    """200 that are due at once, at 50 a second: four seconds; a queue beside it does not notice."""
    source, beside = await app.source(), await app.source()
    await policy(app, "set", source, "--emit-per-second-max", "50")
    await worker_of(app).said(f"policy of queue {source} is now")
    herd = await app.produced(*(Outgoing(source, b"%d" % number) for number in range(200)))
    others = await app.produced(*(Outgoing(beside, b"%d" % number) for number in range(20)))
    due_ms = 1_500
    await app.send(*(app.failure(each, retry_after_ms=due_ms) for each in [*herd, *others]))
    at = sorted(each.timestamp for each in await app.until(source, 400) if attempt_of(each))
    took = (at[-1] - at[0]) / 1000
    most = max(sum(begin <= each < begin + 1_000 for each in at) for begin in at)
    free = [each.timestamp - int(own(each)["dlq-due-at"]) for each in await app.until(beside, 40) if attempt_of(each)]
    print(f"200 at 50/s took {took:.2f} s, at most {most} in a second; the others were up to {max(free)} ms late")
    assert 3.0 <= took <= 6.0
    assert most <= 50 * 1.25 + PARTITIONS + 15, "what brokers and a busy machine bunch together is not the worker's"
    assert max(free) < 1_000
    await app.figures(source, retrying=200, pending=0, total_retries=200)


async def test_policies_survive_a_restart(app: App) -> None:
    """And a reset returns the queue to the settings, again without one."""
    await policy(app, "set", "lasting", "--max-retries", "0")
    worker = worker_of(app)
    assert (await worker.stop())[0] == 0
    await worker.start()
    source = await app.source()
    await app.row(await failed(app, source, "lasting"), status=DLQMessageStatus.ESCALATED)
    await policy(app, "set", "lasting", "--reset")
    await worker.said("policy of queue lasting is now: what the settings say")
    await app.row(await failed(app, source, "lasting"), status=DLQMessageStatus.RETRYING)
