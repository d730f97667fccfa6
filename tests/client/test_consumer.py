"""`RetryConsumer` on a real broker: what the group, the failures topic and the commands topic see of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import (
    GroupLoadInProgressError,
    KafkaConnectionError,
    KafkaError,
    NotCoordinatorForGroupError,
)

from dlq_stream import FailureReporter, Permanent, RetryConsumer
from dlq_stream.client import consumer as consumer_module
from dlq_stream.client import membership as membership_module
from dlq_stream.client import retry_topics
from dlq_stream.client.current import current_record
from dlq_stream.client.membership import Membership
from dlq_stream.coordinator import _CarefulCoordinator
from dlq_stream.core import headers as names
from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError, NotAllowed
from dlq_stream.core.headers import parse_failure
from dlq_stream.core.model import Record
from dlq_stream.settings import QueueSettings
from dlq_stream.settings.published import encode
from tests.client.agent import PARTITIONS, Agent
from tests.kafka_clients import (
    Outgoing,
    committed_offsets,
    create_topics,
    delete_topic,
    forbid_reading,
    produce,
    read_topic,
)
from tests.kafka_fixture import KafkaFactory, LocalKafka


@pytest.fixture
async def agent(kafka: LocalKafka) -> Agent:
    made = Agent(kafka.bootstrap)
    await made.make_topics()
    return made


def retry_headers(group: str, topic: str, attempt: int = 1, id_: str = "a" * 32) -> Sequence[tuple[str, bytes]]:
    values = {names.MESSAGE_ID: id_, names.ATTEMPT: str(attempt), names.GROUP: group, names.ORIGINAL_TOPIC: topic}
    return [(name, value.encode()) for name, value in values.items()]


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_failures_are_handed_over_and_everything_is_committed(agent: Agent, plain: bool) -> None:
    """Each record is handled once; of each failure there is a report; what was done is counted."""
    await agent.send(400, value="{{}}")

    def plainly(record: Record) -> None:
        agent.note(record)
        assert current_record() is record
        if record.offset % 10 == 3:
            raise Permanent("never") if record.offset % 20 == 3 else TimeoutError("slow")

    async def handle(record: Record) -> None:
        plainly(record)
        await asyncio.sleep(0)

    async with agent.consuming(plainly if plain else handle):
        await agent.until_committed(400)
    assert Counter(agent.seen).most_common(1)[0][1] == 1
    failed = {(partition, offset) for _, partition, offset in agent.seen if offset % 10 == 3}
    events = [parse_failure(record) for record in await read_topic(agent.bootstrap, agent.failures)]
    assert {(event.origin.partition, event.origin.offset) for event in events} == failed
    assert len(events) == len(failed)
    assert {event.kind.error_types[0].rpartition(".")[2] for event in events} == {"Permanent", "TimeoutError"}
    (told,) = await read_topic(agent.bootstrap, agent.commands)
    assert told.key is None
    said = json.loads(told.value or b"")
    counts = {"type": "traffic", "queue": agent.topic, "group": agent.group, "processed": 400, "failed": len(failed)}
    assert said.pop("from_ms") <= said.pop("to_ms") <= time.time() * 1000
    assert said == counts


async def test_retries_of_this_group_only(agent: Agent) -> None:
    """Outcomes are told; others' retries and aborted ones are passed over, and committed over."""
    ours = retry_headers(agent.group, agent.topic)
    again = retry_headers(agent.group, agent.topic, 2, "b" * 32)
    others = retry_headers("others", agent.topic, 1, "c" * 32)
    written = [Outgoing(agent.topic, value, b"k", headers, 0) for value, headers in ((b"1", ours), (b"2", others))]
    await produce(agent.bootstrap, [*written, Outgoing(agent.topic, b"fail", b"k", again, 0)], transactional_id="t")
    await produce(agent.bootstrap, [Outgoing(agent.topic, b"4", b"k", ours, 0)], transactional_id="t", commit=False)
    values = []

    async def handle(record: Record) -> None:
        values.append(record.value)
        if record.value == b"fail":
            raise ValueError("still")

    async with agent.consuming(handle):
        await agent.until_committed(6)  # markers included: no lag is left
    assert values == [b"1", b"fail"]
    (event,) = [parse_failure(record) for record in await read_topic(agent.bootstrap, agent.failures)]
    assert (event.id.hex(), event.kind.attempt) == ("b" * 32, 2)
    commands = [json.loads(record.value or b"") for record in await read_topic(agent.bootstrap, agent.commands)]
    assert {"type": "succeeded", "message_id": "a" * 32, "attempt": 1} in commands
    assert sorted(command["type"] for command in commands) == ["succeeded", "traffic"]


async def test_retry_topics_that_appear_later_are_read_from_their_beginning(agent: Agent) -> None:
    """The usual one, and the one that the policies topic names, although the source is read from its end."""
    usual, named = f"{agent.topic}-retry", f"{agent.topic}-again-{agent.group}"
    await agent.send(5, value="{{}}")
    async with agent.consuming(auto_offset_reset="latest", retry_topics_seconds=0.2):
        await agent.until_committed(5)
        await create_topics(agent.bootstrap, usual, named, partitions=1)
        await create_topics(agent.bootstrap, f"{agent.app}-policies", partitions=2)
        key, policy = encode(agent.topic, QueueSettings(emit_to="retry", retry_topic="{topic}-again-{group}"))
        rows = [Outgoing(f"{agent.app}-policies", policy, key)]
        await produce(agent.bootstrap, [*rows, Outgoing(usual, b"1", b"k"), Outgoing(named, b"2", b"k")])
        await agent.until(lambda: len(agent.seen) >= 2)
        await agent.send(1, value="{{}}")
        await agent.until(lambda: len(agent.seen) >= 3)
    assert sorted(topic for topic, *_ in agent.seen) == sorted((usual, named, agent.topic))


async def test_at_the_end_what_is_finished_is_committed(agent: Agent) -> None:
    """Running handlers get their time, then they are cancelled; their records come again."""
    await produce(agent.bootstrap, [Outgoing(agent.topic, b"%d" % n, None, (), 0) for n in range(5)])

    async def handle(record: Record) -> None:
        agent.note(record)
        await asyncio.sleep({3: 60, 4: 0.3}.get(record.offset, 0))

    async with agent.consuming(handle, stop_seconds=0.6, commit_seconds=60):
        await agent.until(lambda: len(agent.seen) == 5)
        began = time.monotonic()
    assert 0.5 < time.monotonic() - began < 3
    assert await agent.committed() == 3
    again = Agent(agent.bootstrap)
    again.app, again.topic, again.group = agent.app, agent.topic, agent.group
    async with again.consuming():
        await again.until_committed(5)
    assert [offset for *_, offset in again.seen] == [3, 4]


async def test_cancelling_ends_it_in_order(agent: Agent) -> None:
    """A failure that is not handed over yet is, and its offset committed; nothing is left running."""
    await agent.send(1)

    async def handle(record: Record) -> None:
        agent.note(record)
        await asyncio.sleep(0.3)
        raise ValueError("late")

    consumer = RetryConsumer(agent.topic, agent.group, handle, agent.bootstrap, app_id=agent.app)
    task = asyncio.create_task(consumer.run())
    await agent.until(lambda: bool(agent.seen))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await agent.committed() == 1
    assert len(await read_topic(agent.bootstrap, agent.failures)) == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_rebalance_neither_loses_nor_repeats(agent: Agent) -> None:
    """A member joins and leaves while handlers run: with time to finish, every record is handled once."""
    await agent.send(600)

    async def handle(record: Record) -> None:
        await asyncio.sleep(0.02)
        agent.note(record)

    async with agent.consuming(handle, concurrency=8):
        await agent.until(lambda: len(agent.seen) >= 100)
        async with agent.consuming(handle, concurrency=8):
            await agent.until(lambda: len(agent.seen) >= 350)
        await agent.until_committed(600)
    assert (len(agent.seen), len(set(agent.seen))) == (600, 600)


async def test_a_handler_that_outlives_a_rebalance_is_not_started_twice(agent: Agent) -> None:
    """Its partition went and came back within its run; it counts, and nothing past it was committed meanwhile."""
    await produce(agent.bootstrap, [Outgoing(agent.topic, b"%d" % n, b"key", (), 0) for n in range(3)])
    gate, started = asyncio.Event(), []

    async def handle(record: Record) -> None:
        started.append(record.offset)
        if record.offset == 0:
            await gate.wait()

    async with agent.consuming(handle, revoke_seconds=0.2):
        await agent.until(lambda: started == [0])
        async with agent.consuming(agent.handle, revoke_seconds=0.2):
            # Both read partition 0 now or after this one has left; let the group come to rest.
            await asyncio.sleep(1)
        others = [offset for *_, offset in agent.seen]
        await asyncio.sleep(1)
        assert others or await agent.committed() == 0
        gate.set()
        await agent.until_committed(3)
    assert started.count(0) == 1
    assert sorted(started + others) == [0, *([0] if others else []), 1, 2]


async def test_without_a_report_nothing_is_committed(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    """The partition waits until the failure is on the brokers; the others and the membership go on."""
    reporter = FailureReporter(agent.bootstrap, agent.group, app_id=agent.app, timeout_seconds=0.5)

    async def handle(record: Record) -> None:
        agent.note(record)
        if (record.partition, record.offset) == (0, 2):
            raise ValueError("not handed over")

    async with reporter, agent.consuming(handle, reporter=reporter, concurrency=1):
        await delete_topic(agent.bootstrap, agent.failures)
        both = [Outgoing(agent.topic, b"", b"k", (), partition) for _ in range(5) for partition in (0, 1)]
        await produce(agent.bootstrap, both)
        await agent.until_committed(2 + 5)
        await agent.until(lambda: "stands still at offset 2" in caplog.text)
        await produce(agent.bootstrap, both)
        await agent.until_committed(2 + 10)
        offsets = await committed_offsets(agent.bootstrap, agent.group)
        assert [offsets[TopicPartition(agent.topic, number)] for number in range(2)] == [2, 10]
        assert [offset for _, partition, offset in agent.seen if partition == 0 and offset >= 5] == []
        await create_topics(agent.bootstrap, agent.failures, partitions=PARTITIONS)
        await agent.until_committed(20)
        (found,) = await read_topic(agent.bootstrap, agent.failures)
    assert parse_failure(found).origin.offset == 2
    assert len(agent.seen) == len(set(agent.seen)) == 20


async def test_what_cannot_be_handed_over_does_not_hold_up_the_end(agent: Agent) -> None:
    """It is not committed, and comes again."""
    reporter = FailureReporter(agent.bootstrap, agent.group, app_id=agent.app, timeout_seconds=0.3)

    async def handle(record: Record) -> None:
        agent.note(record)
        raise ValueError("not handed over")

    async with reporter:
        async with agent.consuming(handle, reporter=reporter):
            await delete_topic(agent.bootstrap, agent.failures)
            await agent.send(1)
            await agent.until(lambda: bool(agent.seen))
            began = time.monotonic()
        assert time.monotonic() - began < 8
    assert await agent.committed() == 0


async def test_who_has_no_room_goes_on_polling(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the group would expel us while handlers take their time; then everything goes on."""
    monkeypatch.setattr(membership_module, "PAUSE_SECONDS", 0.1)
    made: list[Membership] = []
    monkeypatch.setattr(Membership, "poll", lambda self, poll=Membership.poll: made.append(self) or poll(self))
    await agent.send(100, value="{{}}")
    gate = asyncio.Event()

    async def handle(record: Record) -> None:
        await gate.wait()
        agent.note(record)

    async with agent.consuming(handle, partition_records_max=1, concurrency=1):
        await agent.until(lambda: bool(made) and len(made[0]._consumer.paused()) == PARTITIONS)
        for _ in range(10):
            await asyncio.sleep(0.05)
            assert made[0]._consumer._subscription.fetcher_idle_time < 0.5
        gate.set()
        await agent.until_committed(100)
        assert not made[0]._consumer.paused()
    assert len(agent.seen) == len(set(agent.seen)) == 100


async def test_a_consumer_that_breaks_is_replaced(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it joins or while it polls: the next one goes on where the group stands, and handlers go on as well."""
    monkeypatch.setattr(consumer_module, "REJOIN_SECONDS", 0.05)
    start, poll, broken = AIOKafkaConsumer.start, Membership.poll, []

    async def no_start(self: AIOKafkaConsumer) -> None:
        if self._group_id is not None and len(broken) == 0:
            broken.append("start")
            raise KafkaConnectionError("nobody there")
        await start(self)

    async def short_poll(self: Membership) -> None:
        if len(broken) == 1:
            broken.append("poll")
            with suppress(TimeoutError):
                await asyncio.wait_for(poll(self), 1.5)
            raise KafkaError("Unexpected error during coordination")
        await poll(self)

    monkeypatch.setattr(AIOKafkaConsumer, "start", no_start)
    monkeypatch.setattr(Membership, "poll", short_poll)
    await agent.send(500, value="{{}}")

    async def handle(record: Record) -> None:
        await asyncio.sleep(0.05)
        agent.note(record)

    async with agent.consuming(handle):
        await agent.until_committed(500)
    assert broken == ["start", "poll"]
    assert len(agent.seen) == len(set(agent.seen)) == 500


async def test_a_broker_that_is_killed_and_comes_back(kafka_factory: KafkaFactory) -> None:
    """Everything is handled and committed; what is repeated had not been committed."""
    kafka = kafka_factory()
    agent = Agent(kafka.bootstrap)
    await agent.make_topics()
    await agent.send(600)

    async def handle(record: Record) -> None:
        await asyncio.sleep(0.02)
        agent.note(record)
        if record.offset % 10 == 0:
            raise ValueError

    async with agent.consuming(handle, concurrency=4):
        await agent.until(lambda: len(agent.seen) >= 100)
        await asyncio.to_thread(kafka.kill)
        await asyncio.sleep(1)
        await asyncio.to_thread(kafka.start)
        await agent.until_committed(600, 60)
    assert len(set(agent.seen)) == 600
    failed = {each for each in agent.seen if each[2] % 10 == 0}
    events = [parse_failure(record) for record in await read_topic(kafka.bootstrap, agent.failures)]
    assert {(each.origin.topic, each.origin.partition, each.origin.offset) for each in events} == failed


async def test_a_right_that_is_missing_is_named(kafka_factory: KafkaFactory) -> None:
    """The consumer ends, and says who has to be granted what."""
    kafka = kafka_factory(authorizer=True)
    agent = Agent(kafka.bootstrap)
    await agent.make_topics()
    await forbid_reading(kafka.bootstrap, agent.group)
    consumer = RetryConsumer(agent.topic, agent.group, agent.handle, kafka.bootstrap, app_id=agent.app)
    with pytest.raises(NotAllowed, match=f"Read on group {agent.group}"):
        await asyncio.wait_for(consumer.run(), 30)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_is_missing_is_said_at_the_start(agent: Agent, unused_tcp_port: int) -> None:
    """With the fix; and nothing pretends to run."""

    async def run(topic: str, brokers: str, **options: Any) -> None:
        reporter = FailureReporter(brokers, agent.group, timeout_seconds=1, **options)
        await RetryConsumer(topic, agent.group, agent.handle, brokers, reporter=reporter).run()

    with pytest.raises(ConfigurationError, match="topic nowhere does not exist: create it"):
        await run("nowhere", agent.bootstrap, app_id=agent.app)
    with pytest.raises(ConfigurationError, match="dlq-stream init --app-id nobody"):
        await run(agent.topic, agent.bootstrap, app_id="nobody")
    with pytest.raises(BrokersUnavailable, match=str(unused_tcp_port)):
        await run(agent.topic, f"127.0.0.1:{unused_tcp_port}")
    assert asyncio.all_tasks() == {asyncio.current_task()}


def generator(record: Record) -> Iterator[None]:
    yield


async def async_generator(record: Record) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"topics": "a b"}, "topics: 'a b' is not the name of a topic"),
        ({"topics": ["^heat-.*"]}, "patterns are not taken"),
        ({"topics": []}, "topics: none"),
        ({"retry_topics": "heat-retry"}, "retry_topics: 'heat-retry' is one text"),
        ({"group": ""}, "group"),
        ({"handler": None}, "handler"),
        ({"handler": generator}, "`yield`"),
        ({"handler": partial(async_generator)}, "`yield`"),
        ({"queue": ""}, "queue"),
        ({"queue": "\ud800"}, "queue"),
        ({"concurrency": 0}, "concurrency: 0 is not a whole number"),
        ({"concurrency": True}, "concurrency"),
        ({"auto_offset_reset": "none"}, "auto_offset_reset: 'none' is not one of earliest, latest"),
        ({"commit_seconds": 0}, "commit_seconds: 0 is not a number of seconds from 0.05 on"),
        ({"stop_seconds": float("nan")}, "stop_seconds"),
        ({"revoke_seconds": -1}, "revoke_seconds"),
        ({"reporter": FailureReporter("b:1", "others")}, "reporter: is of group 'others'"),
        ({"reporter": FailureReporter("b:1", "agents", outcomes=False)}, "outcomes=False"),
    ],
)
def test_parameters_have_to_make_sense(options: dict[str, Any], fault: str) -> None:
    """Found where they are written."""
    given = {"topics": "heat", "group": "agents", "handler": print, "brokers": "b:1"} | options
    with pytest.raises(ConfigurationError) as caught:
        RetryConsumer(**given)
    assert fault in str(caught.value)


def test_where_retries_may_come() -> None:
    """A policy that cannot be understood names no topic, and takes nothing from the others."""
    policies = {
        b"heat": encode("heat", QueueSettings(retry_topic="{topic}-again-{group}"))[1],
        b"cold": encode("cold", QueueSettings(emit_to="source"))[1],
        b"newer": b'{"format": 2, "policy": {"retry_topic": "{topic}-anew", "of a newer version": 1}}',
        b"odd": b'{"format": 1, "policy": {"retry_topic": "{nobody}"}}',
        b"list": b"[]",
        b"inner": b'{"format": 1, "policy": []}',
        b"text": b"\xff",
        b"number": b'{"format": 1, "policy": {"retry_topic": 7}}',
    }
    topics = ["heat", "cold", "newer", "odd", "list", "inner", "text", "number", "new"]
    usual = {f"{topic}-retry" for topic in topics}
    assert retry_topics.candidates(topics, None, "g", policies) == {*usual, "heat-again-g", "newer-anew"}
    assert retry_topics.candidates(["new"], "heat", "g", policies) == {"new-retry", "new-again-g"}


@pytest.mark.parametrize(
    ("code", "error", "dead"), [(14, GroupLoadInProgressError, 0), (16, NotCoordinatorForGroupError, 1)]
)
async def test_a_coordinator_that_loads_has_not_said_that_nothing_was_committed(
    code: int, error: type[Exception], dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a partition is read from its beginning again, or from its end."""

    class Answer:
        error_code = code
        topics = ()

    class Request:
        API_KEY = 9

    async def answer(self: Any, request: Any) -> Any:
        return Answer()

    monkeypatch.setattr(GroupCoordinator, "_send_req", answer)
    coordinator = _CarefulCoordinator.__new__(_CarefulCoordinator)
    coordinator.group_id = "agents"
    calls: list[int] = []
    monkeypatch.setattr(_CarefulCoordinator, "coordinator_dead", lambda self: calls.append(1))
    with pytest.raises(error) as caught:
        await coordinator._send_req(Request())
    assert (caught.value.retriable, len(calls)) == (True, dead)  # type: ignore[attr-defined]
    Request.API_KEY = 8
    assert (await coordinator._send_req(Request())).error_code == code
