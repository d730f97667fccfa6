"""One partition as an actor: batches of agents and ticks of timers take turns, each is one Kafka transaction.

The order of things is what makes it exactly-once:

1. *Open*: start the partition's transactional producer, which fences the former owner and ends what it left open; only
   then catch the store up with the changelog, which nobody else can write any more (see `tenure`).
2. *Take a turn*: stage on committed state (no I/O but local reads; many records in steps, between which the event loop
   runs), write outputs, changelog records and the consumed offsets in one Kafka transaction, commit it.
3. *Only then* write the store, in one atomic batch with the changelog offsets.  The disk never holds what is not
   committed; what the disk lacks after a crash, the changelog has.

What can go wrong has one answer each:

* A record or a destination is refused: the transaction is void, the refusal is remembered, the same staging runs again
  and decides with it.  A refusal that does not name its record is narrowed down by sending one by one.
* No answer before the commit: back off, start the producer again (fencing ourselves), and make sure that the changelog
  holds nothing that we did not write; stage again.  Nothing is dropped.
* The coordinator went away since the last commit: make sure that the brokers have ended that, before staging.
* No answer to the commit, or anything unexpected: the process ends.  The next start fences, reads, and knows.
* Fenced: if the partition is not ours any more, what was staged is void and somebody else's work; if it is still ours,
  that is unexpected.

This module imports neither Faust nor aiokafka; the simulation runs it over a fake broker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from dlq_stream.core.model import Record
from dlq_stream.core.transaction import Transaction
from dlq_stream.runtime.batches import batches_of
from dlq_stream.runtime.lessons import Lessons
from dlq_stream.runtime.outcomes import (
    NOT_OURS,
    Fatal,
    Identification,
    Input,
    Missed,
    NotOurs,
    Rejected,
    Share,
    Watcher,
    Work,
)
from dlq_stream.runtime.ports import (
    Changelog,
    Clock,
    Destinations,
    Fenced,
    Producer,
    Run,
    Store,
    Unavailable,
)
from dlq_stream.runtime.tenure import BACKOFF_SECONDS_FIRST, BACKOFF_SECONDS_MAX, Tenure
from dlq_stream.runtime.transaction import Bounds, Identity, StagedTransaction
from dlq_stream.runtime.turns import Place, Turns

log = logging.getLogger(__name__)
T = TypeVar("T")

REJECTIONS_MAX = 200
"""Refused tries of one turn before they count as unexpected: each try learns something, so a batch needs fewer."""


async def _known() -> None:
    """For those who cannot be frozen."""


class Partition:
    """The actor.  ``row_bytes_max`` bounds a changelog record; ``still_ours`` asks for the group's current generation.

    A process that was frozen does not know what became of it meanwhile; ``confirm`` asks the brokers first.
    ``staging`` is held while a large batch is staged: of the partitions of a worker one after the other, so that the
    first can be written while the next is staged.
    """

    def __init__(
        self,
        who: Identification,
        *,
        producer: Producer,
        store: Store,
        changelog: Changelog,
        destinations: Destinations,
        clock: Clock,
        row_bytes_max: int,
        still_ours: Callable[[], bool],
        fatal: Fatal,
        confirm: Callable[[], Awaitable[None]] = _known,
        staging: asyncio.Lock | None = None,
    ) -> None:
        self.who = who
        self.number = who.number
        self.expected: dict[str, int] = {}
        self.missed = 0
        self.skipped = 0
        self.watchers: list[Watcher] = []
        self.inputs: list[Input] = []
        self._producer = producer
        self._store = store
        self._destinations = destinations
        self._clock = clock
        self._row_bytes_max = row_bytes_max
        self._tenure = Tenure(
            who.number, producer=producer, changelog=changelog, still_ours=still_ours, confirm=confirm
        )
        self._fatal = fatal
        self._turns = Turns()
        self._staging = staging or asyncio.Lock()
        self._bounds = Bounds()
        self._now_ms = 0
        self._own_prefix = f"{who.app_id}-"
        self._running: set[asyncio.Future[Any]] = set()
        producer.when_in_doubt(self._make_sure)

    # --- life ---------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether no turn is taken any more."""
        return self._tenure.closed

    async def open(self) -> int:
        """Fence former owners, then catch up with the changelog; returns how many rows that took."""
        async with self._turns.turn():
            return await self._tenure.begin()

    async def close(self) -> None:
        """Let the running turn finish or give up, start no other, and release producer and store."""
        self._tenure.closed = True
        async with self._turns.turn(urgent=True):
            await self._producer.stop()
            self._store.close()

    def now_ms(self) -> int:
        """The worker's clock, never backwards while the partition is owned."""
        self._now_ms = max(self._now_ms, self._clock.now_ms())
        return self._now_ms

    def committed(self, key: bytes) -> bytes | None:
        """A committed value of the store by its tagged key, for readers outside of turns."""
        return None if self.closed else self._store.get_many([key])[0]

    def committed_rows(self, tag: bytes, chunk: int = 1000) -> Iterator[tuple[bytes, bytes]]:
        """Committed rows under a tag, in key order, without it; read in chunks, so not one snapshot."""
        start, stop = tag, tag[:-1] + bytes((tag[-1] + 1,))
        while not self.closed and (found := self._store.scan(start, stop, chunk)):
            for key, value in found:
                yield key[len(tag) :], value
            start = found[-1][0] + b"\0"

    # --- turns --------------------------------------------------------------------------------------------------

    async def consume(
        self, topic: str, run: Run, apply: Callable[[Transaction, Sequence[Record]], T], *, step: int | None = None
    ) -> T | NotOurs | Missed:
        """One turn over records of one source topic; the position after them is part of the transaction.

        They are applied ``step`` at a time (all at once by default), and the event loop runs in between.

        A run that begins before the expected position was delivered again: what is known is left out.  One that begins
        beyond it follows a run that never arrived: `Missed` says where to read from instead, and nothing is done.
        """

        def work() -> Work[T] | Missed | None:
            expected = self.expected.get(topic, run.start)
            if run.start > expected:
                self.missed += 1
                return Missed(topic, self.number, expected)
            if run.stop <= expected:
                self.skipped += len(run.records)
                return None
            fresh = run.records
            if run.start < expected:
                fresh = [record for record in fresh if record.offset >= expected]
                self.skipped += len(run.records) - len(fresh)
            return [partial(_apply_to, apply, piece) for piece in _pieces(fresh, step)], {topic: run.stop}

        many = step is not None and len(run.records) > step
        return await self._shielded(work, urgent=False, many=many)

    async def run(
        self, stage: Callable[[Transaction], T], *, urgent: bool = False, with_input: bool = False
    ) -> T | NotOurs:
        """One turn of a timer: a tick.

        With ``with_input`` it takes along what little input waits, which is staged first; a transaction costs the same
        whatever is in it.
        """
        shares: list[Share] = []

        def work() -> Work[T]:
            if with_input:
                shares.extend(share for each in self.inputs if (share := each.share(self.expected)) is not None)
            if not shares:
                return [stage], {}
            return [partial(_stage_with, shares, stage)], {share.topic: share.run.stop for share in shares}

        def over() -> None:
            for share in shares:
                share.over()

        result = await self._shielded(work, urgent=urgent, many=False, over=over)
        assert not isinstance(result, Missed)  # what is shared begins where it should
        return result

    async def _shielded(
        self,
        work: Callable[[], Work[T] | Missed | None],
        *,
        urgent: bool,
        many: bool,
        over: Callable[[], None] = lambda: None,
    ) -> T | NotOurs | Missed:
        """Cancelling the caller (an agent at a rebalance) must not cancel a commit half-way."""
        turn = self._begin(self._take_turn(work, urgent, many))
        turn.add_done_callback(lambda _: over())
        return await asyncio.shield(turn)

    def _begin(self, turn: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        running = asyncio.ensure_future(turn)
        self._running.add(running)  # the event loop itself holds tasks weakly
        running.add_done_callback(self._running.discard)
        return running

    def _make_sure(self) -> None:
        """Take a turn without work, at the beginning of which doubts are cleared up: maybe nothing else comes soon."""
        self._begin(self._take_turn(lambda: None, urgent=True, many=False))

    async def _take_turn(
        self, work: Callable[[], Work[T] | Missed | None], urgent: bool, many: bool
    ) -> T | NotOurs | Missed:
        place = Place(self._staging)
        if many:
            await place.take()
            if self._turns.taken:
                place.leave()
        async with place, self._turns.turn(urgent=urgent):
            if self.closed:
                return NOT_OURS
            try:
                if self._producer.in_doubt:
                    place.leave()
                    if not await self._tenure.renew():
                        return NOT_OURS
                todo = work()
                if todo is None:
                    return NOT_OURS
                return todo if isinstance(todo, Missed) else await self._transact(*todo, place)
            except Fenced as error:
                if await self._tenure.lost_for_sure():
                    return NOT_OURS
                self._fatal(f"partition {self.number} was fenced while it is ours", error)
            except Exception as error:
                self._fatal(f"turn of partition {self.number}", error)

    async def _transact(
        self, steps: Sequence[Callable[[Transaction], T]], offsets: Mapping[str, int], place: Place
    ) -> T | NotOurs:
        """Stage and commit, again after refusals and silence, until committed or not ours any more."""
        lessons = Lessons(self._destinations, self._own_prefix)
        rejections, pause = 0, BACKOFF_SECONDS_FIRST
        while rejections < REJECTIONS_MAX:
            staged = await self._stage(steps, lessons.refused, place)
            if staged is None:
                return NOT_OURS
            tx, result = staged
            try:
                await self._commit(tx, offsets, lessons.one_by_one)
                self.expected.update(offsets)
                return result
            except Rejected as rejected:
                rejections += 1
                await lessons.learn(tx, rejected)
            except Unavailable as error:
                log.warning("partition %d: no answer from the brokers, trying again: %s", self.number, error)
                if not self.closed:
                    await lessons.look_for_the_silent(tx, error)
                await self._tenure.rest(pause)
                pause = min(pause * 2, BACKOFF_SECONDS_MAX)
            if not await self._tenure.renew():
                return NOT_OURS
        raise RuntimeError(f"partition {self.number}: {REJECTIONS_MAX} tries of one turn were refused")

    async def _stage(
        self, steps: Sequence[Callable[[Transaction], T]], refused: Mapping[Identity, str], place: Place
    ) -> tuple[StagedTransaction, T] | None:
        """A transaction with these steps taken, and the result of the last one; None once the partition is closed."""
        if len(steps) > 1:
            await place.take()
        async with place:
            tx = self._new_transaction(refused)
            for number, step in enumerate(steps):
                if number:
                    await asyncio.sleep(0)
                if self.closed:  # meanwhile, or while others were staged: whoever closes waits for all of these turns
                    return None
                result = step(tx)
            tx.finish()
        if tx.store_error is not None:
            raise tx.store_error
        return tx, result

    def _new_transaction(self, refused: Mapping[Identity, str]) -> StagedTransaction:
        return StagedTransaction(
            partition=self.number,
            partitions=self.who.partitions,
            now_ms=self.now_ms(),
            store=self._store,
            bounds=self._bounds,
            destinations=self._destinations,
            row_bytes_max=self._row_bytes_max,
            refused=refused,
        )

    # --- commit -------------------------------------------------------------------------------------------------

    async def _commit(self, tx: StagedTransaction, offsets: Mapping[str, int], one_by_one: set[str]) -> None:
        if not tx.empty or offsets:
            batches, tables = batches_of(tx, self.who.app_id, self._row_bytes_max, one_by_one)
            written = await self._producer.write(batches, offsets)
            if written.refusals:
                raise Rejected(written.refusals, batches)
            await self._producer.commit()
            last = dict(zip(tables, written.last_offsets[len(batches) - len(tables) :], strict=True))
            if last:
                self._store.write(tx.changes(), last, tx.now_ms)
            self._committed(tx)
        for effect in tx.effects:
            effect()

    def _committed(self, tx: StagedTransaction) -> None:
        for index, entries in tx.index_writes.items():
            for key, present in entries.items():
                if present:
                    self._bounds.fall(index, key)
        for watcher in self.watchers:
            watcher.committed(tx)


def _pieces(records: Sequence[Record], size: int | None) -> list[Sequence[Record]]:
    """At most ``size`` records each; one piece at least."""
    if size is None or len(records) <= size:
        return [records]
    return [records[at : at + size] for at in range(0, len(records), size)]


def _stage_with(shares: Sequence[Share], stage: Callable[[Transaction], T], tx: Transaction) -> T:
    for share in shares:
        share.apply(tx, share.run.records)
    return stage(tx)


def _apply_to(apply: Callable[[Transaction, Sequence[Record]], T], records: Sequence[Record], tx: Transaction) -> T:
    return apply(tx, records)
