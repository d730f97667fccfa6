"""The transactional producer of a partition, over the fake broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence

from dlq_stream.runtime.ports import Batch, Fenced, Latest, OutcomeUnknown, OutRecord, Refusal, Unavailable, Written
from tests.simulation.broker import (
    BatchRefused,
    Broker,
    Concurrent,
    ConnectionBroken,
    NoSuchTopic,
    ProducerFenced,
    TopicSilent,
    Txn,
)
from tests.simulation.life import ANSWER_SECONDS_MAX, Life, NoAnswer

PAUSE_SECONDS = 0.05
"""Before a request is repeated that came while the former transaction was being completed."""


class SimProducer:
    """`dlq_stream.runtime.ports.Producer`.

    What arrives in a transaction arrives in any order, now and then in two parts between which other things happen.
    """

    def __init__(
        self,
        life: Life,
        broker: Broker,
        transactional_id: str,
        partition: int,
        missing: Callable[[Collection[str]], Awaitable[bool]],
    ) -> None:
        self._life = life
        self._broker = broker
        self._id = transactional_id
        self._partition = partition
        self._missing = missing
        self._epoch = -1
        self._txn: Txn | None = None
        self._incarnation = broker.incarnation
        self._committed_last = False
        self._told: Callable[[], None] = lambda: None
        broker.restarted.append(self._broken)

    @property
    def in_doubt(self) -> bool:
        return self._incarnation != self._broker.incarnation

    def when_in_doubt(self, told: Callable[[], None]) -> None:
        self._told = told

    def _broken(self) -> None:
        """The connection breaks; a process that sleeps hears of it later."""
        if self._life.dead:
            self._broker.restarted.remove(self._broken)
        else:
            self._life.spawn(self._hear())

    async def _hear(self) -> None:
        await self._life.awake()
        self._told()

    def _count(self, what: str) -> None:
        self._life.world.outcome.figures[what] += 1

    async def start(self) -> None:
        self._count("producers started again" if self._epoch >= 0 else "producers started")
        self._txn = None
        self._incarnation = self._broker.incarnation
        time = self._life.world.loop.time
        deadline = time() + 2 * ANSWER_SECONDS_MAX
        while time() < deadline:
            try:
                self._epoch, self._committed_last = await self._life.request("fence", self._fence)
                return
            except Concurrent:
                await asyncio.sleep(PAUSE_SECONDS)
            except NoAnswer as error:
                raise Unavailable(str(error)) from error
        raise Unavailable("fencing takes too long")

    def _fence(self) -> tuple[int, bool]:
        return self._broker.init_producer(self._id), self._broker.committed_last(self._id)

    async def settle(self, latest: Latest) -> None:
        commit, epoch = self._committed_last, self._epoch  # a request that arrives late has what it was sent with
        if latest.hangs:
            self._count(f"hanging transactions {'committed' if commit else 'aborted'}")
        try:
            await self._life.request(
                "settle", lambda: self._broker.settle(self._id, epoch, latest.outputs, commit=commit)
            )
            completing = True
            while completing:
                await asyncio.sleep(PAUSE_SECONDS)
                completing = await self._life.request("settle", lambda: self._broker.completing(self._id))
        except ProducerFenced as error:
            raise Fenced(str(error)) from error
        except (NoAnswer, Concurrent) as error:
            raise Unavailable(str(error)) from error

    # --- a transaction ------------------------------------------------------------------------------------------

    async def write(self, batches: Sequence[Batch], offsets: Mapping[str, int]) -> Written:
        deadline = self._life.world.loop.time() + ANSWER_SECONDS_MAX
        while True:
            try:
                return await self._write(_Writing(batches, offsets, self._epoch))
            except ProducerFenced as error:
                self._count("writes fenced")
                raise Fenced(str(error)) from error
            except (NoAnswer, ConnectionBroken) as error:
                raise Unavailable(str(error)) from error
            except TopicSilent as error:
                self._count("destinations silent")
                await asyncio.sleep(ANSWER_SECONDS_MAX)
                await self._life.awake()
                raise Unavailable(f"silent: {error}", {str(error)}) from error
            except NoSuchTopic as error:
                await self._missing({batch.topic for batch in batches if not _is_rows(batch)})
                raise Unavailable(f"gone: {error}") from error
            except Concurrent as error:
                await asyncio.sleep(PAUSE_SECONDS)
                if self._life.world.loop.time() > deadline:
                    raise Unavailable(str(error)) from error

    async def _write(self, writing: _Writing) -> Written:
        life, random = self._life, self._life.random
        todo = [*range(len(writing.batches)), *([_OFFSETS] if writing.offsets else [])]
        random.shuffle(todo)
        cut = random.randrange(len(todo) + 1) if random.random() < 0.1 else len(todo)
        await life.request("write", lambda: self._arrive(writing, todo[:cut]))
        if cut < len(todo):
            self._count("writes in two parts")
            await life.request("write", lambda: self._arrive(writing, todo[cut:]))
        self._txn = writing.txn
        answers = [writing.answers[number] for number in range(len(writing.batches))]
        refusals = [answer for answer in answers if isinstance(answer, Refusal)]
        for refusal in refusals:
            self._count(_kind(refusal))
        return Written([answer for answer in answers if isinstance(answer, int)], refusals)

    def _arrive(self, writing: _Writing, todo: Sequence[int]) -> None:
        """What the brokers do with it; the sender may die between any two of them."""
        if self.in_doubt:
            raise ConnectionBroken("the brokers were started again")
        if writing.txn is None:
            writing.txn = self._broker.begin(self._id, writing.epoch, self._life.name)
            self._may_die("write: begun")
        for number in todo:
            if number == _OFFSETS:
                places = {(topic, self._partition): offset for topic, offset in writing.offsets.items()}
                self._broker.add_offsets(writing.txn, places)
                self._may_die("write: after the offsets")
            else:
                batch = writing.batches[number]
                writing.answers[number] = self._append(writing.txn, batch)
                self._may_die("write: after rows" if _is_rows(batch) else "write: after an output")

    def _may_die(self, where: str) -> None:
        if not self._life.dead:
            self._life.point(where)

    def _append(self, txn: Txn, batch: Batch) -> int | Refusal:
        last, refused, reason = -1, [], ""
        for first, records in _record_batches(batch, self._life.random.randint(1, 6)):
            try:
                last = self._broker.append(txn, batch.topic, batch.partition, records)
            except BatchRefused as refusal:
                if not refusal.positions:
                    return Refusal(batch.topic, batch.partition, refusal.reason)
                refused += [first + position for position in refusal.positions]
                reason = refusal.reason
        return Refusal(batch.topic, batch.partition, reason, tuple(refused)) if refused else last

    async def commit(self) -> None:
        txn = self._txn
        assert txn is not None
        self._txn = None
        try:
            await self._life.request("commit", lambda: self._broker.commit(txn))
            if self.in_doubt and self._life.random.random() < 0.5:
                raise NoAnswer("commit: the answer was lost when the brokers fell")
        except ProducerFenced as error:
            self._count("commits fenced")
            raise Fenced(str(error)) from error
        except NoAnswer as error:
            self._count(f"commits without an answer, {txn.state} so far")
            raise OutcomeUnknown(str(error)) from error

    async def stop(self) -> None:
        self._life.point("stop producer")


_OFFSETS = -1


class _Writing:
    """One transaction on its way, with the epoch that its sender had."""

    def __init__(self, batches: Sequence[Batch], offsets: Mapping[str, int], epoch: int) -> None:
        self.batches = batches
        self.offsets = offsets
        self.epoch = epoch
        self.txn: Txn | None = None
        self.answers: dict[int, int | Refusal] = {}


def _is_rows(batch: Batch) -> bool:
    return batch.topic.endswith("-changelog")


def _kind(refusal: Refusal) -> str:
    """What there is to learn from a refusal."""
    kinds = {0: "destinations refused", 1: "records refused"}
    return kinds.get(len(refusal.records), "refusals to be narrowed down")


def _record_batches(batch: Batch, records_max: int) -> Iterator[tuple[int, Sequence[OutRecord]]]:
    """The records cut into record batches, with the position of the first of each."""
    size = 1 if batch.one_by_one else records_max
    for first in range(0, len(batch.records), size):
        yield first, batch.records[first : first + size]
