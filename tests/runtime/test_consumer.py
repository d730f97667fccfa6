"""What is fetched, and handing it over to agents' queues."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP
from mode.utils.queues import FlowControlEvent, ThrowableQueue

from dlq_stream.runtime.consumer import (
    POLL_REST_SECONDS,
    POLL_SECONDS,
    SMALL_POLL_BYTES,
    Consumer,
    ConsumerThread,
    forward,
    put_unless,
)
from dlq_stream.runtime.ports import Run
from tests.memory import FakeRecord
from tests.simulation.loop import run


def full_queue() -> Any:
    """A queue as agents' streams have, with no room left."""
    queue: Any = ThrowableQueue(maxsize=1, flow_control=FlowControlEvent(initially_suspended=False))
    queue.put_nowait("first")
    return queue


async def turns() -> None:
    """Let everything that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_waits_for_room() -> None:
    """What does not fit waits until something was taken."""
    queue = full_queue()
    putting = asyncio.ensure_future(put_unless(queue, "second", asyncio.Event()))
    await turns()
    assert not putting.done()
    assert await queue.get() == "first"
    await putting
    assert await queue.get() == "second"


async def test_clearing_a_full_queue_drops_the_event_and_nothing_else() -> None:
    """A rebalance clears queues; that is no cancellation of the fetcher, which would end the worker."""
    queue = full_queue()
    putting = asyncio.ensure_future(put_unless(queue, "second", asyncio.Event()))
    await turns()
    queue.clear()
    await putting
    assert queue.empty()


async def test_gives_up_when_the_flow_is_suspended() -> None:
    """The event is not put later."""
    queue, suspended = full_queue(), asyncio.Event()
    putting = asyncio.ensure_future(put_unless(queue, "second", suspended))
    await turns()
    suspended.set()
    await putting
    assert await queue.get() == "first"
    await turns()
    assert queue.empty()


async def test_being_cancelled_is_passed_on() -> None:
    """A fetcher that is stopped stops."""
    queue = full_queue()
    putting = asyncio.ensure_future(put_unless(queue, "second", asyncio.Event()))
    await turns()
    putting.cancel()
    await asyncio.wait({putting})
    assert putting.cancelled()
    assert await queue.get() == "first"
    await turns()
    assert queue.empty()


def test_a_log_that_begins_anew_is_not_passed_over_in_silence() -> None:
    """Its offsets were all processed, in another life; so were those of a log that lost its end."""
    with pytest.raises(RuntimeError, match="up to 50"):
        forward("failures-0", Run(50, 3, [FakeRecord(offset=0), FakeRecord(offset=2)]))


def test_a_log_whose_beginning_was_deleted_goes_on() -> None:
    """Retention takes what nobody read in time."""
    run = Run(50, 93, [FakeRecord(offset=90), FakeRecord(offset=92)])
    assert forward("failures-0", run) is run


class Flow:
    """A consumer whose thread has what it is told to have, and whose owner is full where it is told so."""

    def __init__(self, *full: int) -> None:
        self.held = set(full)
        self.fetched: list[tuple[set[int], float]] = []
        self.waited = 0
        self.consumer = object.__new__(Consumer)
        self.consumer.app = SimpleNamespace(owner=self)
        self.consumer._getmany = self._getmany

    def full(self, topic: str, number: int) -> bool:
        return number in self.held

    async def room(self, seconds: float) -> None:
        self.waited += 1

    async def _getmany(self, active: set[TP], timeout: float) -> dict[TP, Run]:
        self.fetched.append(({tp.partition for tp in active}, timeout))
        return {}

    async def poll(self) -> None:
        await self.consumer._poll({TP("failures", number) for number in (0, 1)})


@pytest.mark.parametrize(
    ("full", "fetched", "waited"),
    [((), [({0, 1}, POLL_SECONDS)], 0), ((0,), [({1}, 0)], 1), ((0, 1), [], 1)],
)
async def test_a_full_partition_holds_up_no_other(full: tuple[int, ...], fetched: list[Any], waited: int) -> None:
    """Only those with room are polled; and while one is full, without waiting long for the others."""
    flow = Flow(*full)
    await flow.poll()
    assert (flow.fetched, flow.waited) == (fetched, waited)


LITTLE = [FakeRecord(value=b"v")]
MUCH = [FakeRecord(value=b"v" * SMALL_POLL_BYTES)]


@pytest.mark.parametrize(
    ("records", "records_max", "rest"),
    [(LITTLE, 2, POLL_REST_SECONDS), (LITTLE, None, POLL_REST_SECONDS), (LITTLE, 1, 0.0), (MUCH, 2, 0.0), ([], 2, 0.0)],
)
def test_polls_that_bring_little_keep_a_distance(
    records: list[FakeRecord], records_max: int | None, rest: float
) -> None:
    """What was cut off, by bytes or by number, is not waited for: there is more."""

    async def polls() -> float:
        consumer: Any = object.__new__(Consumer)
        clock, times, handed_over = asyncio.get_running_loop(), [], []
        stopped = asyncio.Event()
        consumer._stopped, consumer.flow_active = stopped, True
        consumer.app = SimpleNamespace(conf=SimpleNamespace(broker_max_poll_records=records_max))
        consumer._get_active_partitions = lambda: {TP("failures", 0)}

        async def poll(active: set[TP]) -> dict[TP, Run]:
            times.append(clock.time())
            if len(times) == 2:
                stopped.set()
            return {TP("failures", 0): Run(0, len(records), records)} if records else {}

        async def hand_over(topic: str, runs: dict[int, Run]) -> None:
            handed_over.append(clock.time())

        consumer._poll, consumer._hand_over = poll, hand_over
        await consumer._drain_messages(SimpleNamespace(_stopped=asyncio.Event()))
        assert handed_over == (times if records else [])  # what came rests in its feed, not here
        return times[1] - times[0]

    assert run(polls()) == pytest.approx(rest)


async def test_changelogs_are_never_fetched_through_the_group() -> None:
    """Neither those of own partitions nor of standbys: they have consumers of their own."""
    assigned = [TP(topic, number) for topic in ("app-failures", "app-messages-changelog") for number in (0, 1)]
    paused, told = [], []

    async def assigned_elsewhere(loop: object, tps: object, generation: int) -> None:
        told.append((set(paused), generation))

    thread: Any = ConsumerThread.__new__(ConsumerThread)
    thread.app = SimpleNamespace(tables=SimpleNamespace(changelog_topics={"app-messages-changelog"}))
    thread.consumer = SimpleNamespace(threadsafe_partitions_assigned=assigned_elsewhere)
    thread.thread_loop = None
    thread._consumer = SimpleNamespace(assignment=lambda: assigned, pause=paused.append)
    await thread.on_partitions_assigned(set(assigned), 7)
    assert told == [({TP("app-messages-changelog", 0), TP("app-messages-changelog", 1)}, 7)]
