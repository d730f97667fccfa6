"""Transactions that a real broker decided and never ended: they are ended as they were decided, and nothing else is.

A broker forgets that only when it is killed within a few milliseconds.  Here it never learns what it should end: with
``transaction.partition.verification.enable`` off it lets a producer write to partitions that it has not added to its
transaction, and the commit that follows (a repetition of the one before, as far as the broker knows) marks none.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason

from dlq_stream.core.transaction import Transaction
from dlq_stream.runtime import settlement
from dlq_stream.runtime.output_notes import outputs_in
from dlq_stream.runtime.ports import OutcomeUnknown, Run
from dlq_stream.tables import messages
from tests.contract.kafka_harness import KafkaSubject, create_changelogs
from tests.kafka_clients import committed_offsets, create_topics, delete_topic, read_topic
from tests.kafka_fixture import LocalKafka, local_kafka, unique_name
from tests.memory import FakeRecord
from tests.runtime.fakes import key, row

SETTLED_SECONDS_MAX = 20.0


@pytest.fixture(scope="module")
def unguarded() -> Iterator[LocalKafka]:
    """A broker that takes transactional records for partitions which are not part of the transaction."""
    with local_kafka(transaction_partition_verification_enable="false") as broker:
        yield broker


class Scene:
    """An app, a destination and an input topic of its own."""

    def __init__(self, bootstrap: str, directory: Path) -> None:
        self.bootstrap = bootstrap
        self.directory = directory
        self.app_id = unique_name("hanging")
        self.target, self.input = unique_name("target"), unique_name("input")
        self._opened: list[KafkaSubject] = []

    async def open(self, disk: str) -> KafkaSubject:
        subject = KafkaSubject(self.bootstrap, self.app_id, self.directory / disk)
        self._opened.append(subject)
        await subject.cache.look_up({self.target})
        await subject.open()
        return subject

    async def take(self, subject: KafkaSubject, number: int) -> None:
        """One record of the input: it becomes a row, and goes out."""

        def apply(tx: Transaction, records: Any) -> None:
            tx.put("messages", key(number), row(due_ms=number))
            tx.send(self.target, b"k", b"%d" % number, (), partition=1)

        record = FakeRecord(self.input, 0, number, value=b"x")
        await subject.actor.consume(self.input, Run(number, number + 1, [record]), apply)

    async def until_visible(self, *values: bytes) -> None:
        """Wait until readers see these outputs, and the group reads on behind as many records; at most so long."""
        wanted = [*values], len(values)
        deadline = time.monotonic() + SETTLED_SECONDS_MAX
        while (found := await self._visible()) != wanted:  # a commit returns before its markers are written
            assert time.monotonic() < deadline, f"{found}, not {wanted}"

    async def _visible(self) -> tuple[list[bytes | None], int]:
        offsets = await committed_offsets(self.bootstrap, self.app_id)
        seen = [record.value for record in await read_topic(self.bootstrap, self.target, settled=False)]
        return seen, offsets.get(TopicPartition(self.input, 0), 0)

    async def rows(self, subject: KafkaSubject) -> list[bytes]:
        found = await subject.scan("messages", b"", b"\xff" * 17, 100)
        return [id_ for id_, _ in found]

    async def close(self) -> None:
        for subject in self._opened:
            if not subject.actor.closed:
                await subject.close()


@pytest_asyncio.fixture
async def scene(unguarded: LocalKafka, tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene(unguarded.bootstrap, tmp_path)
    await create_changelogs(made.bootstrap, made.app_id)
    await create_topics(made.bootstrap, made.target, made.input, partitions=2)
    yield made
    await made.close()


def manager_of(subject: KafkaSubject) -> Any:
    return subject.actor._producer._producer._txn_manager  # type: ignore[attr-defined]


async def forget(subject: KafkaSubject, *, offsets: bool = True, only: str = "") -> None:
    """From now on the broker is not told what this producer's transactions write to: offsets, and topics, or one."""
    while await settlement._is_ending(subject.actor._producer._producer):  # type: ignore[attr-defined]
        pass  # those before are over
    manager = manager_of(subject)
    began, add = manager.begin_transaction, manager.maybe_add_partition_to_txn

    def forget_partition(place: TopicPartition) -> None:
        if only in ("", place.topic):
            manager._txn_partitions.add(place)
        else:
            add(place)

    def begin() -> None:
        began()
        manager._txn_consumer_group = subject.app_id

    manager.maybe_add_partition_to_txn = forget_partition
    if offsets:
        manager.consumer_group_to_add = lambda: None
        manager.begin_transaction = begin


async def abort_one(subject: KafkaSubject, topic: str) -> None:
    """A transaction that the broker ends by aborting it, properly."""
    producer = subject.actor._producer._producer  # type: ignore[attr-defined]
    await producer.begin_transaction()
    await producer.send_and_wait(topic, b"aborted", partition=0)
    await producer.abort_transaction()


async def break_connections(subject: KafkaSubject) -> None:
    """As when the coordinator is killed."""
    connections = subject.actor._producer._producer.client._conns  # type: ignore[attr-defined]
    for (_, group), connection in list(connections.items()):
        if group is ConnectionGroup.COORDINATION:
            connection.close(reason=CloseReason.CONNECTION_BROKEN)


async def test_what_was_committed_is_committed_before_anything_else_happens(scene: Scene) -> None:
    """Outputs, rows and offsets: all of them, once; a worker that found none of it would do the work again."""
    former = await scene.open("former")
    await scene.take(former, 0)
    await forget(former)
    await scene.take(former, 1)
    await scene.until_visible(b"0")
    owner = await scene.open("new")
    await scene.until_visible(b"0", b"1")
    assert await scene.rows(owner) == [key(0), key(1)]
    await scene.take(owner, 2)
    await scene.until_visible(b"0", b"1", b"2")


async def test_what_was_aborted_is_aborted(scene: Scene) -> None:
    """It may not be all there, and its work is going to be done again."""
    former = await scene.open("former")
    await scene.take(former, 0)
    await abort_one(former, scene.target)
    await forget(former)
    with pytest.raises(OutcomeUnknown):  # the broker has decided otherwise; a worker ends here
        await scene.take(former, 1)
    owner = await scene.open("new")
    assert await scene.rows(owner) == [key(0)]
    await scene.take(owner, 1)
    await scene.until_visible(b"0", b"1")


async def test_who_lost_its_coordinator_makes_sure_without_being_asked(scene: Scene) -> None:
    """What hangs may be what nothing else of this partition follows for hours."""
    subject = await scene.open("kept")
    await scene.take(subject, 0)
    await forget(subject)
    await scene.take(subject, 1)
    await break_connections(subject)
    await scene.until_visible(b"0", b"1")
    await scene.take(subject, 2)
    await scene.until_visible(b"0", b"1", b"2")
    assert await scene.rows(subject) == [key(0), key(1), key(2)]


@pytest.mark.parametrize("what", ["offsets", "outputs"])
async def test_a_part_alone_may_be_what_hangs(scene: Scene, what: str) -> None:
    """Changelogs are as they should be then, and tell where outputs are; the input would be read twice."""
    former = await scene.open("former")
    await scene.take(former, 0)
    await forget(former, offsets=what == "offsets", only=scene.target if what == "outputs" else "nothing")
    await scene.take(former, 1)
    owner = await scene.open("new")
    await scene.until_visible(b"0", b"1")
    assert await scene.rows(owner) == [key(0), key(1)]


async def test_what_a_store_holds_was_committed(scene: Scene) -> None:
    """Should the decision be forgotten as well, since somebody fenced and got no further."""
    former = await scene.open("kept")
    await scene.take(former, 0)
    await forget(former)
    await scene.take(former, 1)
    await former.actor._producer.start()
    await former.close()
    owner = await scene.open("kept")
    await scene.until_visible(b"0", b"1")
    assert await scene.rows(owner) == [key(0), key(1)]


async def test_a_destination_that_is_gone_holds_nothing_up(scene: Scene) -> None:
    """The rest is ended."""
    former = await scene.open("former")
    await scene.take(former, 0)
    await forget(former)
    await scene.take(former, 1)
    await delete_topic(scene.bootstrap, scene.target)
    owner = await scene.open("new")
    assert await scene.rows(owner) == [key(0), key(1)]
    assert (await committed_offsets(scene.bootstrap, scene.app_id))[TopicPartition(scene.input, 0)] == 2


async def test_what_hangs_is_noted_in_the_changelog(scene: Scene) -> None:
    """A row of it, by itself, tells where its transaction wrote to."""
    subject = await scene.open("kept")
    await scene.take(subject, 0)
    records = await read_topic(scene.bootstrap, messages.TABLE.changelog(scene.app_id))
    [record] = [record for record in records if record.key == key(0)]
    assert outputs_in(record.headers) == {(scene.target, 1)}
