"""What must be true: checked at every commit, from nothing but what was committed, and once more at the end.

The checker follows the broker's decisions.  It folds the changelogs as a fresh rebuild would, and compares each
transaction's parts with each other and with the model: rows that changed, records that went out, offsets that moved.
The promises are those of the design:

1. What agents were told is on the brokers is a message, at the end.
2. Nothing is emitted, timed out or purged before its time, by the clock of the worker that does it.
3. Nothing is lost: what was consumed had its effect, and at the end every message is closed.
4. Rows, figures, emissions and offsets of a transaction belong together; no delivery is emitted twice; no store holds
   what is not committed, and one that is up to date equals a rebuild.
5. What nobody can understand is in quarantine, whole, and nothing else is.
6. Queues with figures and attempts kept are bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from dlq_stream.core.lifecycle import LIFECYCLE, Event, State
from dlq_stream.core.policy import Policies
from dlq_stream.engine.purge import PURGE_ORDERED_MS
from dlq_stream.tables import attempts, stats
from dlq_stream.tables.messages import DeadLetter, state_of
from tests.simulation.broker import Broker, Txn
from tests.simulation.disk import Disk
from tests.simulation.fold import Change, Fold, Parts
from tests.simulation.model import Intake, Scribe, shown, wrong_due
from tests.simulation.names import APP, ATTEMPTS_KEPT_MAX, COMMANDS, FAILURES, PARTITIONS, QUEUES_MAX, home_of
from tests.simulation.outcome import Cell
from tests.simulation.outputs import Outputs
from tests.simulation.timers import path_of


class Checker:
    """Follows every commit.

    ``clock_of`` tells the latest that a process saw of its clock for a partition, ``policies_of`` the policies by which
    it began the transaction.
    """

    def __init__(
        self,
        broker: Broker,
        scribe: Scribe,
        clock_of: Callable[[str, int], int],
        policies_of: Callable[[str, int], Policies],
        retention_ms: int,
    ) -> None:
        self.folds = {number: Fold() for number in range(PARTITIONS)}
        self.outputs = Outputs(scribe)
        self._broker = broker
        self._scribe = scribe
        self._clock_of = clock_of
        self._policies_of = policies_of
        self._retention_ms = retention_ms
        self._failed_on: dict[tuple[str, int | None, int | None, int | None], set[str]] = {}

    # --- a commit -----------------------------------------------------------------------------------------------

    def decided(self, txn: Txn) -> None:
        """A transaction of a worker was committed."""
        number = int(txn.transactional_id.rpartition("-p")[2])
        fold, parts, clock_ms = self.folds[number], Parts(txn), self._clock_of(txn.by, number)
        changes = fold.apply(parts.rows)
        for change in changes.values():
            fold.truth.changed(change.id, change.old, change.new)
            self._check_change(change)
        policies = self._policies_of(txn.by, number)
        self.outputs.check(txn, fold, parts, changes, clock_ms, policies)
        moved = self._check_consumed(number, fold, txn, parts, changes)
        ticked = [change for change in changes.values() if change.id not in moved]
        if moved and ticked:
            self._scribe.count("ticks that took input along")
        for change in ticked:
            self._check_tick(change, fold, clock_ms, policies)
        fold.truth.of_partition("quarantined", len(parts.quarantined))
        fold.truth.of_partition("forwarded", len(parts.forwarded))
        self._check_figures(number, fold)
        self._check_bounds(fold, parts)

    def _check_change(self, change: Change) -> None:
        new = change.new
        if new is not None and change.old is None and new.origin.partition is not None:
            origin = new.origin_topic, new.origin_partition, new.origin_offset, new.origin_timestamp
            groups = self._failed_on.setdefault(origin, set())
            if groups and new.group not in groups:
                self._scribe.count("records that two groups failed on")
            groups.add(new.group)

    # --- timers -------------------------------------------------------------------------------------------------

    def _check_tick(self, change: Change, fold: Fold, clock_ms: int, policies: Policies) -> None:
        """A timer did what the lifecycle lets it do, to a message that was due."""
        old, new, path = change.old, change.new, path_of(change)
        what = f"{change.id.hex()[:8]} from {shown(old)} to {shown(new)}"
        if old is None or path is None:
            self._scribe.violated(f"no timer does that: {what}")
            return
        for state, event in path:
            target = LIFECYCLE[state][event]
            self._scribe.cell(Cell(state, event, target))
            if event in (Event.TIMED_OUT_AGAIN, Event.TIMED_OUT_FINALLY):
                fold.timed_out.add((change.id, old.attempt))
            escalates = target is State.ESCALATED
            fold.truth.happened(old.booked, event, presumed=state is State.PRESUMED, escalates=escalates)
        purged = new is None
        due_ms = old.due_ms
        if purged and old.closed_ms is not None:
            due_ms = old.closed_ms + (0 if old.closed_ms == PURGE_ORDERED_MS else self._retention_ms)
        if due_ms is None or clock_ms < due_ms:
            self._scribe.violated(f"too early, at {clock_ms}: {what}")
        if purged and state_of(old) is State.ESCALATED and old.dead_letter is not DeadLetter.WRITTEN:
            self._scribe.violated(f"purged before it was written: {what}")
        if new is not None and path and path[-1][1] is Event.TIMED_OUT_AGAIN:
            wrong_due(change.id, new, None, policies, self._scribe)

    # --- input --------------------------------------------------------------------------------------------------

    def _check_consumed(
        self, number: int, fold: Fold, txn: Txn, parts: Parts, changes: dict[bytes, Change]
    ) -> frozenset[bytes]:
        """What the offsets say is done was done in this very transaction, or had been done before.

        Returns the messages that this moved.  Input of both topics is in the order in which the offsets were sent.
        """
        intake = Intake(number, fold, changes, parts, self._scribe, self._policies_of(txn.by, number))
        left = dict(parts.quarantined)
        for (topic, _), offset in txn.offsets.items():
            start, known = fold.consumed.get(topic, 0), fold.known.get(topic, 0)
            if offset < start:
                self._scribe.violated(f"offsets of {topic}-{number} go back from {start} to {offset}")
            fold.consumed[topic], fold.known[topic] = offset, max(known, offset)
            for record in self._broker.log(topic, number).entries[start:offset]:
                if record.marker or (record.txn is not None and record.txn.state != "committed"):
                    continue
                found = left.pop((topic, record.offset), None)
                if found is not None:
                    self.outputs.check_quarantined(record, found, fold)
                else:
                    intake.consume(record, known_before=record.offset < known)
        if left:
            self._scribe.violated(f"in quarantine, but not consumed: {sorted(left)}")
        return intake.compare()

    # --- figures and bounds -------------------------------------------------------------------------------------

    def _check_figures(self, number: int, fold: Fold) -> None:
        """The figures of every queue that something happened to say the truth."""
        for queue in fold.truth.touched():
            raw = fold.rows["stats"].get(stats.stats_key(queue, number))
            wrong = fold.truth.wrong(queue, stats.Stats() if raw is None else stats.codec.decode(raw))
            if wrong:
                self._scribe.violated(f"figures of {queue!r} in partition {number}: {wrong}")

    def _check_bounds(self, fold: Fold, parts: Parts) -> None:
        queues = len(fold.rows["stats"])
        if queues > QUEUES_MAX + 2:  # what other queues are booked as, and the partition's own
            self._scribe.violated(f"{queues} queues have figures of their own")
        for entry in parts.rows:
            if entry.topic.endswith("attempts-changelog") and entry.value is not None:
                id_ = attempts.split_key(entry.key or b"")[0]
                if fold.kept[id_] > ATTEMPTS_KEPT_MAX:
                    self._scribe.violated(f"{fold.kept[id_]} attempts of {id_.hex()[:8]} are kept")

    # --- stores -------------------------------------------------------------------------------------------------

    def check_written(self, number: int, disk: Disk) -> None:
        """A store holds nothing that is not committed."""
        for table, offset in disk.offsets.items():
            entry = self._broker.log(f"{APP}-{table}-changelog", number).entries[offset]
            if entry.txn is not None and entry.txn.state != "committed" and not entry.marker:
                self._scribe.violated(f"the store of partition {number} holds what is not committed: {entry!r:.200}")

    def check_disk(self, number: int, disk: Disk) -> None:
        """A store that is up to date equals a fresh rebuild from the changelogs."""
        expected = self.folds[number].entries()
        if disk.entries == expected:
            return
        missing, extra = expected.keys() - disk.entries.keys(), disk.entries.keys() - expected.keys()
        other = [key for key in expected.keys() & disk.entries.keys() if expected[key] != disk.entries[key]]
        self._scribe.violated(
            f"the store of partition {number} is not what its changelogs say: "
            f"missing {_keys(missing)}, not theirs {_keys(extra)}, different {_keys(other)}"
        )

    # --- the end ------------------------------------------------------------------------------------------------

    def unsettled(self) -> list[str]:
        """What still has to happen: messages not closed, input not consumed."""
        left = [
            f"{id_.hex()[:8]} in partition {number}: {shown(row)} {row.stuck_reason} {row.dead_letter_reason}"
            for number, fold in self.folds.items()
            for id_, row in fold.messages.items()
            if row.status in stats.OPEN or row.dead_letter is DeadLetter.WAITING
        ]
        for number, fold in self.folds.items():
            for topic in (FAILURES, COMMANDS):
                log = self._broker.log(topic, number)
                position = fold.consumed.get(topic, 0)
                if log.beyond(position):
                    left.append(f"{topic}-{number} is consumed up to {position} of {len(log.entries)}")
        for known in () if left else self._broker.topics.values():
            left += [
                f"not ended as it was decided: {wrong!r:.300}" for log in known.logs for wrong in log.wrongly_ended()
            ]
        return left

    def check_end(self, reported: Collection[bytes]) -> None:
        """What agents were told is on the brokers is a message or was one, and a recount agrees with every gauge."""
        for id_ in sorted(reported):
            fold = self.folds[home_of(id_)]
            if id_ not in fold.messages and not fold.lives[id_]:
                self._scribe.violated(f"lost: {id_.hex()[:8]} was reported, and there is no such message")
        for number, fold in self.folds.items():
            wrong = fold.truth.wrongly_recounted(fold.messages)
            if wrong:
                self._scribe.violated(f"a recount of partition {number} differs: {wrong}")


def _keys(keys: Collection[bytes]) -> list[str]:
    return [key.hex() for key in sorted(keys)][:5]
