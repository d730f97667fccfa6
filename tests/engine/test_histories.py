"""Random histories: whatever is reported, ordered, repeated and reordered, the engine's promises hold.

After every step: figures equal a recount over the rows, indexes equal a fresh derivation, no delivery is emitted twice
or early, nothing that failed is lost, and what is given up is in its dead-letter topic, or waits for it.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dlq_stream.core import events
from dlq_stream.core.commands import Action, MessageCommand, Order, Succeeded
from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.core.policy import RetryPolicy
from dlq_stream.core.transaction import Destination
from dlq_stream.engine import apply_commands, apply_failures
from dlq_stream.tables.messages import DeadLetter, Message
from tests.engine.world import GROUP, PERMANENT, RETENTION_MS, TOPIC, TRANSIENT, World, id_of, rows_of
from tests.memory import FakeRecord, Sent

DLQ = f"{TOPIC}-dlq"
KNOWN = {
    TOPIC: [
        Destination(TOPIC, 8),
        Destination(TOPIC, 2),
        Destination(TOPIC, refusal="missing"),
        Destination(TOPIC, 8, compacted=True),
        Destination(TOPIC, 8, record_bytes_max=400),
    ],
    DLQ: [Destination(DLQ, 8), Destination(DLQ, refusal="not-authorised"), Destination(DLQ, 8, record_bytes_max=300)],
}
POLICY = RetryPolicy(
    max_retries=2, initial_backoff_ms=100, backoff_multiplier=2, max_backoff_ms=150, outcome_timeout_ms=250
)

offsets = st.integers(0, 3)
failures = st.fixed_dictionaries(
    {
        "offset": offsets,
        "attempt": st.integers(0, 4),
        "error": st.sampled_from([TRANSIENT, TRANSIENT, TRANSIENT, PERMANENT]),
        "group": st.sampled_from([GROUP, GROUP, "billing"]),
        "value": st.sampled_from([b"small", b"x" * 500]),
    },
    optional={"outcomes": st.just("reported"), "retry_after_ms": st.integers(0, 300)},
)


NEVER = 1_000_000
"""More revisions than any history has."""


class Histories(RuleBasedStateMachine):
    """One partition, four records, two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(
            policy=POLICY, attempts_kept_max=3, queues_max=1, dead_letter_bytes_max=600, purge_bytes_max=600
        )
        self.past: list[tuple[Any, list[FakeRecord]]] = []
        self.stored: set[bytes] = set()
        self.emitted: set[tuple[bytes, bytes, int]] = set()

    # --- what may happen --------------------------------------------------------------------------------------------

    @rule(batch=st.lists(failures, min_size=1, max_size=4), queue=st.sampled_from([None, "second"]))
    def fail(self, batch: list[dict[str, Any]], queue: str | None) -> None:
        self.apply(apply_failures, [self.world.failure(**event, queue=queue) for event in batch])

    @rule(offset=offsets, other=offsets)
    def mistake(self, offset: int, other: int) -> None:
        self.apply(apply_failures, [self.world.failure(offset, message_id=id_of(other).hex())])

    @rule(offset=offsets, error=st.sampled_from([TRANSIENT, TRANSIENT, PERMANENT]), reported=st.booleans())
    def fail_latest(self, offset: int, error: str, reported: bool) -> None:
        row = self.world.row(id_of(offset))
        outcomes = "reported" if reported else None
        event = self.world.failure(offset, attempt=row.attempt if row else 0, error=error, outcomes=outcomes)
        self.apply(apply_failures, [event])

    @rule(offset=offsets, behind=st.integers(-1, 2))
    def succeed(self, offset: int, behind: int) -> None:
        row = self.world.row(id_of(offset))
        self.command([Succeeded(id_of(offset), max(0, row.attempt - behind) if row else 0)])

    @rule(batch=st.lists(st.tuples(offsets, st.sampled_from(Action), st.integers(-1, 1)), min_size=1, max_size=3))
    def order(self, batch: list[tuple[int, Action, int]]) -> None:
        orders: list[MessageCommand] = []
        for offset, action, skew in batch:
            row = self.world.row(id_of(offset))
            # Nobody has seen a revision that is still to come; one that never comes is wrong in the same way, and a
            # repetition of the batch does not make it right.
            revision = max(0, (row.revision if row else 1) + (NEVER if skew > 0 else skew))
            due_at = self.world.now + 50 * skew if action is Action.RESCHEDULE else None
            orders.append(Order(id_of(offset), action, revision, due_at=due_at))
        self.command(orders)

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Batches of the past come again, in any order: a rebalance, or offsets that were reset."""
        if self.past:
            apply, records = data.draw(st.sampled_from(self.past))
            self.stage(apply, data.draw(st.permutations(records)))

    @rule(ms=st.sampled_from([1, 50, 100, 150, 250, 1_000, RETENTION_MS]))
    def wait(self, ms: int) -> None:
        self.world.wait(ms)

    @rule(records_max=st.integers(1, 4), bytes_max=st.sampled_from([1, 600, 10_000]))
    def emit(self, records_max: int, bytes_max: int) -> None:
        before, sent = rows_of(self.world.home), len(self.world.home.outbox)
        result = self.world.emit(records_max=records_max, bytes_max=bytes_max)
        new = [record for record in self.world.home.outbox[sent:] if record.topic == TOPIC]
        assert result.emitted == len(new) <= records_max
        for record in new:
            self.check_emission(record, before)
        if not result.more and not result.unknown:
            late = [row for row in rows_of(self.world.home).values() if row.due_ms is not None]
            assert all((row.due_ms or 0) > self.world.now for row in late)
            assert result.next_due_ms == min((row.due_ms or 0 for row in late), default=None)

    @rule(record_max=st.integers(1, 4))
    def tick(self, record_max: int) -> None:
        """The usual: time passes until something is due, and the timer runs."""
        if self.world.home.rows["due"]:
            self.world.to_next_due()
            self.emit(record_max, 10_000)

    @rule(record_max=st.integers(1, 4), error=st.sampled_from([TRANSIENT, TRANSIENT, PERMANENT]))
    def fail_again(self, record_max: int, error: str) -> None:
        """The usual, and the retries fail."""
        self.tick(record_max)
        retrying = [row for row in rows_of(self.world.home).values() if row.status is DLQMessageStatus.RETRYING]
        batch = [
            self.world.failure(row.origin_offset or 0, attempt=row.attempt, group=row.group, error=error)
            for row in retrying
        ]
        self.apply(apply_failures, batch)

    @rule(steps_max=st.integers(1, 3))
    def retain(self, steps_max: int) -> None:
        self.world.retain(steps_max)

    @rule(topic=st.sampled_from(sorted(KNOWN)), choice=st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4, None]))
    def learn(self, topic: str, choice: int | None) -> None:
        self.world.home.destinations.pop(topic, None)
        if choice is not None:
            self.world.home.learn(KNOWN[topic][choice % len(KNOWN[topic])])

    # --- how ----------------------------------------------------------------------------------------------------------

    def command(self, commands: list[MessageCommand]) -> None:
        self.apply(apply_commands, [self.world.command(command) for command in commands])

    def apply(self, apply: Any, records: list[FakeRecord]) -> None:
        """A batch, and the same once more: the second time changes no row and sends nothing but to quarantine."""
        self.past.append((apply, records))
        self.stage(apply, records)
        rows = {name: dict(self.world.home.rows[name]) for name in ("messages", "attempts", "due", "status", "closed")}
        sent = self.outbox()
        if not any(row.dead_letter_reason == "unknown" for row in rows_of(self.world.home).values()):
            self.stage(apply, records)
            assert rows == {name: self.world.home.rows[name] for name in rows}
            assert self.outbox() == sent

    def stage(self, apply: Any, records: list[FakeRecord]) -> None:
        self.world.run(lambda tx: apply(tx, records, self.world.engine))

    def outbox(self) -> list[Sent]:
        return [sent for sent in self.world.home.outbox if sent.topic != "dlq-stream-quarantine"]

    def check_emission(self, record: Sent, before: dict[bytes, Message]) -> None:
        id_ = bytes.fromhex((record.header("dlq-message-id") or b"").decode())
        row = before[id_]
        assert row.status is DLQMessageStatus.PENDING
        assert row.due_ms is not None
        assert row.due_ms <= self.world.now
        assert int(record.header("dlq-attempt") or b"") == row.attempt + 1
        key = (id_, str(row.created_ms).encode(), row.attempt + 1)
        assert key not in self.emitted
        self.emitted.add(key)

    # --- what holds ---------------------------------------------------------------------------------------------------

    @invariant()
    def figures_and_indexes(self) -> None:
        self.world.check()

    @invariant()
    def nothing_is_lost(self) -> None:
        rows = rows_of(self.world.home)
        for seen in self.world.seen_of(events.FailureStored) + self.world.seen_of(events.MessageEscalated):
            self.stored.add(seen.id)
        purged = {seen.id for seen in self.world.seen_of(events.MessagePurged)}
        assert self.stored <= rows.keys() | purged

    @invariant()
    def rows_make_sense(self) -> None:
        written = {sent.header("dlq-message-id") for sent in self.world.dead_letters()}
        for id_, row in rows_of(self.world.home).items():
            escalated = row.status is DLQMessageStatus.ESCALATED
            waiting = row.dead_letter is DeadLetter.WAITING
            closed = row.status is DLQMessageStatus.RESOLVED or (escalated and row.dead_letter is DeadLetter.WRITTEN)
            assert (row.closed_ms is not None) == closed
            assert (row.due_ms is not None) == (row.status in ("pending", "retrying") or waiting)
            assert (not escalated) or row.dead_letter is not DeadLetter.NONE
            assert row.dead_letter is not DeadLetter.WRITTEN or id_.hex().encode() in written
            assert row.stuck_reason == ""
            assert row.attempt >= row.attempt_base >= row.first_attempt
            attempts = [number for number, _ in self.world.history(id_)]
            assert attempts[0] == row.first_attempt
            assert len(attempts) <= 3
            assert self.world.history(id_)[0][1].has_record
        assert len(self.world.home.rows["attempts"]) == sum(
            len(self.world.history(id_)) for id_ in rows_of(self.world.home)
        )


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_a_replay_of_everything_changes_nothing() -> None:
    """Both intake topics from the beginning, while all closed rows are still there."""
    world = World(policy=POLICY)
    log: list[tuple[Any, FakeRecord]] = []

    def apply(apply: Any, record: FakeRecord) -> None:
        log.append((apply, record))
        world.run(lambda tx: apply(tx, [record], world.engine))

    for offset in range(6):
        apply(apply_failures, world.failure(offset, outcomes="reported" if offset % 2 else None))
    for attempt in (1, 2):
        world.wait(200)
        world.emit()
        for offset in (0, 1, 2):
            apply(apply_failures, world.failure(offset, attempt=attempt, outcomes="reported"))
    apply(apply_failures, world.failure(6, error=PERMANENT))
    apply(apply_commands, world.command(Succeeded(id_of(3), 1)))
    apply(apply_commands, world.command(Order(id_of(0), Action.REDRIVE, world.must(id_of(0)).revision)))
    apply(apply_commands, world.command(Order(id_of(4), Action.RESOLVE, world.must(id_of(4)).revision)))
    world.wait(300)
    world.emit()
    rows, sent = {name: dict(world.home.rows[name]) for name in ("messages", "attempts")}, len(world.home.outbox)
    assert {row.status for row in rows_of(world.home).values()} == {"pending", "retrying", "resolved", "escalated"}
    for apply_, record in log:
        world.run(lambda tx, apply_=apply_, record=record: apply_(tx, [record], world.engine))
    assert rows == {name: world.home.rows[name] for name in rows}
    assert len(world.home.outbox) == sent
    world.check()
