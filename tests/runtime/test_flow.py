"""Flow control as a whole: what is polled, held and processed while one partition gets no answer."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from types import SimpleNamespace

from faust.types import TP

from dlq_stream.core.model import Record
from dlq_stream.core.transaction import Transaction
from dlq_stream.runtime.consumer import Consumer
from dlq_stream.runtime.feed import BatchLimits
from dlq_stream.runtime.owner import Owner, Poll
from dlq_stream.runtime.partition import Partition
from dlq_stream.runtime.ports import Run
from tests.runtime.fakes import INPUT, Destinations, Scene, fatal, in_virtual_time, run_of

RECORDS = 400
"""So many are in each partition."""
POLLED = 10
"""So many records of a partition come with one poll."""


class Plant:
    """The real consumer's polling, the real owner and feeds; logs and brokers are played."""

    def __init__(self, limits: BatchLimits) -> None:
        self.scenes: dict[int, Scene] = {}
        self.positions: dict[int, int] = {}
        self.held_max = 0
        self.owner = Owner(
            new_partition=self._new_partition, seek=self._seek, destinations=Destinations(), limits=limits, fatal=fatal
        )
        self.consumer = object.__new__(Consumer)
        self.consumer.app = SimpleNamespace(owner=self.owner)
        self.consumer._getmany = self._getmany

    def _new_partition(self, number: int, generation: int) -> Partition:
        self.scenes[number] = Scene(number)
        return self.scenes[number].partition

    async def _seek(self, topic: str, number: int, position: int) -> None:
        raise AssertionError(f"{topic}-{number}: nothing was dropped, so {position} need not come again")

    async def _getmany(self, active: Collection[TP], timeout: float) -> dict[TP, Run]:
        runs = {}
        for tp in active:
            start = self.positions[tp.partition]
            if start < RECORDS:
                self.positions[tp.partition] = start + POLLED
                runs[tp] = run_of(start, start + POLLED)
        await asyncio.sleep(0 if runs else timeout)
        return runs

    def _apply(self, tx: Transaction, records: Sequence[Record]) -> None:
        pass

    def consumed(self, number: int) -> int:
        """How far a partition has committed."""
        committed = self.scenes[number].producer.committed
        return committed[-1][1][INPUT] if committed else 0

    async def work(self) -> None:
        """Poll and hand over, as the worker's agents do."""
        active = {TP(INPUT, number) for number in self.scenes}
        while True:
            runs = {tp.partition: run for tp, run in (await self.consumer._poll(active)).items()}
            if runs:
                await self.owner.consume(Poll(INPUT, runs), self._apply)
            self.held_max = max(self.held_max, self.owner._held.bytes)

    async def start(self, *numbers: int) -> asyncio.Task[None]:
        """Own these partitions, and work."""
        await self.owner.open(numbers, 1)
        self.positions = dict.fromkeys(numbers, 0)
        self.owner.ready({(INPUT, number): 0 for number in numbers})
        return asyncio.create_task(self.work())


@in_virtual_time
async def test_a_partition_without_answers_holds_up_no_other() -> None:
    """However much there is of its own: the others are polled and processed to their ends, and memory stays bounded."""
    fetched = run_of(0, POLLED).size
    limits = BatchLimits(bytes_max=3 * fetched, held_bytes_max=8 * fetched, hold_ms_target=1e9)
    plant = Plant(limits)
    working = await plant.start(0, 1, 2)
    answers = asyncio.Event()

    async def silent(step: str) -> None:
        await answers.wait()

    plant.scenes[0].producer.gate = silent
    await asyncio.sleep(60)
    assert [plant.consumed(number) for number in (0, 1, 2)] == [0, RECORDS, RECORDS]
    assert plant.positions[0] < RECORDS / 4
    assert plant.held_max <= limits.held_bytes_max + 3 * fetched  # one fetch more for each
    answers.set()
    await asyncio.sleep(60)
    assert plant.consumed(0) == RECORDS
    working.cancel()
    await plant.owner.close()
    assert plant.owner._held.bytes == 0


@in_virtual_time
async def test_partitions_that_get_an_answer_go_on_where_others_hold_all_that_may_be_held() -> None:
    """One fetch at a time is theirs."""
    fetched = run_of(0, POLLED).size
    plant = Plant(BatchLimits(bytes_max=3 * fetched, held_bytes_max=4 * fetched, hold_ms_target=1e9))
    working = await plant.start(0, 1, 2)

    async def silent(step: str) -> None:
        await asyncio.Event().wait()

    plant.scenes[0].producer.gate = plant.scenes[1].producer.gate = silent
    await asyncio.sleep(60)
    assert plant.owner._held.bytes >= 4 * fetched
    assert [plant.consumed(number) for number in (0, 1, 2)] == [0, 0, RECORDS]
    working.cancel()
