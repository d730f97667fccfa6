"""What killed agents did, judged: nothing lost, nothing handled twice that was committed, keys in order.

Pure: journals as `tests.crash.agent` writes them, the offsets that were committed at each death, and the failures that
the topic of failures has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.crash.agent import fails
from tests.crash.checks import Findings

Place = tuple[int, int]
"""Partition and offset of a record."""


@dataclass(frozen=True, slots=True)
class Life:
    """One process: its journal, and what its group had committed of each partition when the process began."""

    journal: str
    committed: Mapping[int, int]

    @property
    def began(self) -> list[tuple[Place, str]]:
        """Each record that was given to the handler, in order, with its key."""
        lines = (line.split(" ") for line in self._lines if line.startswith("+ "))
        return [((int(partition), int(offset)), key) for _, partition, offset, key in lines]

    @property
    def succeeded(self) -> list[Place]:
        """Each record that the handler returned from."""
        lines = (line.split(" ") for line in self._lines if line.startswith("- "))
        return [(int(partition), int(offset)) for _, partition, offset in lines]

    @property
    def _lines(self) -> list[str]:
        """Whole lines: a death may cut the last one."""
        return self.journal.split("\n")[:-1]


def judge_agent(lives: Sequence[Life], ends: Mapping[int, int], reported: Iterable[Place]) -> Findings:
    """Everything that is not as it should be; ``ends``: the end offset of each partition, all below are records."""
    findings = Findings()
    faults = findings.faults
    everything = {(partition, offset) for partition, end in ends.items() for offset in range(end)}
    failing = {place for place in everything if fails(*place)}
    began = Counter(place for life in lives for place, _ in life.began)
    succeeded = {place for life in lives for place in life.succeeded}
    reports = Counter(reported)
    faults["lost"] += [f"record {place}" for place in sorted(everything - failing - succeeded)]
    faults["lost"] += [f"report of {place}" for place in sorted(failing - reports.keys())]
    faults["unexpected"] += [f"report of {place}" for place in sorted(reports.keys() - failing)]
    faults["unexpected"] += [f"record {place}" for place in sorted(began.keys() - everything)]
    for number, life in enumerate(lives):
        faults["duplicate"] += _repeated(number, life)
        faults["order"] += _out_of_order(number, life)
    # What is handed over twice was handled twice, or its acknowledgement was lost with the process.
    for place, times in reports.items():
        if times > began[place]:
            faults["duplicate"].append(f"report of {place} {times} times, handled {began[place]} times")
    return findings


def repeated(lives: Collection[Life]) -> int:
    """How many runs of the handler were repetitions."""
    began = [place for life in lives for place, _ in life.began]
    return len(began) - len(set(began))


def _repeated(number: int, life: Life) -> list[str]:
    """What this process handled twice, and what had been committed before it began."""
    times = Counter(place for place, _ in life.began)
    found = [f"record {place} {count} times by process {number}" for place, count in times.items() if count > 1]
    for partition, offset in times:
        if offset < life.committed.get(partition, 0):
            found.append(f"record {(partition, offset)} by process {number}, after it was committed")
    return found


def _out_of_order(number: int, life: Life) -> list[str]:
    latest: dict[tuple[int, str], int] = {}
    found = []
    for (partition, offset), key in life.began:
        before = latest.get((partition, key), -1)
        if offset < before:
            found.append(f"record {(partition, offset)} of key {key} after {before} by process {number}")
        latest[partition, key] = offset
    return found
