"""What must be true: checked at every commit, from nothing but what was committed, and once more at the end.

The checker follows the broker's decisions.  It folds the changelogs as a fresh rebuild would, and compares each
transaction's parts with each other: rows that changed, records that went out, offsets that moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from dlq_stream.core.backoff import backoff_ms, chance_of
from dlq_stream.core.commands import Action, Order, Succeeded, parse_command
from dlq_stream.core.errors import MalformedEvent
from dlq_stream.core.headers import (
    ATTEMPT,
    DUE_AT,
    MESSAGE_ID,
    QUARANTINE_OFFSET,
    QUARANTINE_TOPIC,
    FailureEvent,
    parse_failure,
)
from dlq_stream.core.ids import message_id, partition_of
from dlq_stream.core.lifecycle import LIFECYCLE, State
from dlq_stream.core.model import DLQMessageStatus, Origin
from dlq_stream.tables import INDEXES, TABLES, messages, stats
from dlq_stream.tables.messages import DeadLetter, Message, state_of
from dlq_stream.tables.stats import Stats
from tests.simulation.broker import Broker, Entry, Txn
from tests.simulation.disk import Disk
from tests.simulation.names import APP, COMMANDS, FAILURES, PARTITIONS, POLICIES, QUARANTINE, TOPICS

POISON = "x-poison"
"""A header of events that may go to quarantine; every other event that does is a finding."""

STEPS_MAX = 8
"""From so many transitions of a message in one transaction on, nothing is concluded from where they lead."""

_TABLE_OF = {spec.changelog(APP): spec for spec in TABLES}
_INDEX_TAGS = {spec.name: spec.tag for spec in INDEXES}


@dataclass
class Fold:
    """What a fresh rebuild from the changelogs of one partition gives, and what else was committed for it."""

    rows: dict[str, dict[bytes, bytes]] = field(default_factory=lambda: {spec.name: {} for spec in TABLES})
    messages: dict[bytes, Message] = field(default_factory=dict)
    purges: Counter[bytes] = field(default_factory=Counter)
    consumed: dict[str, int] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)

    def entries(self) -> dict[bytes, bytes]:
        """The whole store: rows and the index entries derived from them."""
        found: dict[bytes, bytes] = {}
        for spec in TABLES:
            for key, value in self.rows[spec.name].items():
                found[spec.tag + key] = value
                if spec.derive is not None:
                    for index, entry in spec.derive(key, None, value)[1]:
                        found[_INDEX_TAGS[index] + entry] = b""
        return found


@dataclass
class _Change:
    """What a transaction did to one message."""

    id: bytes
    old: Message | None
    new: Message | None


class Checker:
    """Follows every commit; ``violated`` is told of what is wrong."""

    def __init__(self, broker: Broker, violated: Callable[[str], None], clock_of: Callable[[str], int]) -> None:
        self.folds = {number: Fold() for number in range(PARTITIONS)}
        self.emitted: dict[tuple[bytes, int, int], int] = {}
        self.dead_letters = 0
        self.transitions: Counter[tuple[State, State]] = Counter()
        self._broker = broker
        self._violated = violated
        self._clock_of = clock_of

    # --- a commit -----------------------------------------------------------------------------------------------

    def decided(self, txn: Txn) -> None:
        """A transaction of a worker was committed."""
        number = int(txn.transactional_id.rpartition("-p")[2])
        fold = self.folds[number]
        parts = _Parts(txn)
        changes = self._apply(fold, parts)
        for change in changes:
            self._check_change(change, parts, fold)
        self._check_outputs(txn, fold, parts, {change.id: change for change in changes})
        for (topic, _), offset in txn.offsets.items():
            self._check_consumed(number, fold, topic, offset, parts)
        self._check_stats(fold, number)

    def _apply(self, fold: Fold, parts: _Parts) -> list[_Change]:
        changes: dict[bytes, _Change] = {}
        for entry in parts.rows:
            table = _TABLE_OF[entry.topic].name
            key = entry.key or b""
            if entry.value is None:
                fold.rows[table].pop(key, None)
            else:
                fold.rows[table][key] = entry.value
            if table == "messages":
                new = None if entry.value is None else messages.codec.decode(entry.value)
                change = changes.setdefault(key, _Change(key, fold.messages.get(key), new))
                change.new = new
                if new is None:
                    fold.messages.pop(key, None)
                else:
                    fold.messages[key] = new
        return list(changes.values())

    # --- rows ---------------------------------------------------------------------------------------------------

    def _check_change(self, change: _Change, parts: _Parts, fold: Fold) -> None:
        old, new = change.old, change.new
        before, after = state_of(old), state_of(new)
        # A command that was meant for a former life of a purged message may fit the present one, when it is replayed.
        steps = _steps(old, new) if new is not None or not fold.purges[change.id] else STEPS_MAX
        what = f"{change.id.hex()[:8]} from {_shown(old)} to {_shown(new)}"
        if steps == 0 and before is not after:
            self._violated(f"a status changed without a transition: {what}")
        if steps < 0 or (0 < steps < STEPS_MAX and after not in _reachable(before, steps)):
            self._violated(f"the lifecycle does not know this in {steps} steps: {what}")
        self.transitions[before, after] += 1
        if new is None:
            open_or_unwritten = old is not None and (is_open(old) or (before is State.ESCALATED and not _written(old)))
            if open_or_unwritten and steps == 1:
                self._violated(f"purged too early: {what}")
            fold.purges[change.id] += 1
            fold.totals["purged"] += 1
        elif steps == 1 and after is State.PENDING:
            self._check_due(what, change.id, old, new)

    def _check_due(self, what: str, id_: bytes, old: Message | None, new: Message) -> None:
        """A failure's retry is due after its backoff, by the clock of the worker that took it in."""
        if old is not None and state_of(old) not in (State.RETRYING, State.PRESUMED):
            return  # an operator said when
        policy = POLICIES.for_queue(new.queue)
        retry = new.attempt - new.attempt_base + 1
        due_ms = new.last_failed_ms + backoff_ms(policy, retry, chance_of(id_, new.attempt + 1))
        if new.due_ms != due_ms:
            self._violated(f"due at {new.due_ms} instead of {due_ms}: {what}")

    # --- records ------------------------------------------------------------------------------------------------

    def _check_outputs(self, txn: Txn, fold: Fold, parts: _Parts, changes: dict[bytes, _Change]) -> None:
        emitted = Counter(_id_of(entry) for entry in parts.emissions)
        for entry in parts.emissions:
            self._check_emission(txn, fold, entry, changes.get(_id_of(entry)))
        for change in changes.values():
            old, new = change.old, change.new
            grown = 0 if old is None or new is None else new.attempt - old.attempt
            if grown != emitted[change.id]:
                self._violated(f"{emitted[change.id]} emissions, and {_shown(old)} became {_shown(new)}")
            self._check_dead_letter(change, parts)
        fold.totals["retries"] += len(parts.emissions)
        fold.totals["quarantined"] += len(parts.quarantined)
        fold.totals["forwarded"] += len(parts.forwarded)
        self.dead_letters += len(parts.dead_letters)

    def _check_emission(self, txn: Txn, fold: Fold, entry: Entry, change: _Change | None) -> None:
        id_, attempt = _id_of(entry), int(entry.header(ATTEMPT) or b"0")
        what = f"emission of {id_.hex()[:8]} attempt {attempt}"
        if change is None or change.old is None or change.new is None or change.new.attempt != attempt:
            self._violated(f"{what} without its row")
            return
        life = id_, attempt, fold.purges[id_]
        if life in self.emitted:
            self._violated(f"{what} for the second time, first by transaction {self.emitted[life]}")
        self.emitted[life] = txn.number
        due_ms, clock_ms = int(entry.header(DUE_AT) or b"0"), self._clock_of(txn.by)
        if due_ms != change.old.due_ms:
            self._violated(f"{what} says due at {due_ms}, its row said {change.old.due_ms}")
        if clock_ms < due_ms:
            self._violated(f"{what} is early: due at {due_ms}, committed at {clock_ms} by {txn.by}'s clock")

    def _check_dead_letter(self, change: _Change, parts: _Parts) -> None:
        old, new = change.old, change.new
        wrote = sum(_id_of(entry) == change.id for entry in parts.dead_letters)
        written = _written(new) and not _written(old)
        if (written and wrote == 0) or (_steps(old, new) <= 1 and wrote != written):
            self._violated(f"{wrote} dead letters, and {_shown(old)} became {_shown(new)}")

    # --- input --------------------------------------------------------------------------------------------------

    def _check_consumed(self, number: int, fold: Fold, topic: str, offset: int, parts: _Parts) -> None:
        """What the offsets say is done was done in this very transaction, or is known."""
        start = fold.consumed.get(topic, 0)
        if offset < start:
            self._violated(f"offsets of {topic}-{number} go back from {start} to {offset}")
        fold.consumed[topic] = offset
        records = self._broker.log(topic, number).entries[start:offset]
        check = self._check_failure if topic == FAILURES else self._check_command
        orders = Counter(_redriven(record) for record in records) if topic == COMMANDS else Counter()
        for record in records:
            if record.marker or (record.txn is not None and record.txn.state != "committed"):
                continue
            quarantined = (topic, record.offset) in parts.quarantined
            if quarantined and not record.header(POISON) and not self._was_purged(record, fold):
                self._violated(f"a good event is in quarantine: {record}")
            if not quarantined:
                check(number, fold, record, parts, orders)

    @staticmethod
    def _was_purged(record: Entry, fold: Fold) -> bool:
        """Whether the event is of a message that was purged.

        Its id may have been taken over since by another group that failed on one of its retries.
        """
        event = parse_failure(record)
        return bool(fold.purges[event.id] or fold.purges[own_id(event, record, None)])

    def _check_failure(self, number: int, fold: Fold, record: Entry, parts: _Parts, _: Counter[bytes | None]) -> None:
        try:
            event = parse_failure(record)
        except MalformedEvent as error:
            self._violated(f"not in quarantine, though {error}: {record}")
            return
        for id_ in (event.id, own_id(event, record, fold.messages.get(event.id))):
            if partition_of(id_, PARTITIONS) != number:
                if id_ not in parts.forwarded:
                    self._violated(f"consumed at {number}, but not forwarded: {event.id.hex()[:8]}")
                return
            row = fold.messages.get(id_)
            if row is not None and row.group == event.group:
                attempt = event.attempt if id_ == event.id else 0
                ahead = row.attempt < attempt and not fold.purges[id_]
                if ahead or (row.attempt == attempt and row.status is DLQMessageStatus.RETRYING):
                    self._violated(f"a failure of attempt {attempt} was consumed without effect on {_shown(row)}")
                return
        self._violated(f"lost: a failure was consumed, and its message {event.id.hex()[:8]} is not there")

    def _check_command(
        self, number: int, fold: Fold, record: Entry, parts: _Parts, redriven: Counter[bytes | None]
    ) -> None:
        command = parse_command(record.value)
        if partition_of(command.id, PARTITIONS) != number:
            if command.id not in parts.forwarded:
                self._violated(f"consumed at {number}, but not forwarded: {command}")
            return
        row = fold.messages.get(command.id)
        if row is None or not isinstance(command, Succeeded) or command.attempt > row.attempt:
            return
        if row.status is not DLQMessageStatus.RESOLVED and not redriven[command.id]:
            self._violated(f"success of attempt {command.attempt} was consumed without effect on {_shown(row)}")

    # --- figures ------------------------------------------------------------------------------------------------

    def _check_stats(self, fold: Fold, number: int) -> None:
        stored = {stats.split_key(key)[0]: stats.codec.decode(raw) for key, raw in fold.rows["stats"].items()}
        counted: dict[str, list[Message]] = {queue: [] for queue in stored}
        for row in fold.messages.values():
            if row.booked not in counted:
                self._violated(f"no figures of queue {row.booked!r} in partition {number}")
                return
            counted[row.booked].append(row)
        for queue, figures in stored.items():
            wrong = _wrong_figures(figures, counted[queue])
            if wrong:
                self._violated(f"figures of {queue!r} in partition {number}: {wrong}")
        sums = {name: sum(getattr(figures, name) for figures in stored.values()) for name in _TOTALS}
        if sums != {name: fold.totals[name] for name in _TOTALS}:
            self._violated(f"totals of partition {number}: {sums} instead of {dict(fold.totals)}")

    # --- stores -------------------------------------------------------------------------------------------------

    def check_disk(self, number: int, disk: Disk) -> None:
        """A store that is up to date equals a fresh rebuild from the changelogs."""
        expected = self.folds[number].entries()
        if disk.entries == expected:
            return
        missing, extra = expected.keys() - disk.entries.keys(), disk.entries.keys() - expected.keys()
        other = [key for key in expected.keys() & disk.entries.keys() if expected[key] != disk.entries[key]]
        self._violated(
            f"the store of partition {number} is not what its changelogs say: "
            f"missing {_keys(missing)}, not theirs {_keys(extra)}, different {_keys(other)}"
        )

    # --- the end ------------------------------------------------------------------------------------------------

    def unsettled(self) -> list[str]:
        """What still has to happen: messages not closed, input not consumed."""
        left = [
            f"{id_.hex()[:8]} in partition {number}: {_shown(row)} {row.stuck_reason} {row.dead_letter_reason}"
            for number, fold in self.folds.items()
            for id_, row in fold.messages.items()
            if is_open(row) or row.dead_letter is DeadLetter.WAITING
        ]
        for number, fold in self.folds.items():
            for topic in (FAILURES, COMMANDS):
                log = self._broker.log(topic, number)
                position = fold.consumed.get(topic, 0)
                if any(not entry.marker for entry in log.entries[position:]):
                    left.append(f"{topic}-{number} is consumed up to {position} of {len(log.entries)}")
        return left


# ------------------------------------------------------------------------------------------------ a transaction's parts


class _Parts:
    """The records of a transaction by what they are."""

    def __init__(self, txn: Txn) -> None:
        self.rows: list[Entry] = []
        self.emissions: list[Entry] = []
        self.dead_letters: list[Entry] = []
        self.quarantined: set[tuple[str, int]] = set()
        self.forwarded: list[bytes] = []
        for entry in txn.entries:
            if entry.topic in _TABLE_OF:
                self.rows.append(entry)
            elif entry.topic == QUARANTINE:
                topic, offset = entry.header(QUARANTINE_TOPIC) or b"", entry.header(QUARANTINE_OFFSET) or b"-1"
                self.quarantined.add((topic.decode(), int(offset)))
            elif entry.topic in TOPICS.all:
                self.forwarded.append(bytes.fromhex((entry.header(MESSAGE_ID) or b"").decode()))
            elif entry.topic.endswith("-dlq"):
                self.dead_letters.append(entry)
            else:
                self.emissions.append(entry)


def _id_of(entry: Entry) -> bytes:
    return bytes.fromhex((entry.header(MESSAGE_ID) or b"").decode())


def own_id(event: FailureEvent, record: Entry, row: Message | None) -> bytes:
    """The id of the reporting group's own message, where the id given is another group's."""
    coordinates = Origin(record.topic, record.partition, record.offset, record.timestamp)
    candidates = (event.origin, row.origin if row else coordinates, coordinates)
    return message_id(event.group, next(origin for origin in candidates if origin.partition is not None))


def _redriven(record: Entry) -> bytes | None:
    try:
        command = parse_command(record.value)
    except MalformedEvent:
        return None
    return command.id if isinstance(command, Order) and command.action is Action.REDRIVE else None


# -------------------------------------------------------------------------------------------------------------- states

_TOTALS = ("retries", "quarantined", "forwarded", "purged")
_GAUGES = (
    DLQMessageStatus.PENDING,
    DLQMessageStatus.RETRYING,
    DLQMessageStatus.RESOLVED,
    DLQMessageStatus.ESCALATED,
)


def is_open(row: Message) -> bool:
    """Whether the message still has to be worked on."""
    return row.status in stats.OPEN


def _written(row: Message | None) -> bool:
    return row is not None and row.dead_letter is DeadLetter.WRITTEN


def _steps(old: Message | None, new: Message | None) -> int:
    """How many transitions lie between two versions of a row."""
    if new is None:
        return 1
    return new.revision - (0 if old is None else old.revision)


@lru_cache
def _reachable(state: State, steps: int) -> frozenset[State]:
    found = frozenset((state,))
    for _ in range(steps):
        found = frozenset(target for one in found for target in LIFECYCLE[one].values())
    return found


def _shown(row: Message | None) -> str:
    if row is None:
        return "nothing"
    return f"{state_of(row)} #{row.attempt} r{row.revision} due {row.due_ms} {row.dead_letter}"


def _wrong_figures(figures: Stats, rows: list[Message]) -> dict[str, Any]:
    by_status = Counter(row.status for row in rows)
    expected: dict[str, Any] = {status.value: by_status[status] for status in _GAUGES}
    expected["stuck"] = sum(row.stuck_reason != "" for row in rows)
    expected["unwritten"] = sum(row.dead_letter in (DeadLetter.WAITING, DeadLetter.IMPOSSIBLE) for row in rows)
    expected["oldest_open_ms"] = min((row.created_ms for row in rows if is_open(row)), default=None)
    return {
        name: (getattr(figures, name), value) for name, value in expected.items() if getattr(figures, name) != value
    }


def _keys(keys: Any) -> list[str]:
    return [key.hex() for key in sorted(keys)][:5]
