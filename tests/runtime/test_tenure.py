"""Having a partition: silence, fencing, doubts, and transactions that the brokers never ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from dlq_stream.core.model import Record
from dlq_stream.core.transaction import Transaction
from dlq_stream.runtime.outcomes import NOT_OURS
from dlq_stream.runtime.ports import Fenced, Latest, OutcomeUnknown, Unavailable
from tests.runtime.fakes import INPUT, Ended, Scene, in_virtual_time, put_row, run_of, stored

# -------------------------------------------------------------------------------------------------------------- silence


@in_virtual_time
async def test_silence_before_the_commit_is_tried_again() -> None:
    """By the same stage, with the same offsets; effects happen once."""
    scene = Scene()
    seen: list[int] = []
    scene.producer.on_write += [Unavailable("away"), Unavailable("away")]

    def apply(tx: Transaction, records: Sequence[Record]) -> int:
        put_row(tx)
        tx.after_commit(lambda: seen.append(len(records)))
        return len(records)

    assert await scene.partition.consume(INPUT, run_of(3, 5), apply) == 2
    assert [offsets for _, offsets in scene.producer.committed] == [{INPUT: 5}]
    assert (seen, scene.producer.starts, scene.changelog.looks) == ([2], 2, 2)
    assert scene.partition.expected == {INPUT: 5}


@in_virtual_time
async def test_brokers_that_stay_away_are_waited_for() -> None:
    """However long it takes, with growing pauses, and nothing is given up."""
    scene = Scene()
    scene.producer.on_write += [Unavailable("away")] * 300
    scene.producer.on_start += [Unavailable("away")] * 10
    await scene.partition.run(put_row)
    assert stored(scene)
    assert asyncio.get_running_loop().time() > 300


@in_virtual_time
async def test_rows_of_somebody_else_after_silence_mean_that_the_partition_is_not_ours() -> None:
    """This process was frozen, and another worker has done work meanwhile."""
    scene = Scene()
    scene.producer.on_write.append(Unavailable("frozen"))
    scene.changelog.finds.append(3)
    scene.ours = True
    with pytest.raises(Ended) as ended:
        await scene.partition.run(put_row)
    assert isinstance(ended.value.__cause__, Fenced)
    assert scene.producer.committed == []


@in_virtual_time
async def test_rows_of_somebody_else_end_nothing_once_we_know_of_the_rebalance() -> None:
    """It is the other's work now."""
    scene = Scene()
    scene.producer.on_write.append(Unavailable("frozen"))
    scene.changelog.finds.append(3)

    async def hear_of_it(step: str) -> None:
        scene.ours = scene.ours and step != "start"

    scene.producer.gate = hear_of_it
    assert await scene.partition.run(put_row) is NOT_OURS
    assert scene.partition.closed


@in_virtual_time
async def test_a_partition_lost_during_silence_takes_no_further_turn() -> None:
    """Its producer is in the middle of a transaction, which only the next owner can end."""
    scene = Scene()
    scene.producer.on_write.append(Unavailable("away"))

    async def lose(step: str) -> None:
        scene.ours = False

    scene.producer.gate = lose
    assert await scene.partition.run(put_row) is NOT_OURS
    assert await scene.partition.run(put_row) is NOT_OURS
    assert (scene.producer.starts, len(scene.producer.written)) == (0, 1)


@in_virtual_time
async def test_an_unknown_outcome_ends_the_process() -> None:
    """Only the next start can tell; the disk must not be touched before."""
    scene = Scene()
    scene.producer.on_commit.append(OutcomeUnknown("no answer"))
    with pytest.raises(Ended) as ended:
        await scene.partition.run(put_row)
    assert isinstance(ended.value.__cause__, OutcomeUnknown)
    assert not stored(scene)


# -------------------------------------------------------------------------------------------------------------- fencing


@pytest.mark.parametrize("step", ["write", "commit"])
@in_virtual_time
async def test_fenced_while_it_is_ours_ends_the_process(step: str) -> None:
    """Two workers believe that they own it: one of them must go."""
    scene = Scene()
    answers: Any = {"write": scene.producer.on_write, "commit": scene.producer.on_commit}[step]
    answers.append(Fenced("epoch"))
    with pytest.raises(Ended):
        await scene.partition.run(put_row)
    assert not stored(scene)


@in_virtual_time
async def test_fenced_when_it_is_not_ours_any_more_is_no_drama() -> None:
    """What was staged is void, and somebody else's work."""
    scene = Scene()
    scene.producer.on_write.append(Fenced("epoch"))
    scene.ours = False
    assert await scene.partition.run(put_row) is NOT_OURS
    assert await scene.partition.run(put_row) is NOT_OURS
    assert len(scene.producer.written) == 1
    assert not stored(scene)


# ----------------------------------------------------------------------------------------------------- what was decided

LATEST = Latest(frozenset({("orders", 2)}), hangs=True)


@in_virtual_time
async def test_the_latest_transaction_is_ended_between_fencing_and_reading() -> None:
    """Fencing makes the brokers forget its decision, and reading may take minutes."""
    scene = Scene()
    scene.changelog.told = LATEST
    scene.changelog.finds.append(3)
    steps: list[tuple[str, int]] = []

    async def note(step: str) -> None:
        steps.append((step, scene.changelog.looks))

    scene.producer.gate = note
    assert await scene.partition.open() == 3
    assert steps == [("start", 0), ("settle", 0)]
    assert scene.producer.settled == [LATEST]


@in_virtual_time
async def test_settling_is_tried_again_without_fencing() -> None:
    """For the same reason.  Afterwards what was not answered is fenced, and settled at the first try."""
    scene = Scene()
    scene.producer.on_settle += [Unavailable("away")] * 3
    steps: list[str] = []

    async def note(step: str) -> None:
        steps.append(step)

    scene.producer.gate = note
    await scene.partition.open()
    assert steps == ["start", *["settle"] * 4, "start", "settle"]


@in_virtual_time
async def test_who_is_fenced_while_it_settles_asks_whether_the_partition_is_its_own() -> None:
    """The brokers themselves fence an open transaction that is too old."""
    scene = Scene()
    scene.producer.on_settle.append(Fenced("too old"))
    await scene.partition.open()
    assert (scene.producer.starts, len(scene.producer.settled)) == (2, 1)
    scene.producer.on_settle.append(Fenced("another owner"))
    scene.ours = False
    with pytest.raises(Fenced):
        await scene.partition.open()


@in_virtual_time
async def test_nothing_is_staged_in_doubt() -> None:
    """The turn goes on after the doubt is cleared up: on what was committed by then."""
    scene = Scene()
    scene.producer.in_doubt = True
    staged: list[int] = []

    def stage(tx: Transaction) -> None:
        staged.append(len(scene.producer.settled))
        put_row(tx)

    await scene.partition.run(stage)
    assert (staged, scene.producer.starts, scene.producer.in_doubt) == ([1], 1, False)
    assert stored(scene)


@in_virtual_time
async def test_a_doubt_is_cleared_up_though_there_is_nothing_to_do() -> None:
    """Readers of the destinations wait for what hangs there."""
    scene = Scene()
    scene.producer.in_doubt = True
    scene.producer.doubt()
    await asyncio.sleep(1)
    assert (len(scene.producer.settled), scene.producer.written) == (1, [])


@in_virtual_time
async def test_a_doubt_about_a_partition_that_is_gone_is_somebody_elses() -> None:
    """He fences, and sees for himself."""
    scene = Scene()
    scene.producer.in_doubt = True
    scene.ours = False
    scene.producer.doubt()
    await asyncio.sleep(1)
    assert await scene.partition.run(put_row) is NOT_OURS
    assert (scene.producer.starts, scene.producer.written) == (0, [])


@in_virtual_time
async def test_rows_of_somebody_else_after_a_doubt_mean_that_the_partition_is_not_ours() -> None:
    """Another worker owned it while this process was frozen."""
    scene = Scene()
    scene.producer.in_doubt = True
    scene.changelog.finds.append(2)
    with pytest.raises(Ended) as ended:
        await scene.partition.run(put_row)
    assert isinstance(ended.value.__cause__, Fenced)
