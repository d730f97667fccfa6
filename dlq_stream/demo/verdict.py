"""The demo's verdict: seeded input against what Kafka holds at the end.  Pure: records in, findings out.

No worker is asked anything.  The input is generated again from the seed; message ids are derived again from the
records' coordinates; due times are computed again from the policy; and both stamps of the comparison "emitted no
earlier than due" are the brokers' (LogAppendTime), so that no clock of ours has a say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from dlq_stream.core.ids import message_id
from dlq_stream.core.model import Origin, Record
from dlq_stream.demo.events import HeatEvent, event, event_id_of
from dlq_stream.demo.plan import Plan
from dlq_stream.demo.traces import Trace, due_ms, emission_of, failure_of, user_headers

EXAMPLES_MAX = 5
"""So many examples of each fault are shown; all are counted."""

FAULTS = {
    "input": "readings in the source topic that differ from the seeded input, are missing or repeated",
    "lost": "readings that are neither a result nor a dead letter",
    "not_dead_lettered": "schema violations that did not end in the dead-letter topic",
    "wrongly_dead_lettered": "readings in the dead-letter topic that could have succeeded",
    "wrongly_succeeded": "schema violations that have a result",
    "dead_lettered_twice": "readings that are in the dead-letter topic more than once",
    "emitted_twice": "retries that were emitted more than once",
    "early": "retries that were emitted before they were due",
    "unexplained": "retries without the failure that they follow from",
    "altered": "retries and dead letters whose id, key, value or headers are not their original's",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was read back, to the end, ``read_committed``."""

    source: Sequence[Record]
    results: Sequence[Record]
    dead_letters: Sequence[Record]
    failures: Sequence[Record]


@dataclass(slots=True)
class Verdict:
    """Findings by kind (the keys of `FAULTS`), each an example with its place, and the numbers of the run."""

    events: int = 0
    results: int = 0
    repeated_results: int = 0
    failures: int = 0
    emissions: int = 0
    dead_letters: int = 0
    lateness_ms_median: int = 0
    lateness_ms_max: int = 0
    faults: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in FAULTS})

    @property
    def is_good(self) -> bool:
        """Whether nothing at all was found."""
        return not any(self.faults.values())

    @property
    def counts(self) -> dict[str, int]:
        """How many findings of each kind."""
        return {name: len(found) for name, found in self.faults.items()}

    def lines(self) -> list[str]:
        """The findings for people: a line per kind with examples; none where all is well."""
        return [
            f"{len(found)} {FAULTS[name]}: {', '.join(found[:EXAMPLES_MAX])}"
            + (", ..." if len(found) > EXAMPLES_MAX else "")
            for name, found in self.faults.items()
            if found
        ]


def judge(plan: Plan, evidence: Evidence, events_written: int) -> Verdict:
    """Compare.  ``events_written`` is how many readings the producer was to write until it was stopped."""
    verdict = Verdict()
    deliveries = [(record, emission_of(record)) for record in evidence.source]
    seeded = {each.event_id: each for each in (event(plan.seed, number) for number in range(events_written))}
    originals = _judge_input(verdict, seeded, [record for record, trace in deliveries if trace is None])
    emissions = [(record, trace) for record, trace in deliveries if trace is not None]
    by_id = {
        message_id(plan.group, Origin(each.topic, each.partition, each.offset, each.timestamp)): seeded[event_id]
        for event_id, each in originals.items()
    }
    _judge_fates(verdict, seeded, evidence)
    _judge_emissions(verdict, emissions, evidence.failures)
    _judge_contents(verdict, by_id, [*evidence.dead_letters, *(record for record, _ in emissions)])
    return verdict


def _judge_input(verdict: Verdict, seeded: dict[str, HeatEvent], records: Iterable[Record]) -> dict[str, Record]:
    """The originals by event id, as far as they are what the seed says."""
    faults = verdict.faults["input"]
    found: dict[str, Record] = {}
    for record in records:
        event_id = event_id_of(record.value)
        expected = seeded.get(event_id)
        if expected is None or event_id in found or not _is_same(record, expected):
            faults.append(event_id or _place(record))
        else:
            found[event_id] = record
    faults += [event_id for event_id in seeded if event_id not in found]
    verdict.events = len(found)
    return found


def _judge_fates(verdict: Verdict, seeded: dict[str, HeatEvent], evidence: Evidence) -> None:
    """Nothing lost; dead letters are the violations, all of them and no others, once each."""
    succeeded = Counter(event_id_of(record.value) for record in evidence.results)
    dead = Counter(event_id_of(record.value) for record in evidence.dead_letters)
    verdict.results, verdict.repeated_results = succeeded.total(), succeeded.total() - len(succeeded)
    verdict.dead_letters = dead.total()
    verdict.faults |= {
        "lost": [each for each in seeded if each not in succeeded and each not in dead],
        "not_dead_lettered": [
            each.event_id for each in seeded.values() if each.is_violation and each.event_id not in dead
        ],
        "wrongly_dead_lettered": [each for each in dead if each not in seeded or not seeded[each].is_violation],
        "wrongly_succeeded": [each for each in succeeded if each not in seeded or seeded[each].is_violation],
        "dead_lettered_twice": [each for each, times in dead.items() if times > 1],
    }


def _judge_emissions(verdict: Verdict, emissions: Sequence[tuple[Record, Trace]], failures: Sequence[Record]) -> None:
    """Each retry once, after the failure that it follows from, and not before the backoff has passed."""
    failed_ms: dict[Trace, int] = {}
    for record in failures:
        if trace := failure_of(record):
            failed_ms[trace] = min(record.timestamp, failed_ms.get(trace, record.timestamp))
    lateness: list[int] = []
    times: Counter[Trace] = Counter()
    for record, trace in emissions:
        times[trace] += 1
        failure = trace.before
        if failure not in failed_ms:
            verdict.faults["unexplained"].append(_name(record, trace))
            continue
        late = record.timestamp - due_ms(failure, failed_ms[failure])
        lateness.append(late)
        if late < 0:
            verdict.faults["early"].append(f"{_name(record, trace)} by {-late} ms")
    verdict.faults["emitted_twice"] += [f"{trace.id.hex()}/{trace.attempt}" for trace, n in times.items() if n > 1]
    verdict.failures, verdict.emissions = len(failures), len(emissions)
    verdict.lateness_ms_median = round(median(lateness)) if lateness else 0
    verdict.lateness_ms_max = max(lateness, default=0)


def _judge_contents(verdict: Verdict, by_id: dict[bytes, HeatEvent], records: Iterable[Record]) -> None:
    """Key, value and the user's headers of what a worker wrote are those of the reading that the id belongs to."""
    for record in records:
        trace = emission_of(record)
        expected = by_id.get(trace.id) if trace else None
        if expected is None or not _is_same(record, expected):
            verdict.faults["altered"].append(_place(record))


def _is_same(record: Record, expected: HeatEvent) -> bool:
    return (record.key, record.value, user_headers(record)) == (expected.key, expected.value, expected.headers)


def _name(record: Record, trace: Trace) -> str:
    return f"{event_id_of(record.value)} attempt {trace.attempt}"


def _place(record: Record) -> str:
    return f"{record.topic}[{record.partition}]@{record.offset}"
