"""The checkers find what they are there for: each fault is planted into evidence that is right, and found.

The evidence is made from the story by hand, so that what is right here does not depend on what the workers do.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import pytest

from dlq_stream.core.model import DLQMessageStatus as Status
from dlq_stream.core.model import ErrorCategory, Headers
from dlq_stream.tables import INDEXES, attempts, messages, stats
from dlq_stream.tables.attempts import Attempt
from dlq_stream.tables.messages import DeadLetter
from dlq_stream.tables.messages import Message as Row
from dlq_stream.tables.stats import OPEN, PARTITION_QUEUE
from tests.crash.checks import Evidence, compare, judge
from tests.crash.state import Tables
from tests.crash.story import FAILS, HOPELESS, PARTITIONS, SUCCEEDS, Message, Order, Story, story
from tests.crash.traffic import failure_headers

BEGAN_MS = 1_000_000
STORY = story(7, 400)
OWNERS = {number: "ab"[number % 2] for number in range(PARTITIONS)}


@dataclass(frozen=True)
class Rec:
    """A record as read."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Ideal:
    """Evidence of a run in which everything went right and every retry came out at the very moment it was due."""

    def __init__(self, the_story: Story) -> None:
        self.failures: list[Rec] = []
        self.commands: list[Rec] = []
        self.retries: list[Rec] = []
        self.dead_letters: list[Rec] = []
        self.quarantine: list[Rec] = []
        self.contents: dict[int, dict[bytes, bytes]] = {number: {} for number in range(PARTITIONS)}
        for message in the_story.messages:
            self._play(message)
            self._rest(message)
        for number, value in enumerate(the_story.poison):
            partition = the_story.poison_partition(number)
            self._append(self.failures, "failures", partition, BEGAN_MS, None, value, ())
            self._append(self.quarantine, "quarantine", partition, BEGAN_MS, None, value, ())
        self._count(the_story)

    def evidence(self) -> Evidence:
        ends = {(each.topic, each.partition): each.offset + 1 for each in (*self.failures, *self.commands)}
        stores = {(OWNERS[number], number): contents for number, contents in self.contents.items()}
        return Evidence(
            failures=self.failures,
            commands=self.commands,
            retries=self.retries,
            dead_letters=self.dead_letters,
            quarantine=self.quarantine,
            committed=ends,
            tables=Tables(rebuilt=self.contents, stores=stores, caught_up=stores),
            owners=OWNERS,
        )

    def _append(
        self,
        log: list[Rec],
        topic: str,
        partition: int,
        at_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
    ) -> None:
        offset = sum(each.partition == partition for each in log)
        log.append(Rec(topic, partition, offset, at_ms, key, value, headers))

    def _play(self, message: Message) -> None:
        """What is written about one message, in order."""
        at_ms, id_ = BEGAN_MS + 10 * message.number, message.id.encode()
        for attempt, outcome in enumerate(message.fate.outcomes):
            ours = (("dlq-message-id", id_), ("dlq-attempt", b"%d" % attempt))
            if attempt:
                at_ms += message.wait_ms(attempt - 1)
                place = message.source_partition
                headers = (*message.headers, *ours, ("dlq-due-at", b"%d" % at_ms))
                self._append(self.retries, "heat", place, at_ms, message.key, message.value, headers)
            if outcome in (FAILS, HOPELESS):
                at_ms += 5
                place = message.home if attempt else message.sent_to
                headers = tuple(failure_headers(message, attempt, "heat"))
                self._append(self.failures, "failures", place, at_ms, id_, message.value, headers)
            if outcome is HOPELESS or (message.has_dead_letter and attempt == message.failures[-1]):
                place = message.source_partition
                headers = (*message.headers, *ours)
                self._append(self.dead_letters, "heat-dlq", place, at_ms, message.key, message.value, headers)
                if message.fate.order is not None:
                    at_ms += 7
                    self._command(message, at_ms, {"type": message.fate.order.value, "revision": 1})
            if outcome is SUCCEEDS:
                self._command(message, at_ms, {"type": "succeeded", "attempt": attempt})

    def _command(self, message: Message, at_ms: int, fields: dict[str, object]) -> None:
        self._append(
            self.commands, "commands", message.home, at_ms, message.id.encode(), json.dumps(fields).encode(), ()
        )

    def _rest(self, message: Message) -> None:
        """The rows that remain of one message."""
        status = message.fate.status
        if status is Status.PURGED:
            return
        contents, id_ = self.contents[message.home], bytes.fromhex(message.id)
        row = Row(
            status=status,
            due_ms=BEGAN_MS + 1 if status in OPEN else None,
            created_ms=BEGAN_MS + message.number,
            closed_ms=None if status in OPEN else BEGAN_MS + 2,
            queue=message.queue,
            attempt=message.retries,
            revision=message.revision,
            dead_letter=DeadLetter.WRITTEN if status is Status.ESCALATED else DeadLetter.NONE,
        )
        put_row(contents, id_, row)
        for attempt in message.failures:
            key = attempts.TABLE.tag + attempts.attempt_key(id_, attempt)
            contents[key] = attempts.codec.encode(Attempt(("TimeoutError",), "", ErrorCategory.TRANSIENT, "", 1))

    def _count(self, the_story: Story) -> None:
        for (queue, number), figures in the_story.figures().items():
            contents = self.contents[number]
            every = (messages.codec.decode(raw) for key, raw in contents.items() if key.startswith(b"m"))
            open_ms = [row.created_ms for row in every if row.status in OPEN and row.queue == queue]
            figures = msgspec.structs.replace(figures, oldest_open_ms=min(open_ms, default=None), updated_ms=9)
            contents[stats.TABLE.tag + stats.stats_key(queue, number)] = stats.codec.encode(figures)


def put_row(contents: dict[bytes, bytes], id_: bytes, row: Row) -> None:
    """A row with its index entries, in place of the former one."""
    key = messages.TABLE.tag + id_
    tags = {spec.name: spec.tag for spec in INDEXES}
    raw = messages.codec.encode(row)
    removed, added = messages.derive(id_, contents.get(key), raw)
    for index, entry in removed:
        del contents[tags[index] + entry]
    for index, entry in added:
        contents[tags[index] + entry] = b""
    contents[key] = raw


def the(status: Status) -> Message:
    """Some message that ends so."""
    return next(message for message in STORY.messages if message.fate.status is status)


def row_of(contents: dict[int, dict[bytes, bytes]], message: Message) -> tuple[dict[bytes, bytes], bytes, Row]:
    id_ = bytes.fromhex(message.id)
    mine = contents[message.home]
    return mine, id_, messages.codec.decode(mine[messages.TABLE.tag + id_])


# ------------------------------------------------------------------------------------------------------------- plants


def forget_a_retry(ideal: Ideal) -> None:
    ideal.retries.pop()


def forget_a_dead_letter(ideal: Ideal) -> None:
    ideal.dead_letters.pop(0)


def forget_a_quarantined_event(ideal: Ideal) -> None:
    ideal.quarantine.pop()


def repeat_a_retry(ideal: Ideal) -> None:
    ideal.retries.append(ideal.retries[0])


def repeat_a_dead_letter(ideal: Ideal) -> None:
    ideal.dead_letters.append(ideal.dead_letters[0])


def emit_a_millisecond_early(ideal: Ideal) -> None:
    ideal.retries[3] = replace(ideal.retries[3], timestamp=ideal.retries[3].timestamp - 1)


def emit_before_the_redrive(ideal: Ideal) -> None:
    redriven = next(message for message in STORY.messages if message.fate.order is Order.REDRIVE)
    id_ = ("dlq-message-id", redriven.id.encode())
    at = next(at for at, record in enumerate(ideal.retries) if id_ in record.headers)
    ideal.retries[at] = replace(ideal.retries[at], timestamp=ideal.retries[at].timestamp - 1)


def emit_without_a_failure(ideal: Ideal) -> None:
    ideal.failures = [record for record in ideal.failures if ("dlq-attempt", b"1") not in record.headers]


def emit_what_nobody_asked_for(ideal: Ideal) -> None:
    record = ideal.retries[0]
    headers = (*record.headers, ("dlq-attempt", b"9"))
    ideal.retries.append(replace(record, headers=headers))


def change_a_value(ideal: Ideal) -> None:
    ideal.retries[0] = replace(ideal.retries[0], value=b"other")


def lose_a_repeated_header(ideal: Ideal) -> None:
    record = ideal.dead_letters[0]
    ideal.dead_letters[0] = replace(record, headers=tuple(dict(record.headers).items()))


def emit_to_another_partition(ideal: Ideal) -> None:
    ideal.retries[0] = replace(ideal.retries[0], partition=(ideal.retries[0].partition + 1) % PARTITIONS)


def lose_a_row(ideal: Ideal) -> None:
    """With its index entries, and the figures do not notice."""
    mine, id_, row = row_of(ideal.contents, the(Status.RESOLVED))
    tags = {spec.name: spec.tag for spec in INDEXES}
    for index, entry in messages.derive(id_, messages.codec.encode(row), None)[0]:
        del mine[tags[index] + entry]
    del mine[messages.TABLE.tag + id_]


def keep_a_purged_attempt(ideal: Ideal) -> None:
    message = the(Status.PURGED)
    key = attempts.TABLE.tag + attempts.attempt_key(bytes.fromhex(message.id), 0)
    ideal.contents[message.home][key] = b"\x01\x00"


def apply_a_transition_twice(ideal: Ideal) -> None:
    mine, id_, row = row_of(ideal.contents, the(Status.RETRYING))
    put_row(mine, id_, msgspec.structs.replace(row, revision=row.revision + 1))


def leave_a_dead_letter_waiting(ideal: Ideal) -> None:
    mine, id_, row = row_of(ideal.contents, the(Status.ESCALATED))
    put_row(mine, id_, msgspec.structs.replace(row, dead_letter=DeadLetter.WAITING))


def change_a_status(ideal: Ideal) -> None:
    mine, id_, row = row_of(ideal.contents, the(Status.RETRYING))
    put_row(mine, id_, msgspec.structs.replace(row, status=Status.PENDING))


def count_a_failure_twice(ideal: Ideal) -> None:
    change_figures(ideal, lambda row: msgspec.structs.replace(row, failures=row.failures + 1))


def count_a_repeat_too_little(ideal: Ideal) -> None:
    change_figures(ideal, lambda row: msgspec.structs.replace(row, ignored={}))


def forget_the_oldest(ideal: Ideal) -> None:
    change_figures(ideal, lambda row: msgspec.structs.replace(row, oldest_open_ms=(row.oldest_open_ms or 0) + 1))


def change_figures(ideal: Ideal, change: Callable[[stats.Stats], stats.Stats]) -> None:
    for contents in ideal.contents.values():
        for key, raw in contents.items():
            queue = stats.split_key(key[1:])[0] if key.startswith(stats.TABLE.tag) else PARTITION_QUEUE
            if queue != PARTITION_QUEUE:
                contents[key] = stats.codec.encode(change(stats.codec.decode(raw)))
                return


def keep_a_stale_index_entry(ideal: Ideal) -> None:
    ideal.contents[0][b"d" + b"\x00" * 24] = b""


def lose_an_index_entry(ideal: Ideal) -> None:
    contents = ideal.contents[1]
    del contents[next(key for key in contents if key.startswith(b"q"))]


PLANTS = [
    (forget_a_retry, {"lost"}),
    (forget_a_dead_letter, {"lost"}),
    (forget_a_quarantined_event, {"lost"}),
    (repeat_a_retry, {"duplicate"}),
    (repeat_a_dead_letter, {"duplicate"}),
    (emit_a_millisecond_early, {"early"}),
    (emit_before_the_redrive, {"early"}),
    (emit_without_a_failure, {"early"}),
    (emit_what_nobody_asked_for, {"unexpected"}),
    (change_a_value, {"altered"}),
    (lose_a_repeated_header, {"altered"}),
    (emit_to_another_partition, {"altered"}),
    (lose_a_row, {"state", "statistics"}),
    (keep_a_purged_attempt, {"state"}),
    (apply_a_transition_twice, {"state"}),
    (leave_a_dead_letter_waiting, {"state", "statistics"}),
    (change_a_status, {"state", "statistics"}),
    (count_a_failure_twice, {"statistics"}),
    (count_a_repeat_too_little, {"statistics"}),
    (forget_the_oldest, {"statistics"}),
    (keep_a_stale_index_entry, {"tables"}),
    (lose_an_index_entry, {"tables"}),
]


def found(evidence: Evidence) -> set[str]:
    """The kinds of faults that are found."""
    return {name for name, examples in judge(STORY, evidence).faults.items() if examples}


def test_the_story_has_every_fate() -> None:
    """Else a plant would have nothing to spoil."""
    assert {message.fate.status for message in STORY.messages} == set(Status)
    assert all(any(getattr(message, name) for message in STORY.messages) for name in ("misplaced", "repeated"))


def test_messages_that_wait_beside_a_story_change_nothing_of_it() -> None:
    """A seed's failures are the same with and without them, they all stay pending, and they are at home."""
    beside = story(7, 400, waiting=50)
    assert beside.in_turn() == STORY.messages
    assert beside.poison == STORY.poison
    assert len(beside.messages) == 450
    assert {message.fate.status for message in beside.beforehand()} == {Status.PENDING}
    assert all(message.sent_to == message.home and not message.repeated for message in beside.beforehand())
    assert list(beside.retries()) == list(STORY.retries())
    pending = [sum(figures.pending for figures in each.figures().values()) for each in (beside, STORY)]
    assert pending[0] - pending[1] == 50


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    """A retry at the very instant it is due is not early."""
    findings = judge(STORY, Ideal(STORY).evidence())
    assert findings.are_none, findings


@pytest.mark.parametrize(("plant", "kinds"), PLANTS, ids=lambda each: getattr(each, "__name__", ""))
def test_planted_faults_are_found(plant: Callable[[Ideal], None], kinds: set[str]) -> None:
    """Each as what it is."""
    ideal = Ideal(STORY)
    plant(ideal)
    assert found(ideal.evidence()) == kinds


def test_an_unread_event_is_found() -> None:
    """The group's position has to be beyond the last record of each partition."""
    evidence = Ideal(STORY).evidence()
    place = next(iter(evidence.committed))
    behind = {**evidence.committed, place: evidence.committed[place] - 1}
    assert found(replace(evidence, committed=behind)) == {"unread"}
    del behind[place]
    assert found(replace(evidence, committed=behind)) == {"unread"}


@pytest.mark.parametrize("change", ["missing", "extra", "different"])
def test_a_store_that_differs_from_the_rebuild_is_found(change: str) -> None:
    """The last owner's as it lies there, somebody else's only once it has caught up."""
    evidence = Ideal(STORY).evidence()
    wrong = dict(evidence.tables.rebuilt[2])
    key = next(key for key in wrong if key.startswith(b"m"))
    if change == "missing":
        del wrong[key]
    else:
        wrong[key if change == "different" else b"m" + b"\xff" * 16] = b"\x01\x00"
    caught_up = evidence.tables.caught_up
    for stores, found_here in (
        (Tables(evidence.tables.rebuilt, {**evidence.tables.stores, (OWNERS[2], 2): wrong}, caught_up), {"tables"}),
        (Tables(evidence.tables.rebuilt, {**evidence.tables.stores, ("z", 2): wrong}, caught_up), set()),
        (Tables(evidence.tables.rebuilt, evidence.tables.stores, {**caught_up, ("z", 2): wrong}), {"tables"}),
    ):
        assert found(replace(evidence, tables=stores)) == found_here


def test_a_partition_without_a_store_is_found() -> None:
    """A last owner that has nothing on disk cannot pass for one that agrees."""
    evidence = Ideal(STORY).evidence()
    assert found(replace(evidence, owners={})) == {"tables"}


def test_comparing_counts() -> None:
    """What is missing, what is there twice, what nobody expects."""
    assert compare(["a", "b", "c"], ["a", "c", "c", "d", "d"]) == (["b"], ["c", "d"], ["d"])
