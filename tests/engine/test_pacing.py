"""``emit_per_second_max`` in the engine: herds are spread, durably, and are nobody else's business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.commands import Action
from dlq_stream.core.events import RetryEmitted, RetryPaced
from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.core.pace import Pace
from dlq_stream.core.policy import Policies, RetryPolicy
from dlq_stream.core.transaction import UNAVAILABLE, Destination
from dlq_stream.engine import EmitResult
from tests.engine.world import NOW, TOPIC, World, id_of, rows_of

BACKOFF_MS = 1_000
PLAIN = RetryPolicy(initial_backoff_ms=BACKOFF_MS)
PENDING = DLQMessageStatus.PENDING


def limited(per_second_max: float, **options: object) -> World:
    """A world in which the queue of `TOPIC` is limited, and all others are not."""
    policy = replace(PLAIN, emit_per_second_max=per_second_max)
    return World(policies=Policies(PLAIN, {TOPIC: policy}), **options)


def herd(world: World, count: int, start: int = 0, **options: object) -> None:
    world.apply(*(world.failure(offset, **options) for offset in range(start, start + count)))


def drain(world: World, ms: int, step: int = 10, records_max: int = 1_000) -> list[tuple[int, int]]:
    """Tick as the timer does for so long; returns how many went when."""
    went, end = [], world.now + ms
    while world.now <= end:
        result = world.emit(records_max=records_max)
        if result.emitted:
            went.append((world.now, result.emitted))
        if not result.more:
            world.wait(step)
    return went


def limit(world: World, per_second_max: float) -> None:
    """The limit is another one from now on."""
    policy = replace(PLAIN, emit_per_second_max=per_second_max)
    world.engine = replace(world.engine, policies=Policies(PLAIN, {TOPIC: policy}))


def waiting(world: World) -> dict[bytes, int]:
    """When the messages that are PENDING are due."""
    return {id_: row.due_ms or 0 for id_, row in rows_of(world.home).items() if row.status is PENDING}


def offsets(world: World) -> list[int]:
    return [int(sent.header("dlq-original-offset") or b"-1") for sent in world.emissions()]


def test_a_herd_is_spread_and_stays_so() -> None:
    """Everything that the next tick needs is in rows: whoever takes the partition over releases nothing."""
    world = limited(50)
    herd(world, 200)
    world.wait(BACKOFF_MS)
    began = world.now
    result = world.emit(records_max=1_000)
    assert (result.emitted, result.handled, result.more) == (13, 200, False)
    waiting = [row for row in rows_of(world.home).values() if row.status is PENDING]
    assert {row.revision for row in waiting} == {1}, "no transition: an operator's command still holds"
    assert all(row.slot_ms == row.due_ms for row in waiting)
    assert result.next_due_ms == min(row.due_ms or 0 for row in waiting) == began + 13 * 20
    assert world.emit().handled == 0, "the herd is not looked at again"
    went = drain(world, 4_000)
    assert sum(count for _, count in went) == 200 - 13
    assert went[-1][0] - began == 199 * 20
    assert sorted(offsets(world)) == list(range(200))
    late = [event.late_ms for event in world.seen_of(RetryEmitted)]
    assert max(late) <= 10, "a slot is the due time: the delay is meant"
    assert len(world.seen_of(RetryPaced)) == 187
    (last,) = [sent for sent in world.emissions() if sent.header("dlq-due-at") == b"%d" % went[-1][0]]
    assert last.header("dlq-attempt") == b"1"
    world.check()


def test_other_queues_do_not_wait_behind_a_herd() -> None:
    """However few rows a tick takes, those behind get their turn as soon as the herd has its slots."""
    world = limited(1)
    herd(world, 300)
    world.wait(1)
    herd(world, 20, start=1_000, queue="other")
    world.wait(BACKOFF_MS)
    ticks = [world.emit(records_max=50)]
    while ticks[-1].more:
        ticks.append(world.emit(records_max=50))
    assert all(tick.handled <= 50 for tick in ticks), "bounded"
    assert [offset for offset in offsets(world) if offset >= 1_000] != []
    assert sum(offset >= 1_000 for offset in offsets(world)) == 20
    assert len(ticks) == 7


def test_each_partition_has_its_share() -> None:
    """The limit is the cluster's: with twelve partitions, each emits a twelfth of it."""
    world = limited(12, partitions=1)
    one, many = world.home, 12
    herd(world, 30)
    one.partitions = many
    world.wait(BACKOFF_MS)
    assert sum(count for _, count in drain(world, 9_990)) == 10


def test_an_operators_retry_goes_by_the_limit_too() -> None:
    """Whoever reads the retries does not care why one comes; but it does not go behind those that wait."""
    world = limited(1)
    herd(world, 5)
    world.wait(BACKOFF_MS)
    world.emit()
    last, slot = max(waiting(world).items(), key=lambda entry: entry[1])
    world.order(last, Action.RETRY)
    assert world.must(last).due_ms == world.now
    world.emit()
    row = world.must(last)
    assert (row.status, row.slot_ms, row.revision) == (PENDING, row.due_ms, 2)
    assert row.due_ms == world.now + 1_000 < slot
    went = drain(world, 6_000)
    assert sum(count for _, count in went) == 4
    assert all(later - earlier >= 750 for (earlier, _), (later, _) in pairwise(went))


def test_a_herd_that_is_ordered_to_go_uses_a_raised_limit_at_once() -> None:
    """Its slots are far away, by a limit that was a mistake: nobody waits for those that are gone from them."""
    world = limited(0.01)
    herd(world, 100)
    world.wait(BACKOFF_MS)
    world.emit()
    limit(world, 10)
    for id_ in waiting(world):
        world.order(id_, Action.RETRY)
    began = world.now
    went = drain(world, 12_000)
    assert sum(count for _, count in went) == 99
    assert went[-1][0] - began <= 99 * 100 + 350


def test_a_limit_that_was_lowered_by_mistake_leaves_nothing_behind() -> None:
    """Ends of the line that the mistake put far away count no more once it is mended."""
    world = limited(10)
    herd(world, 100)
    world.wait(BACKOFF_MS)
    world.emit()
    limit(world, 0.001)
    drain(world, 5_000)
    limit(world, 10)
    for id_ in waiting(world):
        world.order(id_, Action.RETRY)
    herd(world, 20, start=1_000)
    began, count = world.now, len(waiting(world))
    went = drain(world, 20_000)
    assert sum(each for _, each in went) == count
    assert went[-1][0] - began <= count * 100 + BACKOFF_MS + 350


def test_orders_to_retry_that_are_repeated_hold_up_nothing() -> None:
    """An impatient operator orders the whole herd to go every second: that makes no message's slot later."""
    world = limited(10)
    herd(world, 100)
    world.wait(BACKOFF_MS)
    world.emit()
    began = world.now
    while waiting(world) and world.now - began < 20_000:
        before = waiting(world)
        for id_ in before:
            world.order(id_, Action.RETRY)
        world.emit()
        assert all(slot <= max(before[id_], world.now + 1) for id_, slot in waiting(world).items())
        drain(world, 1_000)
    assert len(world.emissions()) == 100
    assert world.now - began <= 12_000


def test_a_raised_limit_holds_at_once_for_what_falls_due() -> None:
    """One retry at a hundredth per second does not hold up those that fall due after the limit was raised."""
    world = limited(0.01)
    herd(world, 1)
    world.wait(BACKOFF_MS)
    assert world.emit().emitted == 1
    limit(world, 100)
    herd(world, 50, start=100)
    world.wait(BACKOFF_MS)
    assert sum(count for _, count in drain(world, 1_000)) == 50


def test_a_limit_that_is_lifted_or_lowered() -> None:
    """A lower one holds at once; without one, slots that were given stay."""
    world = limited(10)
    herd(world, 50)
    world.wait(BACKOFF_MS)
    world.emit()
    limit(world, 1)
    world.wait(500)
    began = len(world.emissions())
    drain(world, 10_000)
    assert len(world.emissions()) - began <= 12
    world.engine = replace(world.engine, policies=Policies(PLAIN))
    drain(world, 60_000)
    assert len(world.emissions()) == 50
    world.check()


def test_what_cannot_be_written_uses_nothing_up() -> None:
    """Messages that are put off or given up leave the limit to others."""
    world = limited(1)
    for offset, retry_topic in ((1, f"{TOPIC}-silent"), (2, f"{TOPIC}-gone"), (3, None)):
        world.fail(offset, retry_topic=retry_topic)
    for name, refusal in (("silent", UNAVAILABLE), ("gone", "missing")):
        world.home.learn(Destination(f"{TOPIC}-{name}", 8, refusal=refusal))
    world.wait(BACKOFF_MS)
    world.emit()
    assert (world.status(id_of(1)), world.status(id_of(2)), world.status(id_of(3))) == (
        "pending",
        "escalated",
        "retrying",
    )


def test_queues_beyond_the_bound_keep_to_their_limits_together() -> None:
    """They are booked together, and so is their pace; bounded, whatever names senders make up."""
    policy = replace(PLAIN, emit_per_second_max=1)
    world = World(policies=Policies(policy), queues_max=1)
    for number in range(6):
        world.fail(number, queue=f"queue-{number}")
    world.wait(BACKOFF_MS)
    assert world.emit().emitted == 2, "the first has figures of its own, the others share theirs"
    assert world.stats("other").pace != Pace() != world.stats("queue-0").pace


@given(
    limit=st.sampled_from((0.5, 3.0, 20.0, 400.0)),
    batches=st.lists(st.tuples(st.integers(1, 15), st.integers(0, 3_000), st.booleans()), min_size=1, max_size=5),
    steps=st.lists(st.integers(1, 2_500), min_size=1, max_size=6),
    records_max=st.integers(1, 40),
)
def test_never_more_than_the_limit_nothing_lost_others_untouched(
    limit: float, batches: Sequence[tuple[int, int, bool]], steps: Sequence[int], records_max: int
) -> None:
    """Random herds in a limited queue and beside it, ticks at random times, with little room in each."""
    world, total = limited(limit), 0
    for count, after_ms, ours in batches:
        herd(world, count, start=total, **({} if ours else {"queue": "free"}))
        total += count
        world.wait(after_ms)
    at: list[int] = []
    for number in range(5_000):
        before, sent = rows_of(world.home), len(world.emissions())
        result: EmitResult = world.emit(records_max=records_max)
        now = world.now
        for record in world.emissions()[sent:]:
            row = before[bytes.fromhex((record.header("dlq-message-id") or b"").decode())]
            assert (row.due_ms or now + 1) <= now, "never early"
            at += [now] if row.queue == TOPIC else []
        if not result.more:
            free = [row for row in rows_of(world.home).values() if row.queue == "free" and row.status is PENDING]
            assert all((row.due_ms or 0) > now for row in free), "nobody waits for another queue's limit"
            if not any(row.status is PENDING for row in rows_of(world.home).values()):
                break
            world.home.now_ms = max(now, result.next_due_ms or now) + steps[number % len(steps)]
    assert sorted(offsets(world)) == list(range(total))
    for place, ms in enumerate(at):
        assert sum(ms <= other < ms + 1_000 for other in at[place:]) <= limit * 1.25 + 1
    assert world.now > NOW
    world.check()
