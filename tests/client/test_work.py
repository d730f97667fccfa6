"""What becomes of records, with handlers that wait when told to and a reporter whose brokers may be away; no Kafka."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiokafka import TopicPartition

from dlq_stream.client import work as work_module
from dlq_stream.client.current import current_handling, current_record
from dlq_stream.client.traffic import OTHER, QUEUES_MAX, TrafficMeter
from dlq_stream.client.work import Work
from dlq_stream.core import headers as names
from dlq_stream.core.commands import Traffic
from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError
from dlq_stream.core.model import Record
from tests.memory import FakeRecord

ZERO, ONE = TopicPartition("ovens", 0), TopicPartition("ovens", 1)


class Brokers:
    """What was handed over; while ``away``, nothing is."""

    def __init__(self) -> None:
        self.failed: list[int] = []
        self.succeeded_: list[int] = []
        self.away = False
        self.tries = 0

    async def report(self, record: Record, error: BaseException, *, queue: str | None = None) -> str:
        await self._reach()
        self.failed.append(record.offset)
        return ""

    async def succeeded(self, record: Record) -> None:
        await self._reach()
        self.succeeded_.append(record.offset)

    async def _reach(self) -> None:
        self.tries += 1
        await asyncio.sleep(0)
        if self.away:
            raise BrokersUnavailable("away")


class Bench:
    """A `Work` and what goes on in it: `started` and `ended` offsets; a handler of a gated offset waits for it."""

    def __init__(self) -> None:
        self.brokers = Brokers()
        self.meter = TrafficMeter("agents", 1_000)
        self.started: list[int] = []
        self.ended: list[int] = []
        self.gates: dict[int, asyncio.Event] = {}
        self.fails: set[int] = set()
        self.work: Work

    async def handle(self, record: Record) -> None:
        self.started.append(record.offset)
        assert current_record() is record
        if record.offset in self.gates:
            await self.gates[record.offset].wait()
        self.ended.append(record.offset)
        if record.offset in self.fails:
            raise ValueError(record.offset)

    def gate(self, *offsets: int) -> None:
        self.gates |= {offset: asyncio.Event() for offset in offsets}

    def open(self, *offsets: int) -> None:
        for offset in offsets:
            self.gates[offset].set()

    def feed(self, *offsets: int, place: TopicPartition = ZERO, keys: str = "", **fields: Any) -> None:
        records = [
            FakeRecord(place.topic, place.partition, offset, key=keys[n].encode() if keys else None, **fields)
            for n, offset in enumerate(offsets)
        ]
        self.work.feed(place, records, offsets[-1] + 1)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while True:
                if holds():
                    return
                await asyncio.sleep(0.001)


@asynccontextmanager
async def working(handler: Any = None, **options: Any) -> AsyncIterator[Bench]:
    bench = Bench()
    given = {"group": "agents", "queue": None, "concurrency": 4, "records_max": 100, "bytes_max": 1 << 20} | options
    bench.work = Work(handler or bench.handle, bench.brokers, bench.meter, **given)
    bench.work.assign([ZERO, ONE])
    try:
        yield bench
    finally:
        await bench.work.finish(0)


def retry(attempt: int = 1, group: str = "agents", queue: str = "ovens") -> tuple[tuple[str, bytes], ...]:
    values = {names.MESSAGE_ID: "a" * 32, names.ATTEMPT: str(attempt), names.GROUP: group, names.QUEUE: queue}
    return tuple((name, value.encode()) for name, value in values.items())


async def test_records_are_finished_in_any_order_and_committed_in_order() -> None:
    """The oldest unfinished one is where a commit ends; and four at most are at work at a time."""
    async with working() as bench:
        bench.gate(*range(10))
        bench.feed(*range(10))
        await bench.until(lambda: len(bench.started) == 4)
        bench.open(*range(1, 10))
        await bench.until(lambda: len(bench.ended) == 9)
        assert bench.work.committable(ZERO) == 0
        bench.open(0)
        await bench.until(lambda: bench.work.committable(ZERO) == 10)


async def test_a_key_has_one_record_at_work() -> None:
    """Others pass it."""
    async with working() as bench:
        bench.gate(0)
        bench.feed(0, 1, 2, 3, keys="aaba")
        await bench.until(lambda: bench.ended == [2])
        bench.open(0)
        await bench.until(lambda: bench.ended == [2, 0, 1, 3])
        bench.gate(5)
        bench.feed(5, place=ONE, keys="a")
        bench.feed(5, keys="a")  # the same key of another partition is another key
        await bench.until(lambda: bench.started.count(5) == 2)
        bench.open(5)


async def test_a_failure_is_finished_when_it_was_handed_over() -> None:
    """Not before; while it cannot be, its partition stands still, the others do not, and then it goes on in order."""
    async with working(concurrency=1) as bench:
        bench.brokers.away = True
        bench.fails = {1}
        bench.feed(0, 1, 2, 3)
        await bench.until(lambda: not bench.work.has_room(ZERO))
        bench.feed(4, 5)
        bench.feed(0, place=ONE)
        await bench.until(lambda: bench.work.committable(ONE) == 1)
        assert bench.work.committable(ZERO) == 1
        held = len(bench.ended)
        await asyncio.sleep(0.02)
        assert len(bench.ended) == held < 7
        bench.brokers.away = False
        await bench.until(lambda: bench.work.committable(ZERO) == 6)
        assert (bench.brokers.failed, bench.work.has_room(ZERO)) == ([1], True)
        assert [offset for offset in bench.started if offset > 0] == [1, 2, 3, 4, 5]


async def test_outcomes_of_our_retries_are_handed_over() -> None:
    """Those of other groups' retries are none of our business: they are not even handled."""
    async with working() as bench:
        bench.feed(1, headers=retry())
        bench.feed(2, headers=retry(group="others"))
        bench.feed(3, headers=(("trace", b"1"),))
        bench.fails = {4}
        bench.feed(4, headers=retry(2))
        await bench.until(lambda: bench.work.committable(ZERO) == 5)
        assert (bench.brokers.succeeded_, bench.brokers.failed) == ([1], [4])
        assert sorted(bench.started) == [1, 3, 4]


async def test_who_reported_the_failure_himself_has_not_succeeded() -> None:
    """A handler that hands the failure over and returns must not resolve the message."""

    async def handle(record: Record) -> None:
        run = current_handling()
        assert run is not None
        run.reported = record.offset != 2
        if record.offset == 3:
            raise ValueError("has been reported already")

    async with working(handle) as bench:
        bench.feed(1, headers=retry())
        bench.feed(2, headers=retry())
        bench.feed(3, headers=retry())
        await bench.until(lambda: bench.work.committable(ZERO) == 4)
        assert (bench.brokers.succeeded_, bench.brokers.failed) == ([2], [])


async def test_a_partition_that_is_taken_away_and_comes_back() -> None:
    """What waits is dropped; what runs beyond the bound, or is finished, is not started again, and is not overtaken."""
    async with working() as bench:
        bench.gate(0)
        bench.feed(0, 1, 2, keys="aab")
        await bench.until(lambda: bench.ended == [2])
        await bench.work.let_go([ZERO], 0.01)
        bench.work.lose([ZERO])
        assert bench.work.committable(ZERO) is None
        bench.work.assign([ZERO])
        bench.feed(0, 1, 2, keys="aab")
        bench.feed(9, place=ONE)
        await bench.until(lambda: bench.work.committable(ONE) == 10)
        assert bench.work.committable(ZERO) == 0
        bench.open(0)
        await bench.until(lambda: bench.work.committable(ZERO) == 3)
        assert (bench.started.count(1), bench.ended) == (1, [2, 9, 0, 1])


async def test_what_was_finished_ahead_is_not_handled_again() -> None:
    """It could not be committed, for something before it was at work when the partition was taken away."""
    async with working() as bench:
        bench.gate(0)
        bench.feed(0, 1, 2, timestamp=7)
        await bench.until(lambda: bench.ended == [1, 2])
        for _ in range(2):
            bench.work.lose([ZERO])
            bench.work.assign([ZERO])
            bench.feed(0, 1, timestamp=7)
        bench.feed(2, timestamp=8)  # the topic was made anew
        await bench.until(lambda: bench.ended == [1, 2, 2])
        bench.open(0)
        await bench.until(lambda: bench.work.committable(ZERO) == 3)
        assert (bench.ended, bench.work._place(ZERO).done) == ([1, 2, 2, 0], {})


async def test_a_record_of_a_topic_that_was_made_anew_is_another_record() -> None:
    """The same offset does not make it the one that still runs."""
    async with working() as bench:
        bench.gate(0)
        bench.feed(0, timestamp=1)
        await bench.until(lambda: bench.started == [0])
        bench.work.lose([ZERO])
        bench.work.assign([ZERO])
        bench.feed(0, timestamp=2)
        await bench.until(lambda: bench.started == [0, 0])
        bench.open(0)
        await bench.until(lambda: bench.work.committable(ZERO) == 1)


async def test_what_ends_after_its_partition_went_is_not_handed_over() -> None:
    """Whoever has the partition now handles the record himself."""
    async with working() as bench:
        bench.gate(0)
        bench.fails = {0}
        bench.feed(0)
        await bench.until(lambda: bench.started == [0])
        bench.work.lose([ZERO])
        bench.open(0)
        await bench.until(lambda: bench.ended == [0])
        await asyncio.sleep(0.01)
        assert bench.brokers.tries == 0


@pytest.mark.parametrize("fails", [False, True])
async def test_what_ended_while_its_partition_was_away_is_not_started_again(fails: bool) -> None:
    """If it comes back with that record, the result counts."""
    async with working() as bench:
        bench.gate(0, 1)
        bench.fails = {0} if fails else set()
        bench.feed(0, 1)
        await bench.until(lambda: len(bench.started) == 2)
        bench.work.lose([ZERO])
        bench.open(0, 1)
        await bench.until(lambda: len(bench.ended) == 2)
        bench.work.assign([ZERO])
        bench.feed(0)
        await bench.until(lambda: bench.work.committable(ZERO) == 1)
        assert (bench.started.count(0), bench.brokers.failed) == (1, [0] if fails else [])
        bench.feed(2)  # somebody else has committed 1
        await bench.until(lambda: bench.work.committable(ZERO) == 3)
        assert not bench.work._place(ZERO).left


async def test_a_result_is_handed_over_once_its_partition_is_back() -> None:
    """Not while it is away; and what is acknowledged meanwhile is not handled again."""
    async with working() as bench:
        bench.brokers.away = True
        bench.fails = {0}
        bench.feed(0)
        await bench.until(lambda: bench.brokers.tries == 1)
        bench.work.lose([ZERO])
        bench.brokers.away = False
        await bench.until(lambda: bench.work._place(ZERO).held == 0)
        assert bench.brokers.failed == []
        bench.work.assign([ZERO])
        bench.feed(0)
        bench.work.lose([ZERO])
        bench.work.assign([ZERO])
        bench.feed(0)
        await bench.until(lambda: bench.work.committable(ZERO) == 1)
        assert (bench.started, bench.brokers.failed) == ([0], [0])


async def test_letting_go_waits_for_what_runs_and_its_result() -> None:
    """But not for longer than it may."""
    async with working() as bench:
        bench.gate(0)
        bench.fails = {0}
        bench.feed(0)
        await bench.until(lambda: bench.started == [0])
        letting = asyncio.create_task(bench.work.let_go([ZERO], 5))
        await asyncio.sleep(0.01)
        assert not letting.done()
        bench.open(0)
        await letting
        assert (bench.brokers.failed, bench.work.committable(ZERO)) == ([0], 1)


async def test_a_log_that_goes_back_is_read_again() -> None:
    """Truncated, or made anew: what comes is handled, whatever was at that offset before."""
    async with working() as bench:
        bench.feed(7, 8)
        await bench.until(lambda: bench.work.committable(ZERO) == 9)
        bench.work.reached(ZERO, 2)
        bench.feed(3, 4)
        await bench.until(lambda: bench.work.committable(ZERO) == 5)
        assert bench.ended == [7, 8, 3, 4]


@pytest.mark.parametrize("bound", [{"records_max": 4}, {"bytes_max": 40}])
async def test_a_partition_is_full_at_its_bound_until_half_is_finished(bound: dict[str, int]) -> None:
    """In records or bytes; others have room meanwhile."""
    async with working(**bound) as bench:
        bench.gate(0, 1, 2, 3)
        bench.feed(0, 1, 2, 3, value=b"0123456789")
        assert (bench.work.has_room(ZERO), bench.work.has_room(ONE)) == (False, True)
        bench.open(0)
        await bench.until(lambda: bench.ended == [0])
        assert not bench.work.has_room(ZERO)
        bench.open(1, 2)
        await bench.work.room(5)
        assert bench.work.has_room(ZERO)
        bench.open(3)


async def test_headers_count_as_bytes() -> None:
    """They may be all that there is of a record."""
    async with working(bytes_max=1_000) as bench:
        bench.gate(0)
        bench.feed(0, headers=(("trace", b"7" * 2_000), ("none", None)))
        assert not bench.work.has_room(ZERO)
        bench.open(0)
        await bench.until(lambda: bench.work.has_room(ZERO))


async def test_a_retry_that_is_addressed_to_nobody_is_handled() -> None:
    """Whoever reported the failure named no group; nobody else would take it for his."""
    async with working() as bench:
        bench.feed(1, headers=retry(group=""))
        bench.feed(2, headers=retry()[:2])
        bench.feed(3, headers=retry(group="others"))
        await bench.until(lambda: bench.work.committable(ZERO) == 4)
        assert sorted(bench.started) == [1, 2]


async def test_one_slow_record_holds_up_its_partition_in_the_end() -> None:
    """What is finished ahead of it is bounded, too: all of that would be handled again after a crash."""
    async with working(records_max=4) as bench:
        bench.gate(0)
        bench.feed(0)
        for offset in range(1, work_module.SPAN * 4):
            assert bench.work.has_room(ZERO)
            bench.feed(offset)
            await bench.until(lambda: bench.ended[-1:] == [offset])  # noqa: B023
        assert not bench.work.has_room(ZERO)
        bench.open(0)
        await bench.until(lambda: bench.work.has_room(ZERO))


async def test_a_handler_whose_inside_is_cancelled_has_failed() -> None:
    """Nobody asked the consumer to stop."""

    async def handle(record: Record) -> None:
        raise asyncio.CancelledError

    async with working(handle) as bench:
        bench.feed(0)
        await bench.until(lambda: bench.work.committable(ZERO) == 1)
        assert bench.brokers.failed == [0]


@pytest.mark.parametrize("how", ["raises", "translates", "returns"])
async def test_a_handler_that_cancels_the_task_it_runs_in_costs_no_worker(how: str) -> None:
    """Libraries that bound time so, and do not take it back afterwards, would end one worker after the other."""
    ended = []

    async def handle(record: Record) -> None:
        task = asyncio.current_task()
        assert task is not None
        ended.append(record.offset)
        task.cancel()
        if how == "raises":
            await asyncio.sleep(60)
        if how == "translates":
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise TimeoutError from None

    async with working(handle, concurrency=1) as bench:
        for offset in range(3):
            bench.feed(offset)
            await bench.until(lambda: bench.work.committable(ZERO) == offset + 1)  # noqa: B023
        bench.feed(3, 4)
        await bench.until(lambda: bench.work.committable(ZERO) == 5)
        assert ended == [0, 1, 2, 3, 4]
        assert bench.brokers.failed == ([] if how == "returns" else ended)


async def test_a_consumer_that_is_cancelled_with_everything_else_reports_nothing_for_it() -> None:
    """As at the end of `asyncio.run`: nobody's handler has failed."""
    bench = Bench()

    async def consume() -> None:
        bench.work = Work(
            bench.handle,
            bench.brokers,
            bench.meter,
            group="agents",
            queue=None,
            concurrency=1,
            records_max=9,
            bytes_max=9,
        )
        bench.work.assign([ZERO])
        bench.gate(0)
        bench.feed(0)
        try:
            await asyncio.sleep(60)
        finally:
            await bench.work.finish(0)

    owner = asyncio.create_task(consume())
    await bench.until(lambda: bench.started == [0])
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.wait([owner])
    assert (bench.work.committable(ZERO), bench.brokers.tries) == (0, 0)


async def test_at_the_end_handlers_are_cancelled_and_stay_unfinished() -> None:
    """After their time; one that finishes all the same is finished."""
    stopped = asyncio.Event()

    async def handle(record: Record) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if record.offset != 0:
                raise
            stopped.set()

    async with working(handle) as bench:
        bench.feed(0, 1)
        await asyncio.sleep(0.01)
        await bench.work.finish(0.01)
        assert stopped.is_set()
        assert bench.work.committable(ZERO) == 1


async def test_plain_handlers_run_in_threads() -> None:
    """Several at a time, the record in their context, order per key, failures handed over; the loop goes on."""
    started: list[int] = []
    together = threading.Barrier(2, timeout=5)

    def handle(record: Record) -> None:
        assert current_record() is record
        assert threading.current_thread() is not threading.main_thread()
        started.append(record.offset)
        if record.offset in (0, 1):
            together.wait()
        if record.offset == 2:
            raise ValueError

    async with working(handle, concurrency=2) as bench:
        bench.feed(0, 1, 2, 3, keys="abbb")
        await bench.until(lambda: bench.work.committable(ZERO) == 4)
        assert [offset for offset in started if offset] == [1, 2, 3]
        assert bench.brokers.failed == [2]


async def test_a_plain_function_that_returns_a_coroutine_is_a_mistake() -> None:
    """The record is not taken for handled."""

    async def nobody_awaits() -> None: ...

    async with working(lambda record: nobody_awaits()) as bench:
        bench.feed(0)
        with pytest.raises(ConfigurationError, match="async def"):
            await bench.work.failure
        assert bench.work.committable(ZERO) == 0


@pytest.mark.parametrize("kind", ["generator", "async generator"])
async def test_a_function_with_a_yield_in_it_is_a_mistake(kind: str) -> None:
    """Calling it runs nothing of it."""

    def generate() -> Iterator[int]:
        yield 1

    async def generate_later() -> AsyncIterator[int]:
        yield 1

    async with working(lambda record: generate() if kind == "generator" else generate_later()) as bench:
        bench.feed(0)
        with pytest.raises(ConfigurationError, match="yield"):
            await bench.work.failure
        assert bench.work.committable(ZERO) == 0


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_what_is_no_exception_is_not_waited_for(plain: bool) -> None:
    """Its record stays unfinished, but it does not run any more."""

    class Stop(BaseException):
        pass

    def leave(record: Record) -> None:
        raise Stop

    async def leave_later(record: Record) -> None:
        raise Stop

    async with working(leave if plain else leave_later) as bench:
        bench.feed(0)
        with pytest.raises(Stop):
            await bench.work.failure
        async with asyncio.timeout(1):
            await bench.work.finish(60)
        assert bench.work.committable(ZERO) == 0


async def test_a_handler_that_does_not_let_itself_be_cancelled_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """And left to itself."""
    gate = asyncio.Event()

    async def handle(record: Record) -> None:
        while not gate.is_set():
            with suppress(asyncio.CancelledError):
                await gate.wait()

    async with working(handle) as bench:
        bench.feed(0)
        await asyncio.sleep(0.01)
        await bench.work.finish(0)
        assert "ovens-0 offset 0: the handler goes on though it was cancelled" in caplog.text
        gate.set()


async def test_what_is_no_exception_ends_the_consumer() -> None:
    """`sys.exit` in a thread is not the record's fault; out of a task, asyncio lets it through by itself."""

    def leave(record: Record) -> None:
        raise SystemExit(3)

    async with working(leave) as bench:
        bench.feed(0)
        with pytest.raises(SystemExit):
            await bench.work.failure
        assert bench.work.committable(ZERO) == 0


async def test_traffic_is_counted_per_queue() -> None:
    """Retries for the queue of their message; and what could not be sent is part of the next report."""
    async with working() as bench:
        bench.fails = {1}
        bench.feed(0, 1, 2)
        bench.feed(3, headers=retry(queue="kilns"))
        bench.feed(4, headers=retry(group="others"))
        await bench.until(lambda: bench.work.committable(ZERO) == 5)
        reports = bench.meter.take(2_000)
        assert reports == [
            Traffic("ovens", "agents", 3, 1, 1_000, 2_000),
            Traffic("kilns", "agents", 1, 0, 1_000, 2_000),
        ]
        assert bench.meter.take(2_500) == []
        bench.meter.put_back(reports[0])
        assert bench.meter.take(3_000) == [Traffic("ovens", "agents", 3, 1, 1_000, 3_000)]
        assert bench.meter.take(10) == []


def test_queues_that_are_counted_are_bounded() -> None:
    """Whoever may write headers may write names."""
    meter = TrafficMeter("agents", 0)
    for number in range(QUEUES_MAX + 5):
        meter.of(f"queue-{number}").processed += 1
    counts = {report.queue: report.processed for report in meter.take(1)}
    assert (len(counts), counts[OTHER]) == (QUEUES_MAX + 1, 5)
