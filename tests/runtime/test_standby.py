"""Copies of partitions that other workers own: when they are ready, how they end, and what ends the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

import pytest

from dlq_stream.core.errors import DLQError, UnsupportedFormat
from dlq_stream.runtime.ports import Unavailable
from dlq_stream.runtime.standby import BACKOFF_SECONDS_MAX, Standby, Standbys
from tests.runtime.fakes import Ended, Store, fatal, in_virtual_time
from tests.runtime.test_owner import Machine


class Refused(Exception):
    """The process would have ended with the code for what does not fit."""


def refuse(error: DLQError) -> NoReturn:
    raise Refused(str(error)) from error


class Changelog:
    """Fails as told, then catches up after ``seconds`` and goes on for ever."""

    def __init__(self, *fails: BaseException, seconds: float = 1.0, rows: int = 3) -> None:
        self.fails = list(fails)
        self.seconds = seconds
        self.rows = rows
        self.tries: list[float] = []
        self.cancelled = False

    async def follow(self, caught_up: Callable[[int], None]) -> NoReturn:
        loop = asyncio.get_running_loop()
        self.tries.append(loop.time())
        if self.fails:
            raise self.fails.pop(0)
        await asyncio.sleep(self.seconds)
        caught_up(self.rows)
        try:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)  # as a consumer takes to stop
            self.cancelled = True
            raise


class Copies:
    """Standbys by partition, and how often they were ready."""

    def __init__(self, **changelogs: Changelog) -> None:
        self.changelogs = {int(name[1:]): each for name, each in changelogs.items()}
        self.stores = {number: Store() for number in self.changelogs}
        self.ready = 0
        self.standbys = Standbys(self.new)

    def new(self, number: int) -> Standby:
        return Standby(number, store=self.stores[number], changelog=self.changelogs[number], refuse=refuse, fatal=fatal)

    def on_ready(self) -> None:
        self.ready += 1

    def start(self) -> None:
        self.standbys.start(set(self.changelogs), self.on_ready)

    async def close(self) -> None:
        for standby in self.standbys.take():
            await standby.close()


def task_of(number: int) -> asyncio.Task[None]:
    [task] = [each for each in asyncio.all_tasks() if each.get_name() == f"standby-{number}"]
    return task


@in_virtual_time
async def test_ready_is_said_once_when_all_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    copies = Copies(p1=Changelog(seconds=1, rows=4), p2=Changelog(seconds=3, rows=5))
    copies.start()
    await asyncio.sleep(2)
    assert copies.ready == 0
    await asyncio.sleep(2)
    assert copies.ready == 1
    assert "standbys caught up: partitions [1, 2], 9 rows restored" in caplog.text
    await copies.close()


@in_virtual_time
async def test_none_are_ready_at_once() -> None:
    """A lone worker has nobody to be a standby of."""
    copies = Copies()
    copies.start()
    assert copies.ready == 1


@in_virtual_time
async def test_one_that_catches_up_again_is_not_ready_again() -> None:
    """Brokers were away in between."""

    class Twice(Changelog):
        async def follow(self, caught_up: Callable[[int], None]) -> NoReturn:
            caught_up(1)
            await asyncio.sleep(1)
            raise Unavailable("away")

    copies = Copies(p1=Twice())
    copies.start()
    await asyncio.sleep(30)
    assert copies.ready == 1
    await copies.close()


@in_virtual_time
async def test_silent_brokers_are_asked_again_after_growing_pauses(caplog: pytest.LogCaptureFixture) -> None:
    changelog = Changelog(*(Unavailable("away") for _ in range(9)))
    copies = Copies(p1=changelog)
    copies.start()
    await asyncio.sleep(60)
    pauses = [after - before for before, after in zip(changelog.tries, changelog.tries[1:], strict=False)]
    assert pauses == sorted(pauses)
    assert max(pauses) == pytest.approx(BACKOFF_SECONDS_MAX)
    assert copies.ready == 1
    assert "standby of partition 1: away" in caplog.text
    await copies.close()


@in_virtual_time
async def test_closing_waits_for_the_reader_before_it_releases_the_store() -> None:
    changelog = Changelog()
    copies = Copies(p1=changelog)
    copies.start()
    await asyncio.sleep(5)
    assert not copies.stores[1].closed
    await copies.close()
    assert changelog.cancelled
    assert copies.stores[1].closed


@in_virtual_time
async def test_closing_does_not_wait_for_brokers_that_are_away() -> None:
    copies = Copies(p1=Changelog(*(Unavailable("away") for _ in range(99))))
    copies.start()
    await asyncio.sleep(20)
    async with asyncio.timeout(0.5):
        await copies.close()
    assert copies.stores[1].closed


@pytest.mark.parametrize("error", [ValueError("torn"), asyncio.CancelledError()])
@in_virtual_time
async def test_what_is_unexpected_ends_the_process(error: BaseException) -> None:
    """A copy that stopped in silence would be found out at the take-over, when it is needed.

    A cancellation that nobody sent is one of the ways.
    """
    copies = Copies(p1=Changelog(error))
    copies.start()
    with pytest.raises(Ended, match="standby of partition 1"):
        await task_of(1)
    assert copies.ready == 0
    await copies.close()


@in_virtual_time
async def test_a_format_that_does_not_fit_ends_the_process_as_it_ends_an_owner() -> None:
    copies = Copies(p1=Changelog(UnsupportedFormat("rows of format 02: upgrade this worker")))
    copies.start()
    with pytest.raises(Refused, match="upgrade this worker"):
        await task_of(1)
    await copies.close()


# ----------------------------------------------------------------------------------------------------- with an owner


class Guarded(Machine):
    """An owner that keeps copies on the same disks, each of which one at a time can have open."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: dict[int, list[Store]] = {}
        self.caught_up = 0
        self.owner._standbys = Standbys(self._new_standby)

    def _new_standby(self, number: int) -> Standby:
        if any(not scene.store.closed for scene in self.scenes.get(number, [])):
            raise RuntimeError(f"the store of partition {number} is in use")
        store = Store()
        self.copies.setdefault(number, []).append(store)
        return Standby(number, store=store, changelog=Changelog(), refuse=refuse, fatal=fatal)

    def _new_partition(self, number: int, generation: int) -> object:  # type: ignore[override]
        if any(not store.closed for store in self.copies.get(number, [])):
            raise RuntimeError(f"the store of partition {number} is in use by its standby")
        return super()._new_partition(number, generation)

    def follow(self, *numbers: int) -> None:
        def ready() -> None:
            self.caught_up += 1

        self.owner.follow(set(numbers), ready)


@in_virtual_time
async def test_a_take_over_closes_the_copy_before_it_opens_the_partition() -> None:
    """And the other way round, when the partition goes to another worker and its state stays as a copy."""
    machine = Guarded()
    for generation, (own, others) in enumerate([({0}, {1}), ({0, 1}, set()), ({1}, {0}), ({0}, {1})]):
        await machine.owner.open(own, generation)
        machine.owner.ready({})
        machine.follow(*others)
        await asyncio.sleep(2)
        assert machine.caught_up == generation + 1
    await machine.owner.close()
    assert all(store.closed for stores in machine.copies.values() for store in stores)
    assert [len(machine.copies[number]) for number in (0, 1)] == [1, 2]


@in_virtual_time
async def test_nothing_is_followed_after_a_close() -> None:
    """Which may come between the opening of partitions and the word that they are ready."""
    machine = Guarded()
    await machine.owner.open({0}, 1)
    await machine.owner.close()
    machine.owner.ready({})
    machine.follow(1)
    assert machine.copies == {}
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("standby")] == []


@in_virtual_time
async def test_a_worker_may_have_copies_only() -> None:
    """Where there are more workers than partitions."""
    machine = Guarded()
    await machine.owner.open(set(), 1)
    machine.owner.ready({})
    machine.follow(0, 1)
    await asyncio.sleep(2)
    assert machine.caught_up == 1
    await machine.owner.close()
