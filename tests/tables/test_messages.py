"""The table `messages`: index keys and typed access."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.lifecycle import State
from dlq_stream.core.model import DLQMessageStatus, Origin
from dlq_stream.core.transaction import INDEX_SUFFIX_BYTES
from dlq_stream.tables import INDEXES, TABLES, messages
from dlq_stream.tables.codec import UndecodableRow
from dlq_stream.tables.messages import Message
from dlq_stream.tables.spec import TIME_MS_MAX, index_key, split_index_key, until
from tests.memory import MemoryPartition

PENDING = DLQMessageStatus.PENDING
ID = bytes(range(16))

_ids = st.binary(min_size=16, max_size=16)
_times = st.integers(0, TIME_MS_MAX - 1)
_queues = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
ROWS = st.builds(
    Message,
    status=st.sampled_from(DLQMessageStatus),
    due_ms=st.none() | _times,
    created_ms=_times,
    closed_ms=st.none() | _times,
    queue=_queues,
    booked_as=st.sampled_from(["", "other"]),
)


def message(due_ms: int | None = 5, **fields: Any) -> Message:
    return Message(fields.pop("status", PENDING), due_ms, fields.pop("created_ms", 1), None, "q", **fields)


@given(_ids, _times, st.binary(max_size=9))
def test_index_keys_round_trip(message_id: bytes, time_ms: int, prefix: bytes) -> None:
    """Time and id are read back from behind any prefix."""
    key = index_key(prefix, time_ms, message_id)
    assert len(key) == len(prefix) + INDEX_SUFFIX_BYTES
    assert split_index_key(key) == (time_ms, message_id)
    assert key < until(prefix, time_ms)
    assert (index_key(prefix, time_ms + 1, message_id) < until(prefix, time_ms)) is False


@given(st.tuples(_times, _ids), st.tuples(_times, _ids))
def test_index_keys_sort_by_time(first: tuple[int, bytes], second: tuple[int, bytes]) -> None:
    """Bytes compare as (time, id) do."""
    assert (index_key(b"p", *first) < index_key(b"p", *second)) == (first < second)


@given(ROWS, st.none() | ROWS)
def test_derivation_is_the_difference_of_two_fresh_ones(new: Message, old: Message | None) -> None:
    """What a change removes and adds turns the entries of the old row into those of the new one."""
    raw = {row: None if row is None else messages.codec.encode(row) for row in (old, new)}
    before, after = (set(messages.derive(ID, None, raw[row])[1]) for row in (old, new))
    removed, added = messages.derive(ID, raw[old], raw[new])
    assert set(removed) == before - after
    assert set(added) == after - before
    assert messages.derive(ID, raw[new], None) == (messages.derive(ID, None, raw[new])[1], [])
    assert messages.derive(ID, None, None) == ([], [])


@given(_ids, st.none() | ROWS, ROWS)
def test_a_change_moves_what_derivation_would(message_id: bytes, old: Message | None, new: Message) -> None:
    """Whoever has the rows themselves says the same of the indexes as whoever has their bytes."""
    raw = [None if row is None else messages.codec.encode(row) for row in (old, new)]
    assert messages.moves(message_id, old, new) == messages.derive(message_id, *raw)


@given(st.none() | ROWS, ROWS)
def test_a_change_leaves_what_a_write_would(old: Message | None, new: Message) -> None:
    """In the table and in every index."""
    changed, written = MemoryPartition(), MemoryPartition()
    for home in (changed, written):
        if old is not None:
            home.run(lambda tx: messages.put(tx, ID, old))
    changed.run(lambda tx: messages.change(tx, ID, old, new))
    written.run(lambda tx: messages.put(tx, ID, new))
    assert changed.rows == written.rows


@given(ROWS)
def test_a_row_is_in_the_indexes_that_its_fields_say(row: Message) -> None:
    """Always by status, by due and by closed where they are set."""
    _, added = messages.derive(ID, None, messages.codec.encode(row))
    entries = dict(added)
    assert ("due" in entries) == (row.due_ms is not None)
    assert ("closed" in entries) == (row.closed_ms is not None)
    assert entries["status"].startswith(messages.status_prefix(row.booked, row.status))
    assert {spec.name for spec in INDEXES} >= entries.keys()


@given(_queues, _queues, st.sampled_from(DLQMessageStatus), st.sampled_from(DLQMessageStatus))
def test_prefixes_of_different_queues_do_not_overlap(
    first: str, second: str, one: DLQMessageStatus, other: DLQMessageStatus
) -> None:
    """A scan of one queue and status shows no other's."""
    if (first, one) != (second, other):
        low, high = messages.status_prefix(first, one), until(messages.status_prefix(first, one), TIME_MS_MAX)
        entry = index_key(messages.status_prefix(second, other), 5, ID)
        assert not low <= entry < high


def test_a_queue_name_with_a_nul_has_no_index_key() -> None:
    """It would be another queue's prefix."""
    with pytest.raises(ValueError, match="NUL"):
        messages.status_prefix("a\0b", PENDING)


def test_a_row_whose_head_does_not_decode_is_named() -> None:
    """By its id, for whoever replays a changelog."""
    with pytest.raises(UndecodableRow, match=ID.hex()):
        messages.derive(ID, None, b"\x01\x00\x91\x01")


def test_tags_tell_all_tables_and_indexes_apart() -> None:
    """One store holds them all."""
    tags = [spec.tag for spec in (*TABLES, *INDEXES)]
    assert len(set(tags)) == len(tags)
    assert {len(tag) for tag in tags} == {1}
    names = [spec.name for spec in (*TABLES, *INDEXES)]
    assert len(set(names)) == len(names)
    assert TABLES[0].changelog("app") == "app-messages-changelog"


def test_typed_access() -> None:
    """Rows go in and come out as rows."""
    home = MemoryPartition()
    other = bytes(16)
    home.run(lambda tx: messages.put(tx, ID, message()))
    tx = home.transaction()
    assert messages.get(tx, ID) == message()
    assert messages.get(tx, other) is None
    assert messages.get_many(tx, [ID, other]) == {ID: message(), other: None}
    messages.delete(tx, ID)
    assert messages.get(tx, ID) is None


def test_what_is_due_comes_in_order_and_in_pages() -> None:
    """The instant itself is included; a page begins behind the last entry of the one before."""
    home = MemoryPartition()
    ids = [bytes([n]) * 16 for n in range(5)]

    def stage(tx: Any) -> None:
        for n, message_id in enumerate(ids):
            messages.put(tx, message_id, message(due_ms=10 * (5 - n)))
        messages.put(tx, ID, message(due_ms=None))

    home.run(stage)
    tx = home.transaction()
    assert messages.due_until(tx, 30, 10) == [(10, ids[4]), (20, ids[3]), (30, ids[2])]
    page = messages.due_until(tx, 50, 2)
    assert page == [(10, ids[4]), (20, ids[3])]
    assert messages.due_until(tx, 50, 2, after=index_key(b"", *page[-1])) == [(30, ids[2]), (40, ids[1])]
    assert messages.next_due_ms(tx, 30) == 40
    assert messages.next_due_ms(tx, 9) == 10
    assert messages.next_due_ms(tx, 50) is None


def test_messages_of_a_queue_by_age() -> None:
    """Oldest first, or newest first; one status at a time."""
    home = MemoryPartition()
    ids = [bytes([n]) * 16 for n in range(4)]

    def stage(tx: Any) -> None:
        for n, message_id in enumerate(ids):
            messages.put(tx, message_id, message(created_ms=100 - n))
        messages.put(tx, ID, message(created_ms=1, status=DLQMessageStatus.RETRYING))

    home.run(stage)
    tx = home.transaction()
    assert messages.by_status(tx, "q", PENDING, 2) == [(97, ids[3]), (98, ids[2])]
    assert messages.by_status(tx, "q", PENDING, 1, newest_first=True) == [(100, ids[0])]
    assert messages.by_status(tx, "q", DLQMessageStatus.RETRYING, 9) == [(1, ID)]
    assert messages.by_status(tx, "other", PENDING, 9) == []


def test_states_tell_presumed_from_known_successes() -> None:
    """The lifecycle's states, from a row."""
    assert messages.state_of(None) is State.ABSENT
    assert messages.state_of(message()) is State.PENDING
    resolved = message(status=DLQMessageStatus.RESOLVED)
    assert messages.state_of(resolved) is State.RESOLVED
    assert messages.state_of(msgspec.structs.replace(resolved, presumed=True)) is State.PRESUMED
    assert messages.state_of(message(status=DLQMessageStatus.RETRYING)) is State.RETRYING
    assert messages.state_of(message(status=DLQMessageStatus.ESCALATED)) is State.ESCALATED


def test_the_origin_of_a_row() -> None:
    """As coordinates."""
    row = message(origin_topic="t", origin_partition=1, origin_offset=2, origin_timestamp=3)
    assert row.origin == Origin("t", 1, 2, 3)


def test_a_damaged_row_is_salvaged_as_far_as_it_makes_sense() -> None:
    """Status and times are kept, fields of a wrong type take their defaults."""
    fields = list(msgspec.msgpack.decode(messages.codec.encode(message(group="g", attempt=7))[2:]))
    fields[Message.__struct_fields__.index("group")] = 12
    raw = b"\x01\x00" + msgspec.msgpack.encode(fields)
    with pytest.raises(UndecodableRow):
        messages.codec.decode(raw)
    assert messages.salvage(raw) == message(attempt=7)
    cut = b"\x01\x00" + msgspec.msgpack.encode(fields[:6])
    assert messages.salvage(cut) == message()
