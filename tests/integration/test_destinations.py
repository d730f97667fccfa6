"""Destinations that are gone, forbidden, too small or compacted: given up with the reason; nobody else is kept waiting.

The broker here creates topics for whoever asks for one, as is Kafka's default, and obeys ACLs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
import pytest_asyncio
from aiokafka import ConsumerRecord
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.integration.acls import CLUSTER, CREATE, THE_CLUSTER, WRITE, allow_again, forbid
from tests.integration.conftest import MakeApp
from tests.integration.harness import PARTITIONS, App, attempt_of, eventually, id_of, loaded_factor, own
from tests.kafka_clients import Outgoing, admin, create_topics, delete_topic, list_topics, topic_config
from tests.kafka_fixture import LocalKafka, local_kafka

COUNT = 20


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalKafka]:
    """Creates topics automatically, and has ACLs."""
    with local_kafka(auto_create=True, authorizer=True) as kafka:
        yield kafka


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(broker: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    async with App(broker, tmp_path_factory.mktemp("destinations")) as app:
        await app.init()
        await app.worker().start()
        yield app


async def retried_once(app: App, *sources: str) -> list[ConsumerRecord]:
    """First retries, in all partitions of the app, of records in these topics by turns."""
    records = [Outgoing(source, b"%d" % n, b"k%d" % n) for n in range(COUNT) for source in sources]
    await app.send(*(app.failure(each) for each in await app.produced(*records)))
    return [each for source in sources for each in (await app.until(source, 2 * COUNT)) if attempt_of(each)]


def lateness_ms(records: Sequence[ConsumerRecord]) -> int:
    """How late the latest of these retries was."""
    return max(each.timestamp - int(own(each)["dlq-due-at"]) for each in records)


async def test_a_topic_that_is_deleted_in_mid_flight(app: App) -> None:
    """Its messages are given up as missing, dead letters and all, and the others of the same batches hardly wait.

    The worker has just written to the topic and knows of nothing wrong with it when the next retries are due.  The
    ``-dlq`` topic is made without it, as wide as the app's own topics; the topic itself stays away.
    """
    doomed, good = await app.source(), await app.source()
    retries = await retried_once(app, doomed, good)
    pairs = zip(retries[:COUNT], retries[COUNT:], strict=True)
    await app.send(*(app.failure(each, retry_after_ms=5_000) for pair in pairs for each in pair))
    await app.figures(doomed, pending=COUNT)
    await app.figures(good, pending=COUNT)
    await delete_topic(app.bootstrap, doomed)
    second = [each for each in await app.until(good, 3 * COUNT) if attempt_of(each) == 2]
    print(f"beside a topic that was deleted, retries were up to {lateness_ms(second)} ms late")
    assert lateness_ms(second) < 3_000 * loaded_factor()
    letters = await app.until(f"{doomed}-dlq", COUNT)
    assert {own(each)["dlq-escalation-reason"] for each in letters} == {b"missing"}
    assert sorted(each.value or b"" for each in letters) == sorted(b"%d" % n for n in range(COUNT))
    came_from = {id_of(each): own(each)["dlq-original-partition"] for each in retries[:COUNT]}
    assert {id_of(each): b"%d" % each.partition for each in letters} == came_from
    await app.figures(doomed, escalated=COUNT, unwritten=0, pending=0, stuck=0)
    rows = [row for row in (await app.rows()).values() if row.origin_topic == doomed]
    assert {(row.reason, row.dead_letter) for row in rows} == {("missing", "written")}
    for _ in range(20):
        topics = await list_topics(app.bootstrap)
        assert doomed not in topics
        assert topics[f"{doomed}-dlq"] == PARTITIONS
        await asyncio.sleep(0.1)
    assert app.workers[0].code is None


async def alter(app: App, topic: str, setting: str, value: int) -> None:
    """Change a source topic as its owner might."""
    configs = {"message.timestamp.type": "LogAppendTime", setting: str(value)}
    async with admin(app.bootstrap) as client:
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])

    async def config() -> dict[str, str]:
        return await topic_config(app.bootstrap, topic)

    await eventually(config, wanted=lambda seen: seen[setting] == str(value))


async def test_unusable_targets_among_good_ones_in_one_batch(broker: LocalKafka, make_app: MakeApp) -> None:
    """The good ones of a batch go out, the others are given up, each with its own reason.

    Of ``tiny`` the worker knows that it is too small, at ``shrunk`` and ``forbidden`` the broker refuses.  The worker
    is frozen until all of it is due, so that it is one batch of the only partition.
    """
    app = await make_app(broker, partitions=1)
    worker = await app.worker().start()
    good, forbidden, tiny, shrunk = [await app.source() for _ in range(4)]
    topics = (good, forbidden, tiny, shrunk)
    failed = await app.produced(*(Outgoing(t, b"%d" % n, b"k") for n in range(COUNT) for t in topics))
    await alter(app, tiny, "max.message.bytes", 150)
    await app.send(*(app.failure(each, retry_after_ms=5_000) for each in failed))
    await eventually(app.status, wanted=lambda told: told["total"]["pending"] == len(failed))
    os.kill(worker.pid, signal.SIGSTOP)
    await forbid(app.bootstrap, forbidden, WRITE)
    await alter(app, shrunk, "max.message.bytes", 150)
    due_ms = max(row.due_ms or 0 for row in (await app.rows()).values())
    assert len(await app.read(good)) == COUNT, "nothing is due yet"
    await asyncio.sleep(max(0, due_ms / 1000 - time.time()))
    resumed_ms = int(time.time() * 1000)
    os.kill(worker.pid, signal.SIGCONT)
    retries = [each for each in await app.until(good, 2 * COUNT) if attempt_of(each)]
    late_ms = max(each.timestamp for each in retries) - resumed_ms
    print(f"beside targets that were refused, retries were up to {late_ms} ms late")
    assert late_ms < 3_000 * loaded_factor()
    for topic, reason in ((forbidden, b"not-authorised"), (tiny, b"too-large"), (shrunk, b"too-large")):
        letters = await app.until(f"{topic}-dlq", COUNT)
        assert {own(each)["dlq-escalation-reason"] for each in letters} == {reason}
        assert sorted(each.value or b"" for each in letters) == sorted(b"%d" % n for n in range(COUNT))
        await app.figures(topic, escalated=COUNT, unwritten=0, pending=0, retrying=0, stuck=0)
        assert len(await app.read(topic)) == COUNT
    assert worker.code is None
    assert "no answer from the brokers" not in worker.log


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
async def test_a_compacted_source_is_not_written(app: App, policy: str) -> None:
    """A retry would make an old value the latest of its key."""
    source = await app.source(cleanup_policy=policy)
    (failed,) = await app.produced(Outgoing(source, b"old", b"key"))
    await app.send(app.failure(failed))
    (letter,) = await app.until(f"{source}-dlq", 1)
    assert (letter.value, own(letter)["dlq-escalation-reason"]) == (b"old", b"compacted")
    assert "compact" not in (await topic_config(app.bootstrap, f"{source}-dlq"))["cleanup.policy"]
    await app.figures(source, escalated=1, unwritten=0, total_retries=0)
    assert len(await app.read(source)) == 1


async def test_dead_letters_wait_until_they_can_be_written(app: App) -> None:
    """Where the topic may not be written, or not created, the message stays, with its reason, and is written then."""
    locked, uncreatable = await app.source(), await app.source()
    await create_topics(app.bootstrap, f"{locked}-dlq", partitions=3)
    await forbid(app.bootstrap, f"{locked}-dlq", WRITE)
    await forbid(app.bootstrap, f"{uncreatable}-dlq", CREATE)
    await forbid(app.bootstrap, THE_CLUSTER, CREATE, kind=CLUSTER)
    failed = await app.produced(Outgoing(locked, b"1", b"k"), Outgoing(uncreatable, b"2", b"k"))
    await app.send(*(app.failure(each, error_type="ValueError") for each in failed))
    for record, word in zip(failed, ("not-authorised", "creation was refused"), strict=True):
        row = await app.row(id_of(record), status="escalated", dead_letter="waiting", dead_letter_tries=2)
        assert word in row.dead_letter_reason
        assert (row.reason, row.closed_ms) == ("permanent", None)
        await app.figures(record.topic, escalated=1, unwritten=1)
    await app.send(app.command("purge", id_of(failed[0]), revision=1))
    await app.figures(locked, escalated=1, unwritten=1)
    assert await app.read(f"{locked}-dlq") == []
    assert f"{uncreatable}-dlq" not in await list_topics(app.bootstrap)
    assert app.workers[0].code is None
    for topic in (f"{locked}-dlq", f"{uncreatable}-dlq"):
        await allow_again(app.bootstrap, topic)
    await allow_again(app.bootstrap, THE_CLUSTER, kind=CLUSTER)
    began = time.monotonic()
    for record in failed:
        (letter,) = await app.until(f"{record.topic}-dlq", 1, seconds=90)
        print(f"written {time.monotonic() - began:.1f} s after it was allowed")
        assert (letter.value, own(letter)["dlq-escalation-reason"]) == (record.value, b"permanent")
        await app.figures(record.topic, escalated=1, unwritten=0)
