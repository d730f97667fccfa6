"""A small world for engine tests: one partition in memory, a clock, and short ways to say what happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from dlq_stream.core.classification import Classifier
from dlq_stream.core.commands import Action, MessageCommand, Order, Succeeded, encode_command
from dlq_stream.core.ids import message_id, partition_of
from dlq_stream.core.model import DLQMessageStatus, Headers, Origin
from dlq_stream.core.policy import Policies, RetryPolicy
from dlq_stream.core.reasons import StuckReason, UnwrittenReason
from dlq_stream.core.transaction import Destination
from dlq_stream.engine import EmitResult, Engine, apply_commands, apply_failures, emit_due, retain
from dlq_stream.tables import attempts, messages, stats
from dlq_stream.tables.attempts import Attempt
from dlq_stream.tables.messages import DeadLetter, Message
from dlq_stream.tables.stats import Stats
from tests.memory import FakeRecord, MemoryPartition, MemoryTransaction, Sent

E = TypeVar("E")

NOW = 1_700_000_000_000
TOPIC = "heat-processing"
GROUP = "heat-agent"
RETENTION_MS = 1_000_000
TRANSIENT = "TimeoutError"
PERMANENT = "ValidationError"

STATUSES = ("pending", "retrying", "resolved", "escalated")


class World:
    """Partition ``partition`` of ``partitions``; with one partition everything belongs here."""

    def __init__(self, *, partition: int = 0, partitions: int = 1, known: bool = True, **options: Any) -> None:
        policies = options.pop("policies", None) or Policies(default=options.pop("policy", RetryPolicy()))
        self.home = MemoryPartition(
            partition, partitions, now_ms=NOW, row_bytes_max=options.pop("row_bytes_max", 2_000_000)
        )
        self.seen: list[Any] = []
        self.engine = Engine(
            app_id="dlq-stream",
            policies=policies,
            classifier_for=lambda policy: Classifier(),
            observe=self.seen.append,
            **({"retention_ms": RETENTION_MS} | options),
        )
        self._offsets: Counter[str] = Counter()
        if known:
            self.home.learn(Destination(TOPIC, 8), Destination(f"{TOPIC}-dlq", 8))

    # --- time ---

    @property
    def now(self) -> int:
        return self.home.now_ms

    def wait(self, ms: int) -> None:
        self.home.now_ms += ms

    # --- what happens ---

    def run(self, stage: Callable[[MemoryTransaction], E]) -> E:
        return self.home.run(stage)

    def apply(self, *records: FakeRecord) -> None:
        """A batch of failure events."""
        self.run(lambda tx: apply_failures(tx, records, self.engine))

    def fail(self, offset: int = 81, **options: Any) -> bytes:
        """One failure of the record at ``offset``; returns its message id."""
        self.apply(self.failure(offset, **options))
        return id_of(offset, options.get("group", GROUP))

    def failure(
        self,
        offset: int = 81,
        *,
        attempt: int = 0,
        error: str = TRANSIENT,
        group: str = GROUP,
        message: str = "no answer in 30 s",
        key: bytes | None = b"furnace-7",
        value: bytes | None = b'{"t": 1}',
        headers: Headers = (("trace", b"1"), ("trace", None)),
        event_key: bytes | None = b"",
        **own: Any,
    ) -> FakeRecord:
        """A failure event; ``own`` are further headers (underscores for dashes), None leaves one out."""
        given: dict[str, Any] = {
            "message_id": id_of(offset, group).hex(),
            "original_topic": TOPIC,
            "original_partition": 3,
            "original_offset": offset,
            "original_timestamp": 1_699_999_999_000,
            "group": group,
            "attempt": attempt,
            "error_type": error,
            "error_message": message,
            "error_stacktrace": "Traceback ...",
        } | own
        ours: list[tuple[str, bytes | None]] = [("dlq-original-key", key)]
        for name, content in given.items():
            if content is not None:
                raw = content if isinstance(content, bytes) else str(content).encode()
                ours.append((f"dlq-{name.replace('_', '-')}", raw))
        return self.record("dlq-stream-failures", event_key, value, (*headers, *ours))

    def record(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> FakeRecord:
        self._offsets[topic] += 1
        return FakeRecord(topic, self.home.partition, self._offsets[topic], NOW, key, value, headers)

    def command(self, command: MessageCommand, headers: Headers = ()) -> FakeRecord:
        return self.record("dlq-stream-commands", command.id.hex().encode(), encode_command(command), headers)

    def tell(self, *commands: MessageCommand) -> None:
        """A batch of commands."""
        records = [self.command(command) for command in commands]
        self.run(lambda tx: apply_commands(tx, records, self.engine))

    def succeed(self, message_id: bytes, attempt: int) -> None:
        self.tell(Succeeded(message_id, attempt))

    def order(self, message_id: bytes, action: Action, *, revision: int | None = None, **options: Any) -> None:
        """An operator's command, at the row's revision unless told otherwise."""
        row = self.row(message_id)
        seen = row.revision if revision is None and row is not None else revision or 0
        self.tell(Order(message_id, action, seen, **options))

    def emit(self, *, records_max: int = 100, bytes_max: int = 10_000_000) -> EmitResult:
        return self.run(lambda tx: emit_due(tx, self.engine, records_max=records_max, bytes_max=bytes_max))

    def retain(self, steps_max: int = 100) -> int | None:
        return self.run(lambda tx: retain(tx, self.engine, steps_max=steps_max))

    def retried(self, offset: int = 81, times: int = 1, **options: Any) -> bytes:
        """A message whose retry number ``times`` was emitted."""
        message_id = self.fail(offset, **options)
        for attempt in range(1, times + 1):
            self.to_next_due()
            self.emit()
            if attempt < times:
                self.fail(offset, attempt=attempt, **options)
        assert self.must(message_id).status is DLQMessageStatus.RETRYING
        return message_id

    def to_next_due(self) -> None:
        due = messages.next_due_ms(self.home.transaction(), 0)
        assert due is not None
        self.home.now_ms = max(self.now, due)

    # --- what is so ---

    def row(self, message_id: bytes) -> Message | None:
        return messages.get(self.home.transaction(), message_id)

    def must(self, message_id: bytes) -> Message:
        row = self.row(message_id)
        assert row is not None
        return row

    def status(self, message_id: bytes) -> str:
        row = self.row(message_id)
        return "absent" if row is None else row.status.value

    def history(self, message_id: bytes) -> list[tuple[int, Attempt]]:
        return attempts.history(self.home.transaction(), message_id, 1_000)

    def stats(self, queue: str = TOPIC) -> Stats:
        raw = self.home.rows["stats"].get(stats.stats_key(queue, self.home.partition))
        return Stats() if raw is None else stats.codec.decode(raw)

    def own_stats(self) -> Stats:
        return self.stats("")

    def emissions(self, topic: str = TOPIC) -> list[Sent]:
        return self.home.sent(topic)

    def dead_letters(self, topic: str = f"{TOPIC}-dlq") -> list[Sent]:
        return self.home.sent(topic)

    def quarantined(self) -> list[Sent]:
        return self.home.sent("dlq-stream-quarantine")

    def reasons(self) -> list[str]:
        return [(sent.header("dlq-quarantine-reason") or b"").decode() for sent in self.quarantined()]

    def state(self) -> dict[str, dict[bytes, bytes]]:
        return {name: dict(rows) for name, rows in self.home.rows.items()}

    def seen_of(self, kind: type[E]) -> list[E]:
        return [happening for happening in self.seen if isinstance(happening, kind)]

    def check(self) -> None:
        """Whatever happened: figures equal a recount over the rows, indexes a fresh derivation."""
        check_indexes(self.home)
        check_stats(self.home)


def id_of(offset: int, group: str = GROUP) -> bytes:
    return message_id(group, Origin(TOPIC, 3, offset, 1_699_999_999_000))


def offset_on(partition: int, partitions: int, group: str = GROUP, start: int = 0) -> int:
    """An offset whose message lives on this partition."""
    offset = start
    while partition_of(id_of(offset, group), partitions) != partition:
        offset += 1
    return offset


def rows_of(home: MemoryPartition) -> dict[bytes, Message]:
    return {key: messages.codec.decode(raw) for key, raw in home.rows["messages"].items()}


def check_indexes(home: MemoryPartition) -> None:
    fresh: dict[str, set[bytes]] = {"due": set(), "status": set(), "closed": set()}
    for key, raw in home.rows["messages"].items():
        for index, entry in messages.derive(key, None, raw)[1]:
            fresh[index].add(entry)
    assert {name: set(home.rows[name]) for name in fresh} == fresh


def check_stats(home: MemoryPartition) -> None:
    counted: dict[str, list[Message]] = {}
    for row in rows_of(home).values():
        counted.setdefault(row.booked, []).append(row)
    stored = {stats.split_key(key)[0]: stats.codec.decode(raw) for key, raw in home.rows["stats"].items()}
    assert counted.keys() <= stored.keys()
    for queue, figures in stored.items():
        check_queue(figures, counted.get(queue, []))


def check_queue(figures: Stats, rows: Sequence[Message]) -> None:
    by_status = Counter(row.status.value for row in rows)
    assert {name: getattr(figures, name) for name in STATUSES} == {name: by_status[name] for name in STATUSES}
    stuck = Counter(StuckReason.of(row.stuck_reason) for row in rows if row.stuck_reason)
    assert (figures.stuck, figures.stuck_reasons) == (stuck.total(), stuck)
    waiting = [row for row in rows if row.dead_letter in (DeadLetter.WAITING, DeadLetter.IMPOSSIBLE)]
    unwritten = Counter(UnwrittenReason.of(row.dead_letter_reason) for row in waiting)
    assert (figures.unwritten, figures.unwritten_reasons) == (unwritten.total(), unwritten)
    open_since = [row.created_ms for row in rows if row.status in stats.OPEN]
    assert figures.oldest_open_ms == min(open_since, default=None)
