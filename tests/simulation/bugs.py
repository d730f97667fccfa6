"""Planted bugs, one per mechanism: what the checkers must catch, or they prove nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dlq_stream.runtime.partition import Partition
from dlq_stream.runtime.ports import OutcomeUnknown
from dlq_stream.runtime.transaction import Bounds, StagedTransaction
from tests.simulation.names import Conditions


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


class OffsetsBeforeState(Partition):
    """What was read is committed first, and what follows from it in a transaction of its own."""

    async def _commit(self, tx: StagedTransaction, offsets: Mapping[str, int], one_by_one: set[str]) -> None:
        if offsets:
            await self._producer.write([], offsets)
            await self._producer.commit()
        await super()._commit(tx, {}, one_by_one)


class BoundKept(Partition):
    """Where the first due entry was is remembered beyond the loss of the partition."""

    _kept: ClassVar[dict[tuple[Any, int], Bounds]] = {}

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        process = options["producer"]._life
        self._bounds = self._kept.setdefault((process, self.number), Bounds())


class BoundNeverFalls(Partition):
    """An entry that is due earlier than all others does not move the scan bound back."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._bounds.fall = lambda index, key: None  # type: ignore[method-assign]


class RestoredBeforeFenced(Partition):
    """The changelog is read while the former owner can still write to it."""

    async def open(self) -> int:
        async with self._turns.turn():
            rows = await self._patiently(self._changelog.catch_up)
            await self._patiently(self._producer.start)
            return rows


class ForeignRowsAccepted(Partition):
    """After silence the partition goes on, whoever owned it meanwhile."""

    async def _start_again(self) -> bool:
        await self._patiently(self._producer.start)
        await self._patiently(self._changelog.catch_up)
        return not self.closed


class GapsAccepted(Partition):
    """A run that does not begin where the former one ended is taken as it comes."""

    async def consume(self, topic: str, run: Any, apply: Any) -> Any:
        self.expected.pop(topic, None)
        return await super().consume(topic, run, apply)


class SilenceIsSuccess(Partition):
    """No answer to a commit is taken for a commit."""

    async def _commit(self, tx: StagedTransaction, offsets: Mapping[str, int], one_by_one: set[str]) -> None:
        try:
            await super()._commit(tx, offsets, one_by_one)
        except OutcomeUnknown:
            await self._patiently(self._producer.start)


SILENCE = Conditions(losses=0.02)
MOVES = Conditions(doom=False, weights={"move": 20, "kill": 0.5, "stop": 0.5, "freeze": 0, "brokers_away": 0})

BUGS: Mapping[type[Partition], Conditions] = {
    StoreBeforeCommit: Conditions(),
    OffsetsBeforeState: Conditions(),
    BoundKept: MOVES,
    BoundNeverFalls: Conditions(),
    RestoredBeforeFenced: Conditions(),
    ForeignRowsAccepted: SILENCE,
    GapsAccepted: Conditions(),
    SilenceIsSuccess: SILENCE,
}
"""Each with the conditions under which it shows soonest."""
