"""A worker whose retries other consumer groups see says so."""

from __future__ import annotations

from aiokafka import TopicPartition

from tests.integration.conftest import MakeApp
from tests.kafka_clients import Outgoing, commit_offsets
from tests.kafka_fixture import LocalKafka, unique_name


async def test_a_worker_tells_who_else_sees_its_retries(kafka: LocalKafka, make_app: MakeApp) -> None:
    """Soon after the first retry of a topic that two groups read; a topic that one reads is not told of."""
    app = await make_app(kafka)
    shared, alone = await app.source(), await app.source()
    ours, other = unique_name("furnaces"), unique_name("reports")
    for topic, group in ((shared, ours), (shared, other), (alone, ours)):
        await commit_offsets(app.bootstrap, group, {TopicPartition(topic, 0): 0})
    worker = await app.worker().start()
    for topic in (shared, alone):
        (record,) = await app.produced(Outgoing(topic, b"x", partition=0))
        await app.send(app.failure(record))
        await app.until(topic, 2)
    await worker.said(f"retries go to topic {shared}, which consumer groups {ours}, {other} read")
    assert f"topic {alone}" not in worker.log
