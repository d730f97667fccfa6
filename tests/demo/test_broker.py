"""The demo on a cluster that is somebody else's: it reads what is committed, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer

import dlq_stream
from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError
from dlq_stream.demo.broker import broker, create_topics, delete_traces, launcher, wait_for_members
from dlq_stream.demo.plan import PARTITIONS, Plan, new_name
from dlq_stream.demo.reading import follow, read_all
from tests.kafka_clients import Outgoing, admin, list_topics, produce, topic_config
from tests.kafka_clients import create_topics as create
from tests.kafka_fixture import LocalKafka, unique_name


def plan_for(kafka: LocalKafka) -> Plan:
    return Plan(new_name(), kafka.bootstrap, seed=1, seconds=1, rate=1, start_ms=0)


async def groups(kafka: LocalKafka) -> set[str]:
    async with admin(kafka.bootstrap) as client:
        return {name for name, *_ in await client.list_consumer_groups()}


async def test_nothing_of_the_demo_stays(kafka: LocalKafka) -> None:
    """Topics and groups go, static members that have not left included; what is somebody else's stays."""
    plan = plan_for(kafka)
    other = unique_name("other")
    await create(kafka.bootstrap, other, f"{plan.app_id}-failures", partitions=1)
    await create_topics(plan)
    assert (await topic_config(kafka.bootstrap, plan.source))["message.timestamp.type"] == "LogAppendTime"
    assert (await list_topics(kafka.bootstrap))[plan.results] == PARTITIONS
    for topic, group, instance in (
        (plan.source, plan.app_id, f"{plan.name}-worker-1"),
        (plan.source, plan.group, None),
        (other, f"{other}-group", None),
    ):
        consumer = AIOKafkaConsumer(
            topic, bootstrap_servers=kafka.bootstrap, group_id=group, group_instance_id=instance
        )
        async with consumer:
            await consumer.getmany(timeout_ms=100)
            await consumer.commit(dict.fromkeys(consumer.assignment(), 0))
            if group == plan.app_id:
                assert await wait_for_members(plan, 1, 10)
    assert not await wait_for_members(plan, 2, 0.5)
    assert await delete_traces(plan) == []
    assert not [topic for topic in await list_topics(kafka.bootstrap) if topic.startswith(plan.name)]
    left = await groups(kafka)
    assert not [group for group in left if group.startswith(plan.name)]
    assert f"{other}-group" in left
    assert await delete_traces(plan) == []


async def test_what_counts_is_what_is_committed(kafka: LocalKafka) -> None:
    """Aborted records are passed over, and a topic that does not exist is empty and stays so."""
    topic, missing = unique_name("t"), unique_name("missing")
    await create(kafka.bootstrap, topic, partitions=2)
    record = Outgoing(topic, b"kept", key=b"k", headers=[("h", b"1"), ("h", None)], partition=0)
    await produce(kafka.bootstrap, [record])
    await produce(kafka.bootstrap, [Outgoing(topic, b"lost", partition=1)], transactional_id=topic, commit=False)
    found = await read_all(kafka.bootstrap, [topic, missing])
    assert [(each.value, tuple(each.headers)) for each in found[topic]] == [(b"kept", (("h", b"1"), ("h", None)))]
    assert found[missing] == []
    assert missing not in await list_topics(kafka.bootstrap)
    assert await read_all(kafka.bootstrap, [missing]) == {missing: []}


async def test_a_topic_that_comes_later_is_followed_too(kafka: LocalKafka) -> None:
    """Nothing is read twice for it."""
    early, late = unique_name("early"), unique_name("late")
    await create(kafka.bootstrap, early, partitions=2)
    await produce(kafka.bootstrap, [Outgoing(early, b"%d" % n, key=b"%d" % n) for n in range(5)])
    seen: list[bytes | None] = []
    async with asyncio.timeout(30), aclosing(follow(kafka.bootstrap, [early, late])) as batches:
        async for records in batches:
            seen += [each.value for each in records]
            if len(seen) == 5 and not records and late not in await list_topics(kafka.bootstrap):
                await create(kafka.bootstrap, late, partitions=2)
                await produce(kafka.bootstrap, [Outgoing(early, b"5", key=b"x"), Outgoing(late, b"6", key=b"x")])
            if len(seen) >= 7:
                break
    assert sorted(seen, key=str) == [b"%d" % n for n in range(7)]


async def test_given_brokers_that_do_not_answer(tmp_path: Path, unused_tcp_port: int) -> None:
    """They are never replaced by ones of our own."""
    with pytest.raises(BrokersUnavailable):
        async with broker(f"127.0.0.1:{unused_tcp_port}", tmp_path, 0.2):
            raise AssertionError("there is none")


def test_outside_a_checkout_the_demo_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The launcher is not part of the installed package."""
    assert launcher().name == "kafka"
    monkeypatch.setattr(dlq_stream, "__file__", str(tmp_path / "dlq_stream" / "__init__.py"))
    with pytest.raises(ConfigurationError, match=r"--brokers / DLQ_BROKERS"):
        launcher()


async def test_a_kafka_of_our_own_comes_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a free port, in the run's directory, which is empty again afterwards."""
    monkeypatch.setenv("DLQ_KAFKA_DATA", str(tmp_path / "nobodys"))
    async with broker(None, tmp_path, 1) as started:
        assert started.is_ours
        assert await read_all(started.addresses, ["x"]) == {"x": []}
        # A second demo finds the launcher's default instance where somebody has started one.
        monkeypatch.setenv("DLQ_KAFKA_DATA", str(tmp_path / "kafka"))
        async with broker(None, tmp_path / "second", 1) as found:
            assert (found.is_ours, found.addresses) == (False, started.addresses)
    assert not (tmp_path / "kafka").exists()
    with pytest.raises(BrokersUnavailable):
        async with broker(started.addresses, tmp_path, 0.2):
            raise AssertionError("it runs on")
