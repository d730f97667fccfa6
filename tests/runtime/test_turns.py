"""Turns: one at a time, urgent ones first, and a turn that nobody wants any more is passed on."""

from __future__ import annotations

import asyncio

import pytest

from dlq_stream.runtime.turns import Turns
from tests.runtime.fakes import in_virtual_time


async def take(turns: Turns, log: list[str], name: str, *, urgent: bool = False) -> None:
    async with turns.turn(urgent=urgent):
        log.append(name)
        await asyncio.sleep(1)
        log.append(f"{name} done")


@in_virtual_time
async def test_one_at_a_time_in_order() -> None:
    """First come, first served."""
    turns = Turns()
    log: list[str] = []
    await asyncio.gather(*(take(turns, log, name) for name in "abc"))
    assert log == ["a", "a done", "b", "b done", "c", "c done"]


@in_virtual_time
async def test_urgent_ones_go_first() -> None:
    """Whatever waits when a turn ends; among the urgent, and among the others, in order."""
    turns = Turns()
    log: list[str] = []
    orders = [("a", False), ("b", False), ("c", True), ("d", False), ("e", True)]
    await asyncio.gather(*(take(turns, log, name, urgent=urgent) for name, urgent in orders))
    assert log[::2] == ["a", "c", "e", "b", "d"]


@in_virtual_time
async def test_whoever_gives_up_waiting_is_passed_over() -> None:
    """And takes nobody's turn along."""
    turns = Turns()
    log: list[str] = []
    tasks = [asyncio.create_task(take(turns, log, name)) for name in "abc"]
    await asyncio.sleep(0.5)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert log == ["a", "a done", "c", "c done"]


@in_virtual_time
async def test_a_turn_given_to_someone_who_was_cancelled_meanwhile_is_handed_on() -> None:
    """The turn was handed over, and before he runs he is cancelled."""
    turns = Turns()
    log: list[str] = []
    await turns.acquire(False)
    cancelled = asyncio.create_task(take(turns, log, "b"))
    waiting = asyncio.create_task(take(turns, log, "c"))
    await asyncio.sleep(0)
    turns.release()
    cancelled.cancel()
    await asyncio.gather(cancelled, waiting, return_exceptions=True)
    assert log == ["c", "c done"]
    await take(turns, log, "d")


@in_virtual_time
async def test_a_turn_ends_with_an_exception_too() -> None:
    """The next one gets it."""
    turns = Turns()
    log: list[str] = []
    with pytest.raises(ZeroDivisionError):
        async with turns.turn():
            raise ZeroDivisionError
    await take(turns, log, "a")
    assert log == ["a", "a done"]
