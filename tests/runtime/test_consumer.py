"""What is fetched, and handing it over to agents' queues."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mode.utils.queues import FlowControlEvent, ThrowableQueue

from dlq_stream.runtime.consumer import forward, put_unless
from dlq_stream.runtime.ports import Run
from tests.memory import FakeRecord


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
