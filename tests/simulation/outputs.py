"""What went out with a transaction, against the rows that went with it: emissions, dead letters, quarantine."""

from __future__ import annotations

import gzip
from collections import Counter

from dlq_stream.core.headers import ATTEMPT, DUE_AT, GZIP, QUARANTINE_CUT, QUARANTINE_ENCODING, parse_failure
from dlq_stream.core.lifecycle import State
from dlq_stream.core.pace import AHEAD_US
from dlq_stream.core.policy import Policies
from dlq_stream.tables.messages import DeadLetter, Message, state_of
from tests.simulation.broker import Entry, Txn
from tests.simulation.fold import Change, Fold, Parts, id_of
from tests.simulation.hostility import POISON
from tests.simulation.model import Scribe, own_id, shown
from tests.simulation.names import BOILERS, BOILERS_PER_SECOND_MAX, FAILURES, PARTITIONS, home_of


class Outputs:
    """Follows the records that leave the system; ``emitted`` holds the transaction of each delivery ever made.

    A delivery is a message, its attempt, and which life of the message it is, for one that was purged begins anew.
    """

    def __init__(self, scribe: Scribe) -> None:
        self.emitted: dict[tuple[bytes, int, int], int] = {}
        self.dead_letters = 0
        self._scribe = scribe
        self._paced: dict[tuple[int, str], list[int]] = {}
        """By partition and owner, when retries of the limited queue were committed by his clock."""

    def check(
        self, txn: Txn, fold: Fold, parts: Parts, changes: dict[bytes, Change], clock_ms: int, policies: Policies
    ) -> None:
        """A transaction was committed, at ``clock_ms`` by its worker's clock, decided by these ``policies``."""
        emitted: Counter[bytes] = Counter()
        for entry in parts.emissions:
            emitted[id_of(entry)] += 1
            self._check_emission(txn, fold, entry, changes.get(id_of(entry)), clock_ms)
        for change in changes.values():
            if change.grown != emitted[change.id]:
                told = f"{shown(change.old)} became {shown(change.new)}"
                self._scribe.violated(f"{emitted[change.id]} emissions, and {told}")
            self._check_dead_letter(change, parts, of_timer=not txn.offsets)
        self.dead_letters += len(parts.dead_letters)
        self._check_limit(txn, changes, clock_ms, limited=policies.for_queue(BOILERS).emit_per_second_max is not None)

    def _check_limit(self, txn: Txn, changes: dict[bytes, Change], clock_ms: int, *, limited: bool) -> None:
        """In no second does an owner of a partition emit more of the limited queue than its share, and one beside.

        By his own clock, which never runs backwards; that of the next owner may be a second behind.  The highest of the
        limits that are ever in force counts.
        """
        ours = [change for change in changes.values() if change.new is not None and change.new.queue == BOILERS]
        for change in ours:
            old, new = change.old, change.new
            if old is not None and new is not None and new.slot_ms is not None and new.slot_ms != old.slot_ms:
                self._scribe.count("retries given a slot")
        grown = sum(change.grown for change in ours)
        if not grown:
            return
        at = self._paced.setdefault((home_of(ours[0].id), txn.by), [])
        if not limited:
            at.clear()
            return
        at += [clock_ms] * grown
        share = BOILERS_PER_SECOND_MAX / PARTITIONS
        recent = sum(ms > clock_ms - 1_000 for ms in at)
        if recent > share * (1 + AHEAD_US / 1_000_000) + 1:
            self._scribe.violated(f"{recent} retries of {BOILERS} within a second, at {clock_ms} by {txn.by}'s clock")

    def _check_emission(self, txn: Txn, fold: Fold, entry: Entry, change: Change | None, clock_ms: int) -> None:
        id_, attempt = id_of(entry), int(entry.header(ATTEMPT) or b"0")
        what = f"emission of {id_.hex()[:8]} attempt {attempt}"
        if change is None or change.old is None or change.new is None or change.new.attempt != attempt:
            self._scribe.violated(f"{what} without its row")
            return
        life = id_, attempt, fold.lives[id_]
        if life in self.emitted:
            self._scribe.violated(f"{what} for the second time, first by transaction {self.emitted[life]}")
        self.emitted[life] = txn.number
        due_ms = int(entry.header(DUE_AT) or b"0")
        if state_of(change.old) is State.PENDING and due_ms != change.old.due_ms:
            self._scribe.violated(f"{what} says due at {due_ms}, its row said {change.old.due_ms}")
        if clock_ms < due_ms:
            self._scribe.violated(f"{what} is early: due at {due_ms}, committed at {clock_ms} by {txn.by}'s clock")

    def _check_dead_letter(self, change: Change, parts: Parts, *, of_timer: bool) -> None:
        """A message that became written was; where it is one transition, just once."""
        old, new = change.old, change.new
        wrote = sum(id_of(entry) == change.id for entry in parts.dead_letters)
        written = _written(new) and not _written(old)
        one_step = of_timer if new is None else new.revision - (old.revision if old else 0) <= 1
        if (written and not wrote) or (one_step and wrote != written):
            self._scribe.violated(f"{wrote} dead letters, and {shown(old)} became {shown(new)}")

    def check_quarantined(self, record: Entry, found: Entry, fold: Fold) -> None:
        """What is in quarantine belongs there, and is all there."""
        if record.header(POISON) is None and not _may_be_another(record, fold):
            self._scribe.violated(f"a good event is in quarantine: {record}")
        if found.header(QUARANTINE_CUT) is not None:
            self._scribe.count("events cut for quarantine")
            whole = (record.value or b"").startswith(found.value or b"")
        else:
            packed = found.header(QUARANTINE_ENCODING) == GZIP
            self._scribe.count("events packed for quarantine" if packed else "events whole in quarantine")
            value = gzip.decompress(found.value or b"") if packed else found.value
            whole = value == record.value and set(record.headers) <= set(found.headers)
        if not whole or found.key != record.key:
            self._scribe.violated(f"not what it was: {record!r:.300} in quarantine is {found!r:.300}")


def _may_be_another(record: Entry, fold: Fold) -> bool:
    """Whether the event is of a message that was purged.

    Its id may have been taken over since by another group that failed on one of its retries.
    """
    if record.topic != FAILURES:
        return False
    event = parse_failure(record)
    return bool(fold.lives[event.id] or fold.lives[own_id(event, record, event.origin)])


def _written(row: Message | None) -> bool:
    return row is not None and row.dead_letter is DeadLetter.WRITTEN
