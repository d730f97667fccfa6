"""The table `stats`: one row of absolute figures per queue and partition.

Key: queue, NUL, partition (2 bytes, big-endian).  Its changelog is compacted, so whoever reads the whole of it has the
cluster's view: the sum over partitions.  The row of the queue with the empty name holds what belongs to a partition and
to no queue: events quarantined and forwarded, commands for messages that do not exist.

Figures come from comparing a row of `messages` before and after a change (`delta`), never from increments of something
shared: a batch that is staged again counts nothing twice.  Gauges equal a recount over the rows at any time.

Figures by reason are maps.  What may be a key is an enumeration (`Ignored`, `StuckReason`, `UnwrittenReason`), so a row
has no more of them than these have members, whatever the input is.

Versions: 1.1 added `Stats.stuck_reasons` and `Stats.unwritten_reasons`.  They add up to the gauges `Stats.stuck` and
`Stats.unwritten`, but for what workers of 1.0 booked, which did not know them.  1.2 added `Stats.pace`, which is no
figure: where a queue with a limit stands is kept here because every emission writes this row anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from struct import Struct
from typing import Any

import msgspec

from dlq_stream.core.lifecycle import Event
from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.core.pace import Pace
from dlq_stream.core.reasons import StuckReason, UnwrittenReason
from dlq_stream.core.transaction import Transaction
from dlq_stream.tables import messages
from dlq_stream.tables.codec import Codec
from dlq_stream.tables.messages import OTHER_QUEUE, DeadLetter, Message
from dlq_stream.tables.spec import TableSpec

TABLE = TableSpec("stats", b"s")

OPEN = (DLQMessageStatus.PENDING, DLQMessageStatus.RETRYING)
"""The statuses of messages that are still being worked on."""

PARTITION_QUEUE = ""
"""The queue name under which a partition's own figures are kept."""

_PARTITION = Struct(">H")


class Stats(msgspec.Struct, frozen=True, array_like=True):
    """Figures of one queue in one partition (or of many, see `total`).

    Gauges: messages by status; of those, ``stuck`` ones, which no timer looks at until an operator does, and
    ``unwritten`` ones, which are ESCALATED but not in their ``-dlq`` topic; and both by reason.  Totals count since the
    app's topics exist.  ``oldest_open_ms`` is an instant, so that readers compute the age.  ``pace`` belongs to one
    partition, and to no sum.
    """

    pending: int = 0
    retrying: int = 0
    resolved: int = 0
    escalated: int = 0
    stuck: int = 0
    unwritten: int = 0
    # ---- totals
    failures: int = 0
    retries: int = 0
    succeeded: int = 0
    presumed: int = 0
    reopened: int = 0
    timed_out: int = 0
    escalated_total: int = 0
    resolved_by_operator: int = 0
    redriven: int = 0
    purged: int = 0
    quarantined: int = 0
    forwarded: int = 0
    ignored: dict[str, int] = msgspec.field(default_factory=dict)
    # ----
    oldest_open_ms: int | None = None
    updated_ms: int = 0
    # ---- 1.1
    stuck_reasons: dict[str, int] = msgspec.field(default_factory=dict)
    unwritten_reasons: dict[str, int] = msgspec.field(default_factory=dict)
    pace: Pace = Pace()

    @property
    def open(self) -> int:
        """Messages that are still being worked on."""
        return self.pending + self.retrying


codec: Codec[Stats] = Codec(Stats, minor=2)

BY_REASON = ("ignored", "stuck_reasons", "unwritten_reasons")
"""The figures that are maps from a reason to a number."""

_SUMMED = tuple(
    name for name in Stats.__struct_fields__ if name not in (*BY_REASON, "oldest_open_ms", "updated_ms", "pace")
)

_TOTALS: dict[Event, str] = {
    Event.FAILED_AGAIN: "failures",
    Event.FAILED_FINALLY: "failures",
    Event.DUE: "retries",
    Event.SUCCEEDED: "succeeded",
    Event.PRESUMED_RESOLVED: "presumed",
    Event.TIMED_OUT_AGAIN: "timed_out",
    Event.TIMED_OUT_FINALLY: "timed_out",
    Event.RESOLVED_BY_OPERATOR: "resolved_by_operator",
    Event.REDRIVEN: "redriven",
    Event.PURGED: "purged",
}


def define(app: Any, **options: Any) -> Any:
    """The Faust table on ``app``."""
    return TABLE.define(app, **options)


def stats_key(queue: str, partition: int) -> bytes:
    """The key of a row."""
    return queue.encode() + b"\0" + _PARTITION.pack(partition)


def split_key(key: bytes) -> tuple[str, int]:
    """Queue and partition of a key."""
    return key[:-3].decode(), _PARTITION.unpack_from(key, len(key) - 2)[0]


def total(rows: Iterable[Stats]) -> Stats:
    """The sum of rows, such as those of one queue over all partitions."""
    figures: dict[str, Any] = dict.fromkeys(_SUMMED, 0)
    reasons: dict[str, Counter[str]] = {name: Counter() for name in BY_REASON}
    oldest: int | None = None
    updated = 0
    for row in rows:
        for name in _SUMMED:
            figures[name] += getattr(row, name)
        for name, counts in reasons.items():
            counts.update(getattr(row, name))
        if row.oldest_open_ms is not None:
            oldest = row.oldest_open_ms if oldest is None else min(oldest, row.oldest_open_ms)
        updated = max(updated, row.updated_ms)
    by_reason: dict[str, Any] = {name: dict(counts) for name, counts in reasons.items()}
    return Stats(**(figures | by_reason), oldest_open_ms=oldest, updated_ms=updated)


# ----------------------------------------------------------------------------------------------------- what changed

_UNWRITTEN = (DeadLetter.WAITING, DeadLetter.IMPOSSIBLE)

_Kind = tuple[DLQMessageStatus, bool, StuckReason | None, UnwrittenReason | None]
"""What figures see of a row: status, presumed, why it is stuck, why it is not in its ``-dlq`` topic."""


def _kind(row: Message | None) -> _Kind | None:
    if row is None:
        return None
    stuck = StuckReason.of(row.stuck_reason) if row.stuck_reason else None
    unwritten = UnwrittenReason.of(row.dead_letter_reason) if row.dead_letter in _UNWRITTEN else None
    return row.status, row.presumed, stuck, unwritten


@lru_cache(maxsize=4096)
def _delta(old: _Kind | None, new: _Kind | None, event: Event | None) -> tuple[tuple[str, int], ...]:
    figures: Counter[str] = Counter()
    for kind, sign in ((old, -1), (new, 1)):
        if kind is not None:
            status, _, stuck, unwritten = kind
            figures[status.value] += sign
            if stuck is not None:
                figures["stuck"] += sign
                figures[f"stuck_reasons.{stuck}"] += sign
            if unwritten is not None:
                figures["unwritten"] += sign
                figures[f"unwritten_reasons.{unwritten}"] += sign
    if event is not None and event in _TOTALS:
        figures[_TOTALS[event]] += 1
    if old is not None and old[1] and event in (Event.FAILED_AGAIN, Event.FAILED_FINALLY):
        figures["reopened"] += 1
    escalated = DLQMessageStatus.ESCALATED
    if new is not None and new[0] is escalated and (old is None or old[0] is not escalated):
        figures["escalated_total"] += 1
    return tuple((name, value) for name, value in figures.items() if value)


def delta(old: Message | None, new: Message | None, event: Event | None) -> dict[str, int]:
    """What a change of one message adds to each figure of its queue; ``event`` None: a change without a transition.

    A figure by reason is named after its map and the reason: ``stuck_reasons.record-missing``.
    """
    return dict(_delta(_kind(old), _kind(new), event))


def _reorders_open(old: _Kind | None, new: _Kind | None) -> bool:
    """Whether the oldest open message may have gone or come from elsewhere; new ones come from now."""
    was, is_now = old is not None and old[0] in OPEN, new is not None and new[0] in OPEN
    return was != is_now and old is not None


# ---------------------------------------------------------------------------------------------------------- the book


class StatsBook:
    """Collects the changes of one transaction and writes each touched row once, in `flush`.

    It knows no roll-back: book an event only once nothing of it can fail any more.  At most ``queues_max`` queues have
    figures of their own in a partition, later ones are booked as `OTHER_QUEUE`.
    """

    def __init__(self, tx: Transaction, queues_max: int) -> None:
        self._tx = tx
        self._queues_max = queues_max
        self._changes: dict[tuple[str, _Kind | None, _Kind | None, Event | None], int] = {}
        self._ignored: Counter[tuple[str, str]] = Counter()
        self._own: Counter[str] = Counter()
        self._paces: dict[str, Pace] = {}
        self._admitted: dict[str, str] = {}
        self._room: int | None = None

    def booked_as(self, queue: str) -> str:
        """`Message.booked_as` for a new message of ``queue``: empty, or `OTHER_QUEUE` where there are too many."""
        admitted = self._admitted.get(queue)
        if admitted is None:
            admitted = self._admitted[queue] = self._admit(queue)
        return admitted

    def _admit(self, queue: str) -> str:
        key = stats_key(queue, self._tx.partition)
        if queue == OTHER_QUEUE or self._tx.get_many("stats", (key,))[key] is not None:
            return ""
        if self._room is None:
            found = self._tx.scan("stats", b"", b"\xff", self._queues_max + 2)
            own = (PARTITION_QUEUE, OTHER_QUEUE)
            self._room = self._queues_max - sum(split_key(key)[0] not in own for key, _ in found)
        if self._room <= 0:
            return OTHER_QUEUE
        self._room -= 1
        return ""

    def changed(self, old: Message | None, new: Message | None, event: Event | None) -> None:
        """One message went from ``old`` to ``new`` (None: no row) by ``event``."""
        row = new if old is None else old
        if row is not None:
            key = row.booked_as or row.queue, _kind(old), _kind(new), event
            self._changes[key] = self._changes.get(key, 0) + 1

    def ignored(self, row: Message | None, reason: str) -> None:
        """An event about ``row`` (None: there is none) had no effect."""
        self._ignored[PARTITION_QUEUE if row is None else row.booked, reason] += 1

    def stored(self, booked: str) -> Stats:
        """The row of a queue as the transaction has it so far, without what this book will add."""
        key = stats_key(booked, self._tx.partition)
        raw = self._tx.get_many("stats", (key,))[key]
        return Stats() if raw is None else codec.decode(raw)

    def paced(self, booked: str, pace: Pace) -> None:
        """Keep the pace of a queue's emissions."""
        self._paces[booked] = pace

    def quarantined(self) -> None:
        """An event went to the quarantine topic."""
        self._own["quarantined"] += 1

    def forwarded(self) -> None:
        """An event went to the partition it belongs to."""
        self._own["forwarded"] += 1

    def flush(self) -> None:
        """Write the rows of the queues touched; last in a transaction, since the oldest open message is looked up."""
        figures: dict[str, Counter[str]] = {}
        reordered: set[str] = set()
        for (queue, old, new, event), count in self._changes.items():
            counter = figures.setdefault(queue, Counter())
            for name, value in _delta(old, new, event):
                counter[name] += value * count
            if _reorders_open(old, new):
                reordered.add(queue)
        for (queue, reason), count in self._ignored.items():
            figures.setdefault(queue, Counter())[f"ignored.{reason}"] += count
        if self._own:
            figures.setdefault(PARTITION_QUEUE, Counter()).update(self._own)
        for queue in self._paces:
            figures.setdefault(queue, Counter())
        if figures:
            self._write(figures, reordered)

    def _write(self, figures: dict[str, Counter[str]], reordered: set[str]) -> None:
        tx = self._tx
        keys = {queue: stats_key(queue, tx.partition) for queue in figures}
        raw = tx.get_many("stats", list(keys.values()))
        for queue, counter in figures.items():
            stored = raw[keys[queue]]
            row = Stats() if stored is None else codec.decode(stored)
            values = _added(row, counter)
            if queue != PARTITION_QUEUE:
                values["oldest_open_ms"] = self._oldest_open(queue, row, counter, queue in reordered)
            if queue in self._paces:
                values["pace"] = self._paces[queue]
            row = msgspec.structs.replace(row, **values, updated_ms=tx.now_ms)
            tx.put("stats", keys[queue], codec.encode(row))

    def _oldest_open(self, queue: str, row: Stats, counter: Counter[str], reordered: bool) -> int | None:
        if not reordered:
            if counter["pending"] + counter["retrying"] <= 0:
                return row.oldest_open_ms
            # Not always the youngest: a former owner's clock may have been ahead of ours.
            now_ms = self._tx.now_ms
            return now_ms if row.oldest_open_ms is None else min(row.oldest_open_ms, now_ms)
        oldest = [messages.by_status(self._tx, queue, status, 1) for status in OPEN]
        return min((found[0][0] for found in oldest if found), default=None)


def _added(row: Stats, counter: Counter[str]) -> dict[str, Any]:
    """The figures that change, with their new values; a reason that nothing is left of goes."""
    values: dict[str, Any] = {}
    for name, value in counter.items():
        figure, _, reason = name.partition(".")
        if reason:
            values.setdefault(figure, Counter(getattr(row, figure)))[reason] += value
        else:
            values[name] = getattr(row, name) + value
    for name in BY_REASON:
        if name in values:
            values[name] = dict(+values[name])
    return values
