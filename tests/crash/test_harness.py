"""What became of the workers, how long they were away, and the table that says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dlq_stream.core.model import Record
from tests.crash.fleet import Comeback, Fleet
from tests.crash.harness import back_at_work, first_retry_seconds, wrong_ends
from tests.crash.report import COLUMNS, failed, skipped, table
from tests.crash.story import PARTITIONS
from tests.crash.test_checks import BEGAN_MS, STORY, Ideal
from tests.crash.traffic import Topics, Traffic, delivery_of


@pytest.mark.parametrize(
    ("exits", "kills", "wrong"),
    [
        ([0], 0, 0),
        ([-9, 0], 1, 0),
        ([-9, -9, 0], 2, 0),
        ([-9], 0, 1),  # did not end when told to, and was killed for it
        ([70, 0], 0, 1),
        ([-9, 70, 0], 1, 1),
        ([0, 0], 0, 1),
        ([1], 0, 1),
        ([0], 1, 1),  # a kill that hit nobody proves nothing
        ([], 0, 1),
    ],
)
def test_wrong_ends_of_processes_are_found(exits: list[int], kills: int, wrong: int, tmp_path: Path) -> None:
    """Only kills may end a worker before its time, each kill ends one, and SIGTERM ends it with 0."""
    fleet = Fleet(tmp_path, ["a"], {})
    fleet.workers["a"].exits = exits
    fleet.comebacks = [Comeback("a", frozenset(), 0, 1.0)] * kills
    assert len(wrong_ends(fleet, (-9,))) == wrong


def test_ends_that_were_asked_for_are_counted(tmp_path: Path) -> None:
    """A worker that was told to end and come back ended with 0, once each time."""
    fleet = Fleet(tmp_path, ["a"], {})
    fleet.workers["a"].exits, fleet.workers["a"].told = [0, -9, 0, 0], 2
    fleet.comebacks = [Comeback("a", frozenset(), 0, 1.0), Comeback("a", frozenset(), 0, None, "restart")]
    assert wrong_ends(fleet, (-9,)) == []
    fleet.workers["a"].told = 3
    assert wrong_ends(fleet, (-9,)) == ["a was told to end 3 times and did 2 times"]


def test_partitions_are_read_from_the_last_line_that_says_ready(tmp_path: Path) -> None:
    """And only from what was written since, where that is asked."""
    worker = Fleet(tmp_path, ["a"], {}).workers["a"]
    assert worker.partitions() == frozenset()
    worker.log.write_text("x ready: partitions [1, 12]\nx closed\n")
    assert worker.partitions() == {1, 12}
    written = len(worker.text())
    assert worker.partitions(since=written) == frozenset()
    with worker.log.open("a") as log:
        log.write("x ready: partitions [3]\n")
    assert worker.partitions() == worker.partitions(since=written) == {3}
    with worker.log.open("a") as log:
        log.write("x ready: partitions []\n")
    assert worker.partitions() == frozenset()


def test_the_first_retry_after_a_kill_is_one_of_that_worker() -> None:
    """Retries of other partitions, and earlier ones, do not count."""
    evidence = Ideal(STORY).evidence()
    by_id = STORY.by_id()
    mine = [r for r in evidence.retries if by_id[dict(r.headers)["dlq-message-id"].decode()].home == 1]  # type: ignore[union-attr]
    killed_ms = sorted(record.timestamp for record in mine)[10]
    after = min(record.timestamp for record in mine if record.timestamp > killed_ms)
    comeback = Comeback("a", frozenset((1,)), killed_ms, 1.0)
    assert first_retry_seconds(STORY, comeback, evidence.retries) == (after - killed_ms) / 1000
    assert first_retry_seconds(STORY, replace(comeback, partitions=frozenset()), evidence.retries) is None


def test_other_troubles_last_as_long_as_a_retry_was_due_and_did_not_come() -> None:
    """What is still emitted at their beginning does not count, nor does a time in which nothing falls due."""
    evidence = Ideal(STORY).evidence()
    [first, *_, last] = sorted(evidence.retries, key=lambda record: record.timestamp)
    by_id, homes = STORY.by_id(), frozenset(range(PARTITIONS))

    def at(seconds: float, due: float) -> Any:
        headers = (*first.headers, ("dlq-due-at", b"%d" % (BEGAN_MS + int(due * 1000))))
        return replace(first, timestamp=BEGAN_MS + int(seconds * 1000), headers=headers)

    assert {by_id[dict(each.headers)["dlq-message-id"].decode()].home for each in (first, last)} <= homes
    retries = [at(0.1, 0.05), at(7.5, -3.0), at(7.6, 2.0), at(7.7, 7.65), at(20.0, 9.0), at(33.0, 32.9)]
    cut = Comeback("a", homes, BEGAN_MS, None, "cut")
    freeze = Comeback("b", homes, BEGAN_MS + 7_800, None, "freeze")
    assert list(back_at_work(STORY, [cut, freeze], retries)) == [7.5, 11.0]
    assert list(back_at_work(STORY, [replace(cut, partitions=frozenset())], retries)) == [None]


def test_a_take_over_is_as_long_as_its_trouble_has_seen() -> None:
    """Whatever else was appended after the kill."""
    evidence = Ideal(STORY).evidence()
    killed = Comeback("a", frozenset(range(PARTITIONS)), BEGAN_MS, 7.0, emitting_seconds=7.25)
    assert list(back_at_work(STORY, [killed], evidence.retries)) == [7.25]
    not_seen = replace(killed, emitting_seconds=None)
    appended = first_retry_seconds(STORY, not_seen, evidence.retries)
    assert list(back_at_work(STORY, [not_seen], evidence.retries)) == [appended]


async def test_the_first_retry_of_some_partitions_is_one_that_fell_due_later() -> None:
    """Neither another partition's, nor one that the former owner may have emitted; and each is seen once."""
    [one, *_] = evidence = Ideal(STORY).evidence().retries
    home = STORY.by_id()[delivery_of(one).id].home
    [other, *_] = (each for each in evidence if STORY.by_id()[delivery_of(each).id].home != home)
    traffic = Traffic("nowhere:1", Topics("failures", "commands", "heat"), STORY, per_second=1)
    retry = traffic.first_retry([home], due_after_ms=1_000)

    def due(record: Record, at_ms: int) -> Any:
        return replace(record, headers=(*record.headers, ("dlq-due-at", b"%d" % at_ms)))  # type: ignore[type-var]

    for record, at_ms in ((other, 2_000), (one, 900), (one, 1_000)):
        traffic.tell(due(record, at_ms), 1.0)
        assert not retry.done()
    traffic.tell(due(one, 1_001), 2.0)
    traffic.tell(due(one, 1_002), 3.0)
    assert await retry == 2.0


def test_the_table_has_a_line_for_each_scenario() -> None:
    """Those that failed or were skipped have one as well."""
    lines = table([failed("cut", 5), skipped("upgrade")]).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}
    assert "(seed 5): NOT PLAYED TO ITS END" in lines[2]
    assert "SKIPPED" in lines[3]
