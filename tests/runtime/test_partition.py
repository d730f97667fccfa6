"""A partition's turns: the order of a commit, refusals, silence, fencing, runs that repeat or are missing, closing."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from dlq_stream.core.errors import Refused, TooLarge
from dlq_stream.core.ids import murmur2
from dlq_stream.core.model import Record
from dlq_stream.core.transaction import Transaction
from dlq_stream.runtime import partition as module
from dlq_stream.runtime.outcomes import NOT_OURS, Missed
from dlq_stream.runtime.ports import Batch, Refusal, Run, Unavailable, Written
from dlq_stream.tables import messages, stats
from tests.runtime.fakes import INPUT, Ended, Scene, in_virtual_time, key, put_row, row, run_of, stored

ORDERS, INVOICES = "orders", "invoices"
BY_KEY = (murmur2(b"k") & 0x7FFFFFFF) % 4


def sending(*values: bytes, topic: str = ORDERS) -> Callable[[Transaction], list[str]]:
    """A stage that sends records and a row; returns what was refused."""

    def stage(tx: Transaction) -> list[str]:
        refused = []
        known = tx.destination(topic)
        for number, value in enumerate(values):
            if known is not None and known.refusal is not None:
                refused.append(known.refusal)
                continue
            try:
                tx.send(topic, value, value, (("dlq-message-id", b"%d" % number),), 0)
            except (Refused, TooLarge) as error:
                refused.append(f"{value!r}: {error}")
        put_row(tx)
        return refused

    return stage


# ------------------------------------------------------------------------------------------------ the order of a commit


@in_virtual_time
async def test_fenced_before_restored() -> None:
    """Else the former owner could still write what the restore has missed."""
    scene = Scene()
    order: list[str] = []

    async def note(step: str) -> None:
        order.append(f"{step}, looks: {scene.changelog.looks}")

    scene.producer.gate = note
    scene.changelog.finds.append(12)
    assert await scene.partition.open() == 12
    assert order == ["start, looks: 0", "settle, looks: 0"]
    assert scene.changelog.looks == 1


@in_virtual_time
async def test_the_store_is_written_after_the_commit_and_effects_come_last() -> None:
    """The disk never holds what is not committed."""
    scene = Scene()
    seen: list[Any] = []

    async def look(step: str) -> None:
        seen.append((step, stored(scene)))

    def stage(tx: Transaction) -> None:
        put_row(tx)
        tx.send(ORDERS, b"k", b"v", ())
        tx.after_commit(lambda: seen.append(("effect", stored(scene))))

    scene.producer.gate = look
    await scene.partition.consume(INPUT, run_of(0, 2), lambda tx, records: stage(tx))
    assert seen == [("write", False), ("commit", False), ("effect", True)]
    [(batches, offsets)] = scene.producer.committed
    assert offsets == {INPUT: 2}
    assert [(batch.topic, batch.partition, batch.compress) for batch in batches] == [
        (ORDERS, BY_KEY, False),
        ("app-messages-changelog", 0, True),
    ]
    assert scene.store.offsets == {"messages": 7}


@in_virtual_time
async def test_changelog_offsets_are_those_of_the_tables_written() -> None:
    """Each table's own, however many outputs go before."""
    scene = Scene()

    def stage(tx: Transaction) -> None:
        tx.send(ORDERS, b"k", b"v", (), 0)
        tx.send(INVOICES, b"k", b"v", (), 0)
        tx.put("stats", stats.stats_key("q", 0), b"\1\0")
        put_row(tx)

    scene.producer.on_write.append(Written([1, 2, 33, 44]))
    await scene.partition.run(stage)
    assert scene.store.offsets == {"messages": 33, "stats": 44}


@in_virtual_time
async def test_a_look_that_finds_nothing_to_do_commits_nothing() -> None:
    """Its effects happen all the same."""
    scene = Scene()
    seen: list[int] = []
    assert await scene.partition.run(lambda tx: tx.after_commit(lambda: seen.append(1))) is None
    assert (seen, scene.producer.written) == ([1], [])


@in_virtual_time
async def test_many_records_are_staged_in_steps_and_committed_at_once() -> None:
    """The event loop runs in between; the state of a step is seen by the next."""
    scene = Scene()
    seen: list[tuple[int, ...]] = []
    in_between: list[int] = []

    def apply(tx: Transaction, records: Sequence[Record]) -> int:
        assert all(tx.get_many("messages", (key(each),))[key(each)] for step in seen for each in step)
        for record in records:
            put_row(tx, record.offset)
        seen.append(tuple(record.offset for record in records))
        asyncio.get_running_loop().call_soon(lambda: in_between.append(len(seen)))
        return len(seen)

    assert await scene.partition.consume(INPUT, run_of(0, 7), apply, step=3) == 3
    assert in_between == [1, 2, 3]
    assert seen == [(0, 1, 2), (3, 4, 5), (6,)]
    [(batches, offsets)] = scene.producer.committed
    assert ([len(batch.records) for batch in batches], offsets) == ([7], {INPUT: 7})


class Figures:
    """What the steps of a batch add up."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self.records = 0

    def finish(self) -> None:
        self.tx.put("stats", b"q", b"%d" % self.records)


@in_virtual_time
async def test_what_steps_share_is_finished_with_the_last_and_made_anew_with_the_next_try() -> None:
    """Figures are written once for a batch, in its transaction, and a refused one counts nothing."""
    scene = Scene()
    scene.producer.on_write = [Unavailable("silence")]

    def apply(tx: Transaction, records: Sequence[Record]) -> None:
        tx.shared(lambda: Figures(tx)).records += len(records)

    await scene.partition.consume(INPUT, run_of(0, 7), apply, step=3)
    [(batches, offsets)] = scene.producer.committed
    assert (batches[0].records, offsets) == ([(b"q", b"7", ())], {INPUT: 7})


@in_virtual_time
async def test_what_was_staged_goes_with_its_turn() -> None:
    """By its reference count: until the garbage collector looked, hundreds of megabytes of batches would pile up."""
    scene = Scene()
    staged: list[weakref.ref[Any]] = []

    def apply(tx: Transaction, records: Sequence[Record]) -> None:
        staged.append(weakref.ref(tx))
        tx.shared(lambda: Figures(tx)).records += len(records)
        tx.after_commit(partial(len, records))

    gc.disable()
    try:
        await scene.partition.consume(INPUT, run_of(0, 7), apply, step=3)
        assert [reference() for reference in staged] == [None, None, None]
    finally:
        gc.enable()


@in_virtual_time
@pytest.mark.parametrize("waits", [False, True])
async def test_a_batch_is_given_up_where_its_partition_is_closed_while_it_is_staged(waits: bool) -> None:
    """Also while it waits for others to be staged: a rebalance has no time for a large batch of each partition."""
    scene = Scene()
    seen: list[int] = []

    def apply(tx: Transaction, records: Sequence[Record]) -> None:
        seen.extend(record.offset for record in records)

    if waits:
        await scene.partition._staging.acquire()
    turn = asyncio.create_task(scene.partition.consume(INPUT, run_of(0, 70), apply, step=3))
    for _ in range(5):
        await asyncio.sleep(0)
    closing = asyncio.create_task(scene.partition.close())
    await asyncio.sleep(0)
    if waits:
        scene.partition._staging.release()
    assert await turn is NOT_OURS
    await closing
    assert len(seen) == 0 if waits else 0 < len(seen) < 70
    assert (scene.producer.written, scene.producer.stopped, scene.store.closed) == ([], True, True)
    assert not scene.partition._staging.locked()


@in_virtual_time
async def test_ticks_do_not_wait_for_other_partitions_batches() -> None:
    """A batch that waits to be staged has no turn yet."""
    scene = Scene()
    await scene.partition._staging.acquire()
    batch = asyncio.create_task(scene.partition.consume(INPUT, run_of(0, 3), lambda tx, records: "batch", step=1))
    await asyncio.sleep(1)
    async with asyncio.timeout(1):
        assert await scene.partition.run(lambda tx: "tick", urgent=True) == "tick"
    assert not batch.done()
    scene.partition._staging.release()
    assert await batch == "batch"


@in_virtual_time
async def test_a_batch_that_waits_for_its_partition_keeps_no_other_from_being_staged() -> None:
    """Its turn may be another's for as long as brokers are away; with the turn, it waits for its place again."""
    one, other = Scene(0), Scene(1)
    other.partition._staging = one.partition._staging
    answer = asyncio.Event()

    async def silent(step: str) -> None:
        await answer.wait()

    one.producer.gate = silent
    tick = asyncio.create_task(one.partition.run(lambda tx: put_row(tx), urgent=True))
    await asyncio.sleep(1)
    waiting = asyncio.create_task(one.partition.consume(INPUT, run_of(0, 3), lambda tx, records: "one", step=1))
    await asyncio.sleep(1)
    async with asyncio.timeout(1):
        assert await other.partition.consume(INPUT, run_of(0, 3), lambda tx, records: "other", step=1) == "other"
    assert [tick.done(), waiting.done()] == [False, False]
    answer.set()
    await tick
    assert await waiting == "one"
    assert not one.partition._staging.locked()


@in_virtual_time
async def test_partitions_stage_their_steps_one_after_the_other() -> None:
    """So that the first is written while the next is staged; a tick waits for nobody."""
    one, other = Scene(0), Scene(1)
    other.partition._staging = one.partition._staging
    order: list[str] = []

    def apply(name: str) -> Callable[[Transaction, Sequence[Record]], None]:
        return lambda tx, records: order.append(name)

    turns = [
        asyncio.create_task(scene.partition.consume(INPUT, run_of(0, 3), apply(name), step=1))
        for scene, name in ((one, "a"), (other, "b"))
    ]
    await asyncio.sleep(0)
    third = Scene(2)
    third.partition._staging = one.partition._staging
    await third.partition.run(lambda tx: order.append("tick"))
    await asyncio.gather(*turns)
    assert [each for each in order if each != "tick"] == ["a", "a", "a", "b", "b", "b"]
    assert order.index("tick") < 3


@in_virtual_time
async def test_a_run_without_records_moves_the_offset() -> None:
    """Commit markers and compaction leave gaps; whoever looks at the lag should see none."""
    scene = Scene()
    await scene.partition.consume(INPUT, Run(4, 6, []), lambda tx, records: None)
    assert [offsets for _, offsets in scene.producer.committed] == [{INPUT: 6}]
    assert scene.store.offsets == {}


@in_virtual_time
async def test_what_a_stage_raises_ends_the_process() -> None:
    """With nothing written."""
    scene = Scene()
    with pytest.raises(Ended) as ended:
        await scene.partition.run(lambda tx: 1 // 0)
    assert isinstance(ended.value.__cause__, ZeroDivisionError)
    assert scene.producer.written == []


# ------------------------------------------------------------------------------------------------------------- refusals


@in_virtual_time
async def test_a_destination_that_is_refused_is_staged_without() -> None:
    """What is known of it changes, and the same stage decides with that."""
    scene = Scene()
    scene.producer.on_write.append(Written(refusals=[Refusal(ORDERS, 0, "not-authorised")]))
    assert await scene.partition.run(sending(b"a", b"b")) == ["not-authorised", "not-authorised"]
    assert scene.destinations.refused == {ORDERS: "not-authorised"}
    assert scene.producer.sent(ORDERS) == []
    assert stored(scene)
    assert scene.producer.starts == 1  # the refused transaction is void


@in_virtual_time
async def test_a_record_that_is_refused_alone_is_staged_without() -> None:
    """The others go out; its headers may differ from try to try, its id does not."""
    scene = Scene()
    scene.producer.on_write.append(Written(refusals=[Refusal(ORDERS, 0, "invalid-record", (1,))]))
    assert await scene.partition.run(sending(b"a", b"b", b"c")) == [
        "b'b': topic 'orders' does not take this record: invalid-record"
    ]
    assert scene.producer.sent(ORDERS) == [b"a", b"c"]
    assert scene.destinations.refused == {}


@in_virtual_time
async def test_a_refusal_of_several_records_is_narrowed_down_one_by_one() -> None:
    """A record batch is refused as a whole, whichever of its records is at fault."""
    scene = Scene()
    asked: list[bool] = []

    def answer(batches: Sequence[Batch]) -> Written:
        [batch] = [batch for batch in batches if batch.topic == ORDERS]
        asked.append(batch.one_by_one)
        bad = [number for number, (_, value, _) in enumerate(batch.records) if value in (b"b", b"d")]
        if not bad:
            return Written([7] * len(batches))
        refused = tuple(bad) if batch.one_by_one else tuple(range(len(batch.records)))
        return Written(refusals=[Refusal(ORDERS, 0, "too-large", refused)])

    scene.producer.on_write += [answer] * 3
    refused: Any = await scene.partition.run(sending(b"a", b"b", b"c", b"d"))
    assert [text[:4] for text in refused] == ["b'b'", "b'd'"]
    assert asked == [False, True, True]
    assert scene.producer.sent(ORDERS) == [b"a", b"c"]


@in_virtual_time
async def test_a_refusal_of_our_own_topics_ends_the_process() -> None:
    """Nobody could decide anything about it, and dropping the rows would be worse."""
    scene = Scene()
    scene.producer.on_write.append(Written(refusals=[Refusal("app-messages-changelog", 0, "not-authorised")]))
    with pytest.raises(Ended) as ended:
        await scene.partition.run(put_row)
    assert "app-messages-changelog" in str(ended.value.__cause__)


@in_virtual_time
async def test_refusals_without_end_end_the_process() -> None:
    """Each try should learn something."""
    scene = Scene()
    scene.producer.on_write += [Written(refusals=[Refusal(ORDERS, 0, "because")])] * (module.REJECTIONS_MAX + 1)
    with pytest.raises(Ended):
        await scene.partition.run(put_row)
    assert len(scene.producer.written) == module.REJECTIONS_MAX


# ----------------------------------------------------------------------------------------------------------------- runs


async def consume(scene: Scene, run: Run) -> tuple[Any, list[int]]:
    offsets: list[int] = []
    result = await scene.partition.consume(INPUT, run, lambda tx, records: offsets.extend(r.offset for r in records))
    return result, offsets


@in_virtual_time
async def test_runs_follow_each_other() -> None:
    """The first is where it is; gaps within a run are nobody's loss."""
    scene = Scene()
    assert await consume(scene, run_of(5, 9, 5, 8)) == (None, [5, 8])
    assert await consume(scene, run_of(9, 12)) == (None, [9, 10, 11])
    assert scene.partition.expected == {INPUT: 12}


@in_virtual_time
async def test_a_run_delivered_again_is_left_out() -> None:
    """Whole, or what is known of it."""
    scene = Scene()
    scene.partition.expected[INPUT] = 10
    assert await consume(scene, run_of(5, 10)) == (NOT_OURS, [])
    assert await consume(scene, run_of(0, 3)) == (NOT_OURS, [])
    assert await consume(scene, run_of(8, 12)) == (None, [10, 11])
    assert [offsets for _, offsets in scene.producer.committed] == [{INPUT: 12}]
    assert (scene.partition.skipped, scene.partition.missed) == (10, 0)


@in_virtual_time
async def test_a_run_beyond_what_is_expected_is_missed() -> None:
    """Nothing is done, and what is missing is asked for."""
    scene = Scene()
    scene.partition.expected[INPUT] = 10
    assert await consume(scene, run_of(11, 13)) == (Missed(INPUT, 0, 10), [])
    assert (scene.producer.written, scene.partition.missed) == ([], 1)
    assert scene.partition.expected == {INPUT: 10}


@in_virtual_time
async def test_what_was_not_committed_is_expected_still() -> None:
    """A run that met silence, and was delivered again meanwhile, is applied once."""
    scene = Scene()
    scene.producer.on_write.append(Unavailable("away"))
    results = await asyncio.gather(consume(scene, run_of(0, 2)), consume(scene, run_of(0, 3)))
    assert [offsets for _, offsets in results] == [[0, 1, 0, 1], [2]]  # staged twice, committed once
    assert [offsets for _, offsets in scene.producer.committed] == [{INPUT: 2}, {INPUT: 3}]


# -------------------------------------------------------------------------------------------------------------- closing


@in_virtual_time
async def test_closing_lets_a_running_turn_finish_and_starts_no_other() -> None:
    """What waits for its turn does nothing, urgent or not."""
    scene = Scene()

    async def slow(step: str) -> None:
        await asyncio.sleep(2)

    scene.producer.gate = slow
    running = asyncio.create_task(scene.partition.run(put_row))
    waiting = [asyncio.create_task(scene.partition.run(put_row, urgent=urgent)) for urgent in (False, True)]
    await asyncio.sleep(1)
    await scene.partition.close()
    assert await running is None
    assert [await task for task in waiting] == [NOT_OURS, NOT_OURS]
    assert (len(scene.producer.committed), stored(scene)) == (1, True)
    assert (scene.producer.stopped, scene.store.closed) == (True, True)


@in_virtual_time
async def test_a_closed_partition_takes_no_turns_and_shows_nothing() -> None:
    """Its store is not its own any more."""
    scene = Scene()
    await scene.partition.run(put_row)
    await scene.partition.close()
    assert await scene.partition.run(put_row) is NOT_OURS
    assert await consume(scene, run_of(0, 1)) == (NOT_OURS, [])
    assert scene.partition.committed(messages.TABLE.tag + key(1)) is None
    assert list(scene.partition.committed_rows(messages.TABLE.tag)) == []


@in_virtual_time
async def test_cancelling_whoever_waits_does_not_cancel_the_commit() -> None:
    """An agent is cancelled at a rebalance, in the middle of anything."""
    scene = Scene()

    async def slow(step: str) -> None:
        await asyncio.sleep(2)

    scene.producer.gate = slow
    agent = asyncio.create_task(scene.partition.run(put_row))
    await asyncio.sleep(3)
    agent.cancel()
    await asyncio.gather(agent, return_exceptions=True)
    await asyncio.sleep(3)
    assert (len(scene.producer.committed), stored(scene)) == (1, True)
    assert await scene.partition.run(put_row) is None


# ----------------------------------------------------------------------------------------------------------- the rest


@in_virtual_time
async def test_urgent_turns_go_before_others_that_wait() -> None:
    """What is due goes out before more is taken in."""
    scene = Scene()
    order: list[str] = []
    turns = [("first", False), ("batch", False), ("tick", True)]

    def stage(tx: Transaction, name: str) -> None:
        order.append(name)
        put_row(tx)

    await asyncio.gather(*(scene.partition.run(partial(stage, name=name), urgent=urgent) for name, urgent in turns))
    assert order == ["first", "tick", "batch"]


@in_virtual_time
async def test_the_clock_never_runs_backwards() -> None:
    """A machine's clock is set; what was due stays due."""
    scene = Scene()
    before: Any = await scene.partition.run(lambda tx: tx.now_ms)
    scene.clock.base_ms -= 60_000
    assert await scene.partition.run(lambda tx: tx.now_ms) == before
    scene.clock.base_ms += 120_000
    assert await scene.partition.run(lambda tx: tx.now_ms) == before + 60_000


@in_virtual_time
async def test_committed_rows_are_read_in_chunks() -> None:
    """Those of one table, in order, each once."""
    scene = Scene()
    for number in range(7):
        await scene.partition.run(partial(put_row, number=number))
    await scene.partition.run(lambda tx: tx.put("stats", stats.stats_key("q", 0), b"\1\0"))
    found = [found for found, _ in scene.partition.committed_rows(messages.TABLE.tag, chunk=3)]
    assert found == [key(number) for number in range(7)]
    assert scene.partition.committed(messages.TABLE.tag + key(3)) == row()


@pytest.mark.parametrize(
    ("partition", "record_key", "expected"),
    [(3, b"k", 3), (4, b"k", BY_KEY), (None, b"k", BY_KEY), (9, b"", 275646681 % 4)],
)
@in_virtual_time
async def test_records_go_to_the_partition_asked_for_or_by_key(
    partition: int | None, record_key: bytes, expected: int
) -> None:
    """A topic may have fewer partitions than it had."""
    scene = Scene()
    await scene.partition.run(lambda tx: tx.send(ORDERS, record_key, b"v", (), partition))
    [(batches, _)] = scene.producer.committed
    assert [batch.partition for batch in batches] == [expected]


@in_virtual_time
async def test_records_without_a_key_stay_where_they_were_staged_first() -> None:
    """Or a refusal could not be matched with its record."""
    scene = Scene()
    scene.producer.on_write.append(Unavailable("away"))

    def stage(tx: Transaction) -> None:
        for number in range(20):
            tx.send(ORDERS, None, b"%d" % number, ())

    await scene.partition.run(stage)
    first, second = [sorted((b.partition, len(b.records)) for b in batches) for batches in scene.producer.written]
    assert first == second
    assert len(first) > 1
