"""The garbage collector of a worker: not in the middle of the work, but not never."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import suppress

import pytest

from dlq_stream.worker import collector


class Node:
    """Something that can be part of a cycle."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def spared() -> Iterator[None]:
    """Spare the collector for one test."""
    before = gc.get_threshold()
    collector.spare_the_collector()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_input_does_not_start_it() -> None:
    """As many tuples as a full buffer of small records has."""
    looks: list[str] = []

    def look(phase: str, info: dict[str, int]) -> None:
        looks.append(phase)

    gc.callbacks.append(look)
    try:
        held = [(number, ((str(number), b"value"),)) for number in range(200_000)]
    finally:
        gc.callbacks.remove(look)
    assert len(held) == 200_000
    assert not looks


async def test_cycles_go_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exceptions and tasks leave some behind."""
    monkeypatch.setattr(collector, "COLLECT_SECONDS", 0.01)
    gone = asyncio.Event()
    weakref.finalize(Node(), gone.set)
    assert not gone.is_set()
    task = asyncio.create_task(collector.collect_now_and_then())
    async with asyncio.timeout(10):
        await gone.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
