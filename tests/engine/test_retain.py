"""Retention."""

from __future__ import annotations

import msgspec

from dlq_stream.core import events
from dlq_stream.tables.messages import Message
from dlq_stream.tables.spec import index_key
from tests.engine.world import NOW, PERMANENT, RETENTION_MS, World


def test_what_was_closed_long_enough_ago_is_deleted() -> None:
    """Resolved, presumed and written ones; exactly when their time has passed."""
    world = World()
    resolved, escalated, pending = world.fail(1), world.fail(2, error=PERMANENT), world.fail(3)
    world.succeed(resolved, 0)
    assert world.retain() == NOW + RETENTION_MS
    world.wait(RETENTION_MS - 1)
    assert world.retain() == NOW + RETENTION_MS
    assert world.status(resolved) == "resolved"
    world.wait(1)
    assert world.retain() is None
    assert [world.status(id_) for id_ in (resolved, escalated, pending)] == ["absent", "absent", "pending"]
    assert len(world.home.rows["attempts"]) == 1
    assert (world.stats().purged, world.stats().pending) == (2, 1)
    assert {seen.how for seen in world.seen_of(events.MessagePurged)} == {"retention"}
    world.check()


def test_what_is_open_stays_for_ever() -> None:
    """However old."""
    world = World()
    world.fail()
    world.wait(1_000 * RETENTION_MS)
    assert world.retain() is None
    assert world.stats().pending == 1


def test_in_bounded_steps_oldest_first() -> None:
    """The result says whether there is more, and when."""
    world = World()
    ids = []
    for offset in range(5):
        ids.append(world.fail(offset, error=PERMANENT))
        world.wait(10)
    world.wait(RETENTION_MS - 20)
    assert world.retain(steps_max=2) == NOW + 20 + RETENTION_MS
    assert [world.status(id_) for id_ in ids] == ["absent"] * 2 + ["escalated"] * 3
    assert world.retain(steps_max=2) == NOW + 40 + RETENTION_MS
    assert world.status(ids[4]) == "escalated"
    world.wait(100)
    assert world.retain(steps_max=2) is None
    world.check()


def test_in_steps_that_are_bounded_in_bytes() -> None:
    """Records, and the attempts after the first; the rest is due at once, and one message always fits."""
    world = World(purge_bytes_max=250_000)
    ids = []
    for offset, size in enumerate((100_000, 100_000, 100_000, 1_000_000, 100, 100)):
        ids.append(world.fail(offset, error=PERMANENT, value=bytes(size)))
        world.wait(1)
    world.wait(RETENTION_MS)
    left = []
    while (next_ms := world.retain()) is not None:
        assert next_ms <= world.now
        left.append([world.status(id_) for id_ in ids].count("escalated"))
    assert left == [4, 3, 2]
    assert world.home.rows["messages"] == world.home.rows["attempts"] == {}
    assert [seen.id for seen in world.seen_of(events.MessagePurged)] == ids
    world.check()


def test_what_later_attempts_hold_counts_as_well() -> None:
    """The rows say how large the first is; what the others took is known when they were read."""
    world = World(purge_bytes_max=10_000)
    ids = [world.retried(offset, times=2, value=b"1", error_stacktrace=bytes(8_000)) for offset in range(3)]
    for id_ in ids:
        world.succeed(id_, 2)
    world.wait(RETENTION_MS)
    assert world.must(ids[0]).record_bytes < 10_000
    assert world.retain() == world.now
    assert sorted(world.status(id_) for id_ in ids) == ["absent", "resolved", "resolved"]


def test_a_reopened_or_redriven_message_is_not_closed_any_more() -> None:
    """Its time begins anew when it is closed again."""
    world = World()
    id_ = world.retried()
    world.to_next_due()
    world.emit()
    world.fail(attempt=1)
    world.wait(10 * RETENTION_MS)
    assert world.retain() is None
    assert world.status(id_) == "pending"


def test_a_row_that_does_not_decode_is_deleted_all_the_same() -> None:
    """What is left of it is enough to count it out."""
    world = World()
    id_ = world.fail(error=PERMANENT)
    fields = msgspec.msgpack.decode(world.home.rows["messages"][id_][2:])
    fields[Message.__struct_fields__.index("group")] = 5
    world.home.rows["messages"][id_] = b"\x01\x00" + msgspec.msgpack.encode(fields)
    world.wait(RETENTION_MS)
    assert world.retain() is None
    assert world.home.rows["messages"] == {}
    assert world.stats().escalated == 0


def test_an_index_entry_that_is_not_its_rows_is_ignored() -> None:
    """Each is checked."""
    world = World()
    id_ = world.fail(1)
    world.home.rows["closed"][index_key(b"", 5, id_)] = b""
    world.home.rows["closed"][index_key(b"", 6, bytes(16))] = b""
    assert world.retain() is None
    assert world.status(id_) == "pending"
