"""Workers with standbys: what the copies hold, what a take-over has left to restore, and how loudly one fails."""

from __future__ import annotations

import re

import pytest

from dlq_stream.settings import Settings
from tests.crash.state import tables
from tests.integration.conftest import MakeApp
from tests.integration.harness import PARTITIONS, App, Worker, attempt_of, by_id
from tests.integration.test_worker import SESSION_SECONDS, some_messages
from tests.kafka_clients import Outgoing, produce
from tests.kafka_fixture import LocalKafka

EVERY = set(range(PARTITIONS))
COPIED = "standbys caught up: partitions"


def owned(worker: Worker) -> set[int]:
    """The partitions that it works on, by its log."""
    return _latest(worker, "ready: partitions")


def copied(worker: Worker) -> set[int]:
    """The partitions of which it has a copy that was caught up with, by its log."""
    return _latest(worker, COPIED)


def _latest(worker: Worker, text: str) -> set[int]:
    found = re.findall(rf"{text} \[([\d, ]*)\]", worker.log)
    return {int(number) for number in re.findall(r"\d+", found[-1])} if found else set()


async def two_workers(app: App) -> tuple[Worker, Worker]:
    """Both at work on one half, each with a copy of the other's."""
    first = await app.worker().start()
    second = await app.worker().start()
    await first.ready(times=2)
    for worker, other in ((first, second), (second, first)):
        await worker.said(COPIED)
        assert copied(worker) == owned(other)
    assert owned(first) | owned(second) == EVERY
    assert len(owned(first)) == len(owned(second))
    return first, second


async def test_a_copy_is_what_a_rebuild_says(kafka: LocalKafka, make_app: MakeApp) -> None:
    """Rows and index entries of every partition, its own and the others', in the directory as the worker left it."""
    app = await make_app(kafka, standby_replicas=1)
    first, second = await two_workers(app)
    source = await some_messages(app)
    await app.figures(source, pending=20, retrying=20, total_retries=20)
    others = owned(first)
    assert (await second.stop())[0] == 0
    await first.said("ready: partitions [0, 1, 2, 3]", times=2)
    assert (await first.stop())[0] == 0
    settings = Settings(brokers=app.bootstrap, app_id=app.app_id, partitions=PARTITIONS)
    found = await tables(settings, {"second": second.data})
    assert set(found.stores) == {("second", number) for number in EVERY}
    for number in EVERY:
        assert found.stores["second", number] == found.rebuilt[number], number
    messages = sum(key.startswith(b"m") for number in others for key in found.stores["second", number])
    assert 0 < messages < 40


async def test_a_take_over_with_warm_state(kafka: LocalKafka, make_app: MakeApp) -> None:
    """The owner is killed: the other one restores nothing, and every retry is emitted once."""
    app = await make_app(kafka, standby_replicas=1, session_timeout_seconds=SESSION_SECONDS)
    first, second = await two_workers(app)
    source = await app.source()
    records = await app.produced(*(Outgoing(source, b"v", b"k%d" % n) for n in range(600)))
    await app.send(*(app.failure(each, retry_after_ms=20 * n) for n, each in enumerate(records)))
    await app.figures(source, total_failures=len(records))
    await first.kill9()
    await second.said("ready: partitions [0, 1, 2, 3]")
    assert re.search(r"opened partitions \[0, 1, 2, 3\] in [\d.]+ s, 0 rows restored", second.log), second.log
    deliveries = by_id(await app.until(source, 2 * len(records), seconds=60))
    assert all(sorted(map(attempt_of, each)) == [0, 1] for each in deliveries.values())
    await app.figures(source, retrying=len(records), total_retries=len(records), total_failures=len(records))


async def test_a_lone_worker_has_no_copies(kafka: LocalKafka, make_app: MakeApp) -> None:
    """However many were asked for: as many as there are other workers, here none."""
    app = await make_app(kafka, standby_replicas=3)
    worker = await app.worker().start()
    source = await some_messages(app)
    await app.figures(source, pending=20, retrying=20, total_retries=20)
    assert COPIED not in worker.log
    assert (await worker.stop())[0] == 0


@pytest.mark.parametrize(
    ("value", "words"),
    [(b"\x02\0newer", "holds rows of format 02"), (b"\x01\0\xc1", "does not decode")],
    ids=["newer", "poison"],
)
async def test_a_row_that_does_not_fit_ends_the_standby(
    kafka: LocalKafka, make_app: MakeApp, value: bytes, words: str
) -> None:
    """At once and with its reason, as it would end the owner at its next start; not at the take-over that needs it."""
    app = await make_app(kafka, standby_replicas=1)
    first, second = await two_workers(app)
    place = min(owned(first))
    await produce(app.bootstrap, [Outgoing(app.topic("messages-changelog"), value, b"k" * 16, partition=place)])
    assert await second.ended() == 2, second.log
    assert words in second.log
