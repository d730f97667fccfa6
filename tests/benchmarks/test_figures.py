"""What the benchmarks make of their measurements; measuring itself is not done in tests."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as bench
from tests.benchmarks import report, retry_consumer
from tests.benchmarks.figure import QUICK, Result, Row, Sizes, at_least, at_most, summary
from tests.benchmarks.intake import Pair, pairs_table, ratio
from tests.benchmarks.lateness import rows_of, spread
from tests.benchmarks.meter import Sample, Speed, cpu_seconds, speed
from tests.benchmarks.pending import peak_bytes, per_message, resident_bytes, topic_bytes
from tests.benchmarks.probed import watch
from tests.benchmarks.processes import worker_environment
from tests.benchmarks.records import STACKTRACE_BYTES, VALUE_BYTES, events, readings, small_events
from tests.benchmarks.stall import during, read


def pair(worker: float, pipe: float = 10_000) -> Pair:
    return Pair(pipe=Speed(pipe, 20.0), worker=Speed(worker, None))


# ------------------------------------------------------------------------------------------------------------ judging


def test_a_bound_holds_up_to_itself_and_says_so_in_words() -> None:
    """At the bound it holds, beyond it does not, and what has no bound has no verdict."""
    assert [at_least("x", value, 0.3).verdict for value in (0.31, 0.3, 0.299)] == ["holds", "holds", "DOES NOT HOLD"]
    assert [at_most("x", value, 60).verdict for value in (59, 60, 60.1)] == ["holds", "holds", "DOES NOT HOLD"]
    assert Row("x", "1 s").verdict == ""


def test_a_result_holds_when_all_its_bounds_do() -> None:
    """Rows without a bound do not count."""
    assert Result([at_most("x", 1, 1), Row("y", "1 s")]).holds
    assert not Result([at_most("x", 1, 1), at_least("y", 0, 1)]).holds


def test_the_summary_has_a_row_for_each_figure() -> None:
    """With unit, note, bound and verdict."""
    text = summary([at_most("p99", 1234.5, 60, unit=" ms", note="p50 3 ms"), Row("ready", "2.1 s", "aim 3 s")])
    assert text.splitlines()[2:] == [
        "| p99 | 1,234 ms (p50 3 ms) | <= 60 ms | DOES NOT HOLD |",
        "| ready | 2.1 s | aim 3 s |  |",
    ]


# ------------------------------------------------------------------------------------------------------------ options


def test_figures_are_chosen_by_name() -> None:
    """Each is known by its name and says in a sentence what it is; an unknown name is an error that lists all."""
    options = bench.arguments().parse_args(["--only", "burst, steady"])
    assert options.only == ["burst", "steady"]
    assert bench.arguments().parse_args([]).only == list(bench.FIGURES)
    assert all(measure.__doc__ for measure in bench.FIGURES.values())
    for text in ("speed", "burst,speed", " , "):
        with pytest.raises(argparse.ArgumentTypeError, match=r"intake, small, burst"):
            bench.names_of(text)


def test_sizes_come_from_the_options() -> None:
    """Over the small numbers of --quick, or the usual ones."""
    parse = bench.arguments().parse_args
    assert bench.sizes_of(parse([])) == Sizes()
    assert bench.sizes_of(parse(["--quick"])) == QUICK
    assert bench.sizes_of(parse(["--pending", "7"])).pending == 7
    for wrong in ("0", "-1", "1.5", "many"):
        with pytest.raises(argparse.ArgumentTypeError, match="not a whole number of 1 or more"):
            bench.at_least_one(wrong)


async def test_a_figure_that_could_not_be_measured_does_not_hold() -> None:
    """It is a row of the table like the others, with the reason."""

    async def broken() -> Result:
        raise TimeoutError("no retry came")

    result = await bench.attempted("burst", broken())
    assert not result.holds
    assert summary(result.rows).endswith("| burst | not measured: TimeoutError: no retry came | - | DOES NOT HOLD |")


def test_the_footer_says_what_the_figures_are_worth() -> None:
    """When, where, with what; and whether the machine was busy or the numbers small."""
    quiet = bench.footer(load=0.4, seconds=600, quick=False)
    for name in ("Kafka 4", "aiokafka 0", "faust-streaming 0", "cores", "600 s", "load average before 0.4"):
        assert name in quiet
    assert "BUSY" not in quiet
    assert "SAY NOTHING" not in quiet
    assert "BUSY" in bench.footer(load=1.0, seconds=600, quick=False)
    assert "SAY NOTHING" in bench.footer(load=0.4, seconds=600, quick=True)


def test_a_worker_gets_the_default_settings_but_for_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is set in the environment is none of its business."""
    monkeypatch.setenv("DLQ_POLL_RECORDS_MAX", "7")
    environment = worker_environment("host:9092", "app", 4, {"max_retries": 2})
    assert {name: value for name, value in environment.items() if name.startswith("DLQ_")} == {
        "DLQ_BROKERS": "host:9092",
        "DLQ_APP_ID": "app",
        "DLQ_PARTITIONS": "4",
        "DLQ_INITIAL_BACKOFF_SECONDS": "3600",
        "DLQ_WEB_PORT": "0",
        "DLQ_MAX_RETRIES": "2",
    }


# ------------------------------------------------------------------------------------------------------------- speeds


def test_speed_is_between_the_first_commit_and_the_last() -> None:
    """What comes before the first (start-up) and after the last does not count."""
    samples = [Sample(0, 0, 1.0), Sample(5, 0, 2.0), Sample(6, 100, 3.0), Sample(7, 500), Sample(8, 1_100, 5.0)]
    assert speed([*samples, Sample(60, 1_100, 9.0)], 1_100) == Speed(500.0, 2_000.0)


@pytest.mark.parametrize("records", [[], [0, 0], [0, 50], [0, 100], [100, 100]])
def test_no_steady_state_is_no_figure(records: list[int]) -> None:
    """Nothing committed, not all of it, or all of it at once."""
    with pytest.raises(ValueError, match="no progress"):
        speed([Sample(at, count) for at, count in enumerate(records)], 100)


def test_processor_seconds_grow_with_work() -> None:
    """Of a process that exists; else there is no figure."""
    before = cpu_seconds(os.getpid())
    if before is None:
        pytest.skip("this system has no /proc")
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert (cpu_seconds(os.getpid()) or 0) > before
    assert cpu_seconds(2**31 - 1) is None


def test_the_ratio_is_the_median_of_the_pairs() -> None:
    """One bad pair does not decide, and pairs are compared within themselves."""
    pairs = [pair(4_100), pair(10), pair(8_400, pipe=20_000)]
    assert ratio(pairs) == 0.41
    text = pairs_table(pairs)
    assert "| 1 | 10,000 | 4,100 | 0.41 | 20 | - |" in text
    assert "| **median** | 10,000 | 4,100 | 0.41 | 20 | - |" in text


# ----------------------------------------------------------------------------------------------------------- lateness


def test_percentiles_are_values_that_were_measured() -> None:
    """By nearest rank: of a hundred values the 99th is the p99, of one value it is that."""
    shape = spread([float(value) for value in range(100, 0, -1)])
    assert (shape.count, shape.least, shape.p50, shape.p99, shape.most) == (100, 1.0, 50.0, 99.0, 100.0)
    alone = spread([7.0])
    assert (alone.p50, alone.p99) == (7.0, 7.0)
    with pytest.raises(ValueError, match="nothing was measured"):
        spread([])


def test_lateness_is_held_to_the_worst_hop_and_nothing_may_be_early() -> None:
    """A good hop does not make up for a bad one, nor one late retry for an early one."""
    good, bad = [10.0] * 100, [10.0] * 98 + [61.0, 70.0]
    assert [row.holds for row in rows_of("x", {1: good, 2: good})] == [True, True]
    assert [row.holds for row in rows_of("x", {1: good, 2: bad})] == [False, True]
    assert [row.holds for row in rows_of("x", {1: [*good, -0.1]})] == [True, False]
    assert "largest 70 ms" in rows_of("x", {1: good, 2: bad})[0].measured


# ------------------------------------------------------------------------------------------------------------- stalls


def test_stalls_count_while_input_is_taken_in() -> None:
    """Those of the start and the end do not."""
    samples = [Sample(1, 0), Sample(2, 5), Sample(3, 10), Sample(9, 10)]
    stalls = [(1.5, 0.9), (2.0, 0.010), (2.5, 0.025), (3.0, 0.030), (3.1, 0.8)]
    assert during(samples, 10, stalls) == [10.0, 25.0, 30.0]


async def test_the_probe_sees_a_loop_that_is_held(tmp_path: Path) -> None:
    """And how long."""
    file = tmp_path / "stalls"
    probe = asyncio.create_task(watch(file))
    await asyncio.sleep(0.01)
    time.sleep(0.05)  # noqa: ASYNC251  # the stall
    await asyncio.sleep(0.01)
    probe.cancel()
    assert max(seconds for _, seconds in read(file)) >= 0.045


# ------------------------------------------------------------------------------------------------------------ pending


def test_memory_per_message_is_what_is_added() -> None:
    """What is there with few messages already is not theirs."""
    assert per_message(100_000, 190_000, 900) == 100.0
    assert per_message(100_000, 90_000, 900) == 0.0


def test_resident_memory_is_that_of_the_process() -> None:
    """In bytes, where the system says it."""
    if not Path("/proc/self/status").exists():
        pytest.skip("this system has no /proc")
    before = resident_bytes(os.getpid())
    held = b"x" * (64 << 20)
    assert resident_bytes(os.getpid()) - before > len(held) // 2
    del held
    assert peak_bytes(os.getpid()) - before > 32 << 20
    assert peak_bytes(os.getpid()) - resident_bytes(os.getpid()) > 32 << 20


def test_bytes_of_topics_are_those_of_their_segments(tmp_path: Path) -> None:
    """Over all partitions; indexes and other topics do not count."""
    for name, size in (("a-x-0/0.log", 10), ("a-x-1/0.log", 5), ("a-x-1/0.index", 99), ("b-x-0/0.log", 99)):
        file = tmp_path / "logs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"." * size)
    assert topic_bytes(tmp_path, "a-") == {"x": 15}


# ------------------------------------------------------------------------------------------------------------- events


def test_events_are_realistic_and_all_different() -> None:
    """About the sizes that are said, and no id twice."""
    made = list(events(200, seed=1))
    assert len({key for key, _, _ in made}) == 200
    for key, value, headers in made:
        assert len(value) == VALUE_BYTES
        trace = dict(headers)["dlq-error-stacktrace"]
        assert trace is not None
        assert STACKTRACE_BYTES * 0.9 < len(trace) <= STACKTRACE_BYTES
        assert dict(headers)["dlq-message-id"] == key
        assert len(headers) == 13


def test_small_events_have_four_headers_of_ours() -> None:
    """And the same values; other seeds make other events."""
    made = list(small_events(50, seed=1))
    assert len({key for key, _, _ in made} | {key for key, _, _ in small_events(50, seed=2)}) == 100
    for key, value, headers in made:
        assert len(value) == VALUE_BYTES
        assert [name.startswith("dlq-") for name, _ in headers] == [True] * 4
        assert dict(headers)["dlq-message-id"] == key


# ---------------------------------------------------------------------------------------------------------- the client


def test_a_consumer_is_held_to_the_bare_one_of_its_round() -> None:
    """Ratios are taken within a round; what it costs beside is processor time."""
    bare, slow = Speed(10_000, 10.0), Speed(3_000, 35.0)
    rounds = [
        {"bare": bare, "async": Speed(5_000, 30.0), "plain": slow, "failing": slow},
        {"bare": Speed(20_000, 10.0), "async": Speed(9_000, 31.0), "plain": slow, "failing": Speed(3_000, None)},
        {"bare": bare, "async": Speed(4_500, 29.0), "plain": slow, "failing": slow},
    ]
    first, plain, failing = retry_consumer.result_of(rounds, 100).rows
    assert (first.measured, first.verdict) == ("0.450 (5,000/s, 20 µs of processor time more per record)", "holds")
    assert (plain.measured.split(" ")[0], plain.verdict) == ("0.300", "DOES NOT HOLD")
    assert (failing.measured.split(" ")[0], failing.verdict) == ("0.300", "")


def test_calls_are_held_to_the_bare_producer_of_their_round() -> None:
    """Times are those of all rounds together."""
    alone, among = ([1.0, 2.0], 100.0), ([5.0] * 98 + [80.0] * 2, 900.0)
    rounds = [(alone, among, ([9.0], 3_100.0), 10_000.0), (alone, among, ([9.0], 2_900.0), 10_000.0)]
    one, hundred, many = report.result_of(rounds).rows
    assert one.measured == "p50 1.0 ms, p99 2.0 ms (100/s)"
    assert hundred.measured == "p50 5.0 ms, p99 80.0 ms (900/s)"
    assert (many.measured, many.verdict) == ("0.300 (3,000/s)", "holds")


def test_readings_are_records_of_a_source_topic() -> None:
    """None of our headers, and as large as the values of events."""
    made = list(readings(50, seed=1))
    assert made == list(readings(50, seed=1))
    assert {len(value) for _, value, _ in made} == {VALUE_BYTES}
    assert {name for *_, headers in made for name, _ in headers} == {"trace"}


async def test_what_is_reported_in_the_benchmark_is_an_error_with_a_cause() -> None:
    """As an agent's is, each with a text of its own."""
    error = report.an_error(7)
    assert isinstance(error.__cause__, ConnectionError)
    assert str(error) != str(report.an_error(8))
