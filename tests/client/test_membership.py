"""How `RetryConsumer` begins, breaks off and ends as a member of its group, on a real broker."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CorruptRecordException, KafkaConnectionError, KafkaError
from aiokafka.protocol.group import LeaveGroupRequest

from dlq_stream import FailureReporter, RetryConsumer
from dlq_stream.client import consumer as consumer_module
from dlq_stream.client import membership as membership_module
from dlq_stream.client.membership import Membership
from dlq_stream.core.model import Record
from tests.client.agent import PARTITIONS, Agent
from tests.kafka_clients import Outgoing, admin, commit_offsets, create_topics, delete_topic, produce
from tests.kafka_fixture import LocalKafka


@pytest.fixture
async def agent(kafka: LocalKafka) -> Agent:
    made = Agent(kafka.bootstrap)
    await made.make_topics()
    return made


async def members(agent: Agent) -> int:
    async with admin(agent.bootstrap) as client:
        (answer,) = await client.describe_consumer_groups([agent.group])
        ((*_, described, _),) = answer.groups
        return len(described)


@pytest.mark.parametrize("stopped", [False, True], ids=["cancelled", "stopped"])
async def test_who_is_cancelled_while_he_ends_ends_at_once(agent: Agent, stopped: bool) -> None:
    """What is finished is committed, and nobody is left behind in the group."""
    await agent.send(2, value="{{}}")
    waiting = 0

    async def handle(record: Record) -> None:
        nonlocal waiting
        agent.note(record)
        if len(agent.seen) == 2:
            waiting += 1
            await asyncio.sleep(60)

    consumer = RetryConsumer(agent.topic, agent.group, handle, agent.bootstrap, app_id=agent.app, commit_seconds=60)
    task = asyncio.create_task(consumer.run())
    await agent.until(lambda: bool(waiting))
    if stopped:
        consumer.stop()
    else:
        task.cancel()
    await asyncio.sleep(0.3)
    assert not task.done()
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 5
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert await agent.committed() == 1
    assert await members(agent) == 0


async def test_a_membership_that_broke_gets_no_partitions_any_more(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another member joins just then; whoever comes after the broken one handles records as before."""
    monkeypatch.setattr(consumer_module, "REJOIN_SECONDS", 4.0)
    polls: list[Any] = []

    class Breaking(Membership):
        async def poll(self) -> None:
            polls.append(self)
            if len(polls) > 1:
                await super().poll()
            await agent.until(lambda: bool(self._work.ours()))
            raise CorruptRecordException("no such record")

    monkeypatch.setattr(consumer_module, "Membership", Breaking)
    async with agent.consuming(session_seconds=6):
        await agent.until(lambda: bool(polls))
        async with agent.consuming(session_seconds=6):
            await agent.until(lambda: len(polls) == 3)
            await agent.until(lambda: all(each._work.ours() for each in polls[1:]))
            await agent.send(100, value="{{}}")
            await agent.until_committed(100)
    assert len(set(agent.seen)) == 100


async def test_brokers_that_are_away_when_another_one_joins(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again; and who is told to stop meanwhile stops."""
    monkeypatch.setattr(consumer_module, "REJOIN_SECONDS", 0.2)
    tries = 0

    class Away(Membership):
        async def join(self, *topics: Any) -> None:
            nonlocal tries
            tries += 1
            if tries <= 2:
                raise KafkaConnectionError("nobody there")
            if tries == 4:
                await asyncio.sleep(60)
            await super().join(*topics)

    monkeypatch.setattr(consumer_module, "Membership", Away)
    await agent.send(10, value="{{}}")
    async with agent.consuming():
        await agent.until_committed(10)
    async with agent.consuming():
        await agent.until(lambda: tries == 4)
        began = time.monotonic()
    assert time.monotonic() - began < 3


async def test_a_reporter_that_fails_in_a_way_of_its_own_ends_the_consumer(agent: Agent) -> None:
    """Nobody takes it for the consumer's connection, which joining again would mend."""

    class Odd(FailureReporter):
        async def report(self, *_: Any, **__: Any) -> str:
            raise KafkaError("out of the blue")

    async def handle(record: Record) -> None:
        raise ValueError

    await agent.send(1)
    reporter = Odd(agent.bootstrap, agent.group, app_id=agent.app)
    consumer = RetryConsumer(agent.topic, agent.group, handle, agent.bootstrap, reporter=reporter)
    with pytest.raises(KafkaError, match="out of the blue"):
        await asyncio.wait_for(consumer.run(), 20)
    assert await agent.committed() == 0


async def test_who_was_expelled_commits_nothing_any_more(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty group takes commits of strangers, which would undo what members have committed meanwhile."""
    made: list[Any] = []

    class Known(Membership):
        async def join(self, *topics: Any) -> None:
            made.append(self)
            await super().join(*topics)

    monkeypatch.setattr(consumer_module, "Membership", Known)
    await produce(agent.bootstrap, [Outgoing(agent.topic, b"", None, (), 0) for _ in range(5)])
    gate = asyncio.Event()

    async def handle(record: Record) -> None:
        agent.note(record)
        if record.offset == 2:
            await gate.wait()

    async with agent.consuming(handle, commit_seconds=60, revoke_seconds=0.2, session_seconds=6):
        await agent.until(lambda: len(agent.seen) == 5)
        coordinator = made[0]._consumer._coordinator
        expelled = coordinator.member_id
        await coordinator._send_req(LeaveGroupRequest(agent.group, expelled))
        await commit_offsets(agent.bootstrap, agent.group, {TopicPartition(agent.topic, 0): 5})
        await agent.until(lambda: coordinator.member_id not in ("", expelled))
        assert await agent.committed() == 5
        gate.set()
    assert (await agent.committed(), len(agent.seen)) == (5, 5)


async def test_a_source_that_is_deleted_and_made_anew(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything goes on, and its new records are handled."""
    monkeypatch.setattr(membership_module, "METADATA_SECONDS", 0.5)
    await agent.send(10, value="{{}}")
    async with agent.consuming():
        await agent.until_committed(10)
        await delete_topic(agent.bootstrap, agent.topic)
        await asyncio.sleep(2)
        await create_topics(agent.bootstrap, agent.topic, partitions=PARTITIONS)
        await agent.send(10, value="{{}}")
        await agent.until(lambda: len(agent.seen) == 20)


def test_one_consumer_runs_on_one_loop_after_another(kafka: LocalKafka) -> None:
    """As where a program calls `asyncio.run` for each of its parts."""
    agent = Agent(kafka.bootstrap)
    consumer = RetryConsumer(agent.topic, agent.group, agent.handle, agent.bootstrap, app_id=agent.app)

    async def run(total: int) -> None:
        task = asyncio.create_task(consumer.run())
        await agent.send(10, value="{{}}")
        await agent.until(lambda: len(agent.seen) >= total or task.done())
        consumer.stop()
        await task

    asyncio.run(agent.make_topics())
    asyncio.run(run(10))
    asyncio.run(run(20))
    assert len(set(agent.seen)) == len(agent.seen) == 20
