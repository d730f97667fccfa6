"""The verdict: what Kafka and the workers' directories hold at the end, against the story.

Pure: evidence in, findings out.  Nothing here asks a worker.  Both stamps of "no earlier than due" are the brokers'
(LogAppendTime), so that no clock of ours has a say.  `test_checks` plants a fault of every kind and sees it found.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from dlq_stream.core.model import DLQMessageStatus as Status
from dlq_stream.core.model import Record
from dlq_stream.core.reasons import StuckReason, UnwrittenReason
from dlq_stream.tables import INDEXES, attempts, messages, stats
from dlq_stream.tables.messages import DeadLetter
from dlq_stream.tables.messages import Message as Row
from dlq_stream.tables.stats import OPEN, PARTITION_QUEUE, Stats
from tests.crash.state import Contents, Tables
from tests.crash.story import Delivery, Message, Order, Story
from tests.crash.traffic import delivery_of

EXAMPLES_MAX = 5
"""So many examples of each fault are shown; all are counted."""

FAULTS = {
    "lost": "retries, dead letters and quarantined events that never came",
    "duplicate": "retries, dead letters and quarantined events that came more than once",
    "early": "retries that came before they were due",
    "unexpected": "records that nobody asked for",
    "altered": "retries and dead letters whose key, value, headers or partition are not their original's",
    "order": "records that an agent handled before their predecessors of the same key",
    "unread": "partitions of input that were not processed to their end",
    "state": "messages whose rows are not what their story says",
    "statistics": "figures that are neither the truth nor a recount of the rows",
    "tables": "rows and index entries that differ from a rebuild from the changelogs",
    "workers": "processes that ended otherwise than they should",
}

OWN = "dlq-"
"""Headers of ours begin so; the story's own do not."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was read back, topics to their end and ``read_committed``.

    ``committed`` is the group's position by (topic, partition); ``owners`` says whose directory a partition was last
    worked on in.
    """

    failures: Sequence[Record]
    commands: Sequence[Record]
    retries: Sequence[Record]
    dead_letters: Sequence[Record]
    quarantine: Sequence[Record]
    committed: Mapping[tuple[str, int], int]
    tables: Tables
    owners: Mapping[int, str]


@dataclass(slots=True)
class Findings:
    """Examples of each kind of fault (the keys of `FAULTS`)."""

    faults: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in FAULTS})

    @property
    def are_none(self) -> bool:
        """Whether all is as it should be."""
        return not any(self.faults.values())

    def count(self, fault: str) -> int:
        """How many of one kind."""
        return len(self.faults[fault])

    def __str__(self) -> str:
        return "\n".join(
            f"{len(found)} {FAULTS[name]}: {'; '.join(found[:EXAMPLES_MAX])}"
            for name, found in self.faults.items()
            if found
        )


def judge(story: Story, evidence: Evidence) -> Findings:
    """Everything that is not as the story says."""
    findings = Findings()
    faults = findings.faults
    _judge_records(faults, story, evidence)
    faults["early"] += early(story, evidence)
    faults["altered"] += altered(story, [*evidence.retries, *evidence.dead_letters])
    faults["unread"] += unread(evidence)
    faults["tables"] += table_differences(evidence.tables, evidence.owners)
    faults["tables"] += index_differences(evidence.tables.rebuilt)
    faults["state"] += state_differences(story, evidence.tables.rebuilt)
    faults["statistics"] += statistics_differences(story, evidence.tables.rebuilt)
    return findings


# ----------------------------------------------------------------------------------------------------------- records


def _judge_records(faults: dict[str, list[str]], story: Story, evidence: Evidence) -> None:
    """Each retry, dead letter and quarantined event exactly once."""
    for what, expected, found in (
        ("retry", list(story.retries()), map(delivery_of, evidence.retries)),
        ("dead letter", list(story.dead_letters()), (delivery_of(record).id for record in evidence.dead_letters)),
        ("poison", list(story.poison), (record.value for record in evidence.quarantine)),
    ):
        lost, repeated, unexpected = compare(expected, found)
        faults["lost"] += [f"{what} {each}" for each in lost]
        faults["duplicate"] += [f"{what} {each}" for each in repeated]
        faults["unexpected"] += [f"{what} {each}" for each in unexpected]


def compare(
    expected: Collection[Hashable], found: Iterable[Hashable]
) -> tuple[list[Hashable], list[Hashable], list[Hashable]]:
    """What is missing, what is there more than once, and what should not be there."""
    wanted, times = set(expected), Counter(found)
    return (
        [each for each in expected if each not in times],
        [each for each, count in times.items() if count > 1],
        [each for each in times if each not in wanted],
    )


def early(story: Story, evidence: Evidence) -> list[str]:
    """Retries that the brokers took before they were due: the append of what caused them, and the wait after it."""
    by_id = story.by_id()
    failed_ms: dict[Delivery, int] = {}
    for record in evidence.failures:
        if record.key is not None:
            delivery = delivery_of(record)
            failed_ms[delivery] = min(record.timestamp, failed_ms.get(delivery, record.timestamp))
    redriven_ms = {(record.key or b"").decode(): record.timestamp for record in evidence.commands if _redrives(record)}
    found: list[str] = []
    for record in evidence.retries:
        delivery = delivery_of(record)
        message = by_id.get(delivery.id)
        if message is None or not 0 < delivery.attempt <= message.retries:
            continue  # unexpected, and counted as that
        before = Delivery(delivery.id, delivery.attempt - 1)
        caused_ms = redriven_ms.get(delivery.id) if message.fate.order is Order.REDRIVE else failed_ms.get(before)
        if caused_ms is None:
            found.append(f"{delivery} came without its cause")
        elif (by_ms := caused_ms + message.wait_ms(before.attempt) - record.timestamp) > 0:
            found.append(f"{delivery} by {by_ms} ms")
    return found


def _redrives(record: Record) -> bool:
    return b'"redrive"' in (record.value or b"")


def altered(story: Story, records: Iterable[Record]) -> list[str]:
    """Retries and dead letters that are not their original with our headers, in their original's partition."""
    by_id = story.by_id()
    found: list[str] = []
    for record in records:
        message = by_id.get(delivery_of(record).id)
        theirs = tuple((name, value) for name, value in record.headers if not name.startswith(OWN))
        if message is not None and (record.key, record.value, theirs, record.partition) != (
            message.key,
            message.value,
            message.headers,
            message.source_partition,
        ):
            found.append(f"{record.topic}[{record.partition}]@{record.offset}")
    return found


def unread(evidence: Evidence) -> list[str]:
    """Partitions of failures and commands whose last record lies behind the group's position."""
    last: dict[tuple[str, int], int] = {}
    for record in (*evidence.failures, *evidence.commands):
        place = record.topic, record.partition
        last[place] = max(record.offset, last.get(place, 0))
    return [
        f"{topic}[{number}] at {evidence.committed.get((topic, number))} of {offset + 1}"
        for (topic, number), offset in last.items()
        if (evidence.committed.get((topic, number)) or 0) <= offset
    ]


# ------------------------------------------------------------------------------------------------------------ tables


def table_differences(tables: Tables, owners: Mapping[int, str]) -> list[str]:
    """Where directories differ from the rebuild: the last owner's as it lies there, any other once it has caught up."""
    found = [
        f"partition {number}: its last owner {owners.get(number)!r} has no store of it"
        for number in tables.rebuilt
        if (owners.get(number), number) not in tables.stores
    ]
    for (name, number), contents in tables.caught_up.items():
        found += _differences(f"{name}, partition {number}, caught up", contents, tables.rebuilt[number])
        if owners.get(number) == name:
            found += _differences(f"{name}, partition {number}", tables.stores[name, number], tables.rebuilt[number])
    return found


def _differences(where: str, one: Contents, other: Contents) -> Iterator[str]:
    if one == other:
        return
    for key in sorted(one.keys() | other.keys()):
        if one.get(key) != other.get(key):
            kind = "missing" if key not in one else "extra" if key not in other else "different"
            yield f"{where}: {kind} {key[:1].decode()} {key[1:].hex()}"


def index_differences(rebuilt: Mapping[int, Contents]) -> list[str]:
    """Index entries that are not those of the rows as they stand."""
    tags = {spec.name: spec.tag for spec in INDEXES}
    every = tuple(tags.values())
    found: list[str] = []
    for number, contents in rebuilt.items():
        derived: dict[bytes, bytes] = {}
        for key, raw in rows(contents, messages.TABLE.tag):
            derived |= {tags[index] + entry: b"" for index, entry in messages.derive(key, None, raw)[1]}
        stored = {key: value for key, value in contents.items() if key.startswith(every)}
        found += _differences(f"indexes of partition {number}", stored, derived)
    return found


def rows(contents: Contents, tag: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The rows of one table: keys without the tag, and values."""
    return ((key[len(tag) :], value) for key, value in contents.items() if key.startswith(tag))


def state_differences(story: Story, rebuilt: Mapping[int, Contents]) -> list[str]:
    """Messages whose row, attempts or partition are not those of their story."""
    found: list[str] = []
    standing: dict[str, tuple[int, Row]] = {}
    failed: defaultdict[str, list[int]] = defaultdict(list)
    for number, contents in rebuilt.items():
        for key, raw in rows(contents, messages.TABLE.tag):
            standing[key.hex()] = number, messages.codec.decode(raw)
        for key, _ in rows(contents, attempts.TABLE.tag):
            id_, attempt = attempts.split_key(key)
            failed[id_.hex()].append(attempt)
    for message in story.messages:
        place = standing.pop(message.id, None)
        numbers = sorted(failed.pop(message.id, []))
        if message.fate.status is Status.PURGED:
            if place is not None or numbers:
                found.append(f"{message.id}: {place} and attempts {numbers}, should be purged")
        elif place is None:
            found.append(f"{message.id}: no row")
        else:
            found += _row_differences(message, *place, numbers)
    found += [f"{id_}: nobody's" for id_ in {*standing, *failed}]
    return found


def _row_differences(message: Message, partition: int, row: Row, numbers: list[int]) -> Iterator[str]:
    dead_letter = DeadLetter.WRITTEN if message.fate.status is Status.ESCALATED else DeadLetter.NONE
    if message.fate.order is Order.REDRIVE:
        dead_letter = row.dead_letter  # says of the former round what it likes
    for name, is_now, should_be in (
        ("partition", partition, message.home),
        ("status", row.status, message.fate.status),
        ("attempt", row.attempt, message.retries),
        ("revision", row.revision, message.revision),
        ("queue", row.queue, message.queue),
        ("dead letter", row.dead_letter, dead_letter),
        ("stuck reason", row.stuck_reason, ""),
        ("attempts", numbers, message.failures),
    ):
        if is_now != should_be:
            yield f"{message.id}: {name} is {is_now}, should be {should_be}"


# -------------------------------------------------------------------------------------------------------- statistics


def statistics_differences(story: Story, rebuilt: Mapping[int, Contents]) -> list[str]:
    """Figures against the truth (all of them) and against a recount of the rows (gauges, the oldest open message)."""
    found: list[str] = []
    truth = story.figures()
    for number, contents in rebuilt.items():
        stored = {stats.split_key(key): stats.codec.decode(raw) for key, raw in rows(contents, stats.TABLE.tag)}
        told = {place: row for place, row in truth.items() if place[1] == number}
        counted = recount(contents, number)
        for place in sorted({*stored, *told, *counted}):
            row = stored.get(place, Stats())
            expected = _figures(told.get(place, Stats()))
            found += _figures_differ(place, "the truth", _figures(row), expected)
            if place[0] != PARTITION_QUEUE:
                again = counted.get(place, {"oldest_open_ms": None})
                mine = {name: getattr(row, name) for name in again}
                found += _figures_differ(place, "a recount", mine, again)
    return found


def recount(contents: Contents, number: int) -> dict[tuple[str, int], dict[str, Any]]:
    """What the rows of a partition add up to, by queue: messages by status, what is stuck or unwritten and why, and the
    oldest open one's instant.
    """
    counted: dict[tuple[str, int], dict[str, Any]] = {}
    for _, raw in rows(contents, messages.TABLE.tag):
        row = messages.codec.decode(raw)
        figures = counted.setdefault((row.booked, number), _nothing())
        figures[row.status.value] += 1
        if row.stuck_reason:
            figures["stuck"] += 1
            figures["stuck_reasons"][StuckReason.of(row.stuck_reason)] += 1
        if row.dead_letter in (DeadLetter.WAITING, DeadLetter.IMPOSSIBLE):
            figures["unwritten"] += 1
            figures["unwritten_reasons"][UnwrittenReason.of(row.dead_letter_reason)] += 1
        if row.status in OPEN:
            oldest = figures["oldest_open_ms"]
            figures["oldest_open_ms"] = row.created_ms if oldest is None else min(oldest, row.created_ms)
    return counted


def _nothing() -> dict[str, Any]:
    gauges = ("pending", "retrying", "resolved", "escalated", "stuck", "unwritten")
    by_reason = {"stuck_reasons": Counter(), "unwritten_reasons": Counter()}
    return {**dict.fromkeys(gauges, 0), **by_reason, "oldest_open_ms": None}


def _figures(row: Stats) -> dict[str, Any]:
    """Everything but instants, which the story does not know."""
    return msgspec.structs.asdict(msgspec.structs.replace(row, oldest_open_ms=None, updated_ms=0))


def _figures_differ(
    place: tuple[str, int], what: str, stored: Mapping[str, Any], expected: Mapping[str, Any]
) -> Iterator[str]:
    for name, value in expected.items():
        if stored[name] != value:
            yield f"{place[0] or '(own)'}[{place[1]}] {name} is {stored[name]}, {what} is {value}"
