"""Planted bugs, one per mechanism: what the checkers must catch, or they prove nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar
from unittest import mock

from dlq_stream.core.lifecycle import Standing, State, standing
from dlq_stream.runtime.partition import Partition
from dlq_stream.runtime.ports import Fenced, Latest, OutcomeUnknown
from dlq_stream.runtime.transaction import Bounds, Identity, StagedTransaction
from tests.simulation.changelog import SimFollower, UncommittedReader
from tests.simulation.course import simulate
from tests.simulation.names import ANY_CONDITIONS, Conditions
from tests.simulation.outcome import Outcome
from tests.simulation.producer import SimProducer


@dataclass(frozen=True)
class Bug:
    """A partition or a follower that is wrong, another verdict on what is news, or what is not done; when it shows."""

    partition: type[Partition] = Partition
    follower: type[SimFollower] = SimFollower
    standing: Callable[[State, int, int], Standing] = standing
    omitted: str | None = None
    conditions: Conditions = ANY_CONDITIONS

    def simulate(self, seed: int) -> Outcome:
        """One run with the bug in it."""
        omitted = mock.patch(self.omitted) if self.omitted else nullcontext()
        with mock.patch("dlq_stream.engine.failures.standing", self.standing), omitted:
            return simulate(
                seed, partition_type=self.partition, follower_type=self.follower, conditions=self.conditions
            )


class StoreBeforeCommit(Partition):
    """The disk is written when the records are, before anybody knows whether they will be committed."""

    async def _commit(self, tx: StagedTransaction, offsets: Mapping[str, int], one_by_one: set[str]) -> None:
        producer = self._producer
        store = self._store

        class Impatient:
            async def write(self, batches: Any, offsets: Mapping[str, int]) -> Any:
                written = await producer.write(batches, offsets)
                tables = [table for table, rows in tx.writes.items() if rows]
                if tables and not written.refusals:
                    last = written.last_offsets[len(batches) - len(tables) :]
                    store.write(tx.changes(), dict(zip(tables, last, strict=True)), tx.now_ms)
                return written

            async def commit(self) -> None:
                await producer.commit()

        self._producer = Impatient()  # type: ignore[assignment]
        try:
            await super()._commit(tx, offsets, one_by_one)
        finally:
            self._producer = producer


class BoundKept(Partition):
    """Where the first due entry was is remembered beyond the loss of the partition."""

    _kept: ClassVar[dict[tuple[Any, int], Bounds]] = {}

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        process = options["producer"]._life
        self._bounds = self._kept.setdefault((process, self.number), Bounds())


class OffsetsBeforeState(Partition):
    """What was read is committed first, and what follows from it in a transaction of its own."""

    async def _commit(self, tx: StagedTransaction, offsets: Mapping[str, int], one_by_one: set[str]) -> None:
        if offsets:
            await self._producer.write([], offsets)
            await self._producer.commit()
        await super()._commit(tx, {}, one_by_one)


def every_failure_is_news(state: State, row_attempt: int, event_attempt: int) -> Standing:
    """A failure that was heard of before is applied once more, where the lifecycle lets it."""
    stands = standing(state, row_attempt, event_attempt)
    open_again = state in (State.RETRYING, State.PRESUMED)
    return Standing.CURRENT if stands is Standing.DUPLICATE and open_again else stands


class TimerOfLostPartition(Partition):
    """An emission that is fenced starts the producer again, and goes out whoever owns the partition."""

    _emit: Any = None

    async def run(self, stage: Any, *, urgent: bool = False, with_input: bool = False) -> Any:
        if urgent:
            self._emit = stage
        return await super().run(stage, urgent=urgent, with_input=with_input)

    async def _transact(self, steps: Any, *turn: Any) -> Any:
        while True:
            try:
                return await super()._transact(steps, *turn)
            except Fenced:
                if self._emit not in (steps[0], *getattr(steps[0], "args", ())):  # alone, or with input
                    raise
                await self._tenure.patiently(self._producer.start)


class MovedTwice(Partition):
    """A tick emits what input of the same transaction has just moved."""

    def _new_transaction(self, refused: Mapping[Identity, str]) -> StagedTransaction:
        tx = super()._new_transaction(refused)
        tx.written = lambda table: frozenset()  # type: ignore[method-assign]
        return tx


class BoundNeverFalls(Partition):
    """An entry that is due earlier than all others does not move the scan bound back."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._bounds.fall = lambda index, key: None  # type: ignore[method-assign]


class RestoredBeforeFenced(Partition):
    """The changelog is read while the former owner can still write to it."""

    async def open(self) -> int:
        tenure = self._tenure
        async with self._turns.turn():
            rows = await tenure.patiently(tenure._changelog.catch_up)
            await tenure.patiently(self._producer.start)
            return rows


class ForeignRowsAccepted(Partition):
    """After silence the partition goes on, whoever owned it meanwhile."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._tenure.renew = self._renew  # type: ignore[method-assign]

    async def _renew(self) -> bool:
        await self._tenure.begin()
        return not self.closed


class NeverSettles(SimProducer):
    """It fences, and takes for ended what was decided."""

    async def settle(self, latest: Latest) -> None:
        return


class HangingLeft(Partition):
    """What the brokers decided and never ended is left as it is; the work is done again."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._producer.__class__ = NeverSettles


class WrittenInDoubt(Partition):
    """A producer whose coordinator went away goes on with the next one, as aiokafka's does."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._producer.__class__ = NeverInDoubt


class NeverInDoubt(SimProducer):
    """It notices nothing."""

    in_doubt = False  # type: ignore[assignment]


class GapsAccepted(Partition):
    """A run that does not begin where the former one ended is taken as it comes."""

    async def consume(self, topic: str, *run: Any, **options: Any) -> Any:
        self.expected.pop(topic, None)
        return await super().consume(topic, *run, **options)


class SilenceIsSuccess(Partition):
    """No answer to a commit is taken for a commit."""

    async def _commit(self, tx: StagedTransaction, offsets: Mapping[str, int], one_by_one: set[str]) -> None:
        try:
            await super()._commit(tx, offsets, one_by_one)
        except OutcomeUnknown:
            await self._tenure.patiently(self._producer.start)


class FollowsUncommitted(SimFollower):
    """A copy takes what the owner has not committed, or never will."""

    reader = UncommittedReader


class OffsetsBeforeRows(SimFollower):
    """A copy writes how far it is, and in a write of its own what it has read."""

    def _apply(self, table: str, records: list[Any]) -> int:
        self._store.write({}, {table: records[-1].offset}, self._as_of_ms)
        return super()._apply(table, records)


RESTARTS = Conditions(weights={"forgetful_brokers": 5, "brokers_away": 3})

BUGS: Mapping[str, Bug] = {
    "disk written before commit": Bug(StoreBeforeCommit),
    "scan bound kept across reassignment": Bug(BoundKept),
    "offset committed without its state": Bug(OffsetsBeforeState),
    "duplicate event applied": Bug(standing=every_failure_is_news),
    "timer emitting for a lost partition": Bug(TimerOfLostPartition),
    "a message moved twice in a transaction": Bug(MovedTwice),
    "scan bound never falls": Bug(BoundNeverFalls),
    "restored before the former owner is fenced": Bug(RestoredBeforeFenced),
    "foreign rows accepted after silence": Bug(ForeignRowsAccepted),
    "gaps in the input accepted": Bug(GapsAccepted),
    "silence taken for a commit": Bug(SilenceIsSuccess),
    "hanging transaction left behind": Bug(HangingLeft, conditions=RESTARTS),
    "written in doubt": Bug(WrittenInDoubt, conditions=RESTARTS),
    "how far a limit is used up is forgotten": Bug(omitted="dlq_stream.engine.pacing.Pacing.save"),
    "copy of what is not committed": Bug(follower=FollowsUncommitted),
    "copy's offset written apart from its rows": Bug(follower=OffsetsBeforeRows),
}
