"""Rows across versions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.errors import UnsupportedFormat
from dlq_stream.core.model import DLQMessageStatus, ErrorCategory
from dlq_stream.tables import MAJOR, attempts, messages, stats
from dlq_stream.tables.attempts import Attempt
from dlq_stream.tables.codec import Codec, UndecodableRow
from dlq_stream.tables.messages import DeadLetter, Message
from dlq_stream.tables.stats import Stats

_text = st.text(st.characters(codec="utf-8"), max_size=20)
_time = st.integers(0, 2**62)
_int = st.integers(0, 2**31)

MESSAGES = st.builds(
    Message,
    status=st.sampled_from(DLQMessageStatus),
    due_ms=st.none() | _time,
    created_ms=_time,
    closed_ms=st.none() | _time,
    queue=_text,
    booked_as=_text,
    group=_text,
    origin_topic=_text,
    origin_partition=st.none() | _int,
    origin_offset=st.none() | _time,
    origin_timestamp=st.none() | st.integers(-1, 2**62),
    attempt=_int,
    revision=_int,
    presumed=st.booleans(),
    category=st.sampled_from(ErrorCategory),
    fingerprint=st.binary(max_size=8),
    retry_topic=_text,
    dead_letter=st.sampled_from(DeadLetter),
    reason=_text,
    stuck_reason=_text,
)
ATTEMPTS = st.builds(
    Attempt,
    error_types=st.lists(_text, max_size=3).map(tuple),
    error_message=_text,
    category=st.sampled_from(ErrorCategory),
    rule=_text,
    recorded_ms=_time,
    failed_at=st.none() | _time,
    cause_types=st.lists(_text, max_size=2).map(tuple),
    stacktrace=st.binary(max_size=20),
    metadata=st.none() | st.binary(max_size=20),
    has_record=st.booleans(),
    key=st.none() | st.binary(max_size=20),
    value=st.none() | st.binary(max_size=20),
    headers=st.lists(st.tuples(_text, st.none() | st.binary(max_size=9)), max_size=4).map(tuple),
)


class Old(msgspec.Struct, frozen=True, array_like=True):
    name: str
    count: int = 0


class New(msgspec.Struct, frozen=True, array_like=True):
    name: str
    count: int = 0
    label: str = "none"
    tags: tuple[str, ...] = ()


class Other(msgspec.Struct, frozen=True, array_like=True):
    name: int


old_codec = Codec(Old, minor=1)
new_codec = Codec(New, minor=2)


@given(MESSAGES)
def test_messages_round_trip(row: Message) -> None:
    """Every field of a message survives."""
    assert messages.codec.decode(messages.codec.encode(row)) == row


@given(ATTEMPTS)
def test_attempts_round_trip(row: Attempt) -> None:
    """Every field of an attempt survives, bytes, order and repeats included."""
    assert attempts.codec.decode(attempts.codec.encode(row)) == row


@given(st.builds(Stats, pending=_int, failures=_int, ignored=st.dictionaries(_text, _int), oldest_open_ms=st.none()))
def test_stats_round_trip(row: Stats) -> None:
    """Every figure survives."""
    assert stats.codec.decode(stats.codec.encode(row)) == row


def test_rows_begin_with_their_version() -> None:
    """One byte major, one byte minor, in every table."""
    row = Message(DLQMessageStatus.PENDING, 1, 2, None, "q")
    assert messages.codec.encode(row)[:2] == bytes((MAJOR, 1))
    assert stats.codec.encode(Stats())[:2] == bytes((MAJOR, 2))
    assert old_codec.encode(Old("a"))[:2] == bytes((MAJOR, 1))


def test_stats_of_the_first_version_have_no_reasons() -> None:
    """They were added at the end, and are written from then on."""
    row = Stats(stuck=2, unwritten=1, ignored={"duplicate": 3}, updated_ms=7)
    first = bytes((MAJOR, 0)) + msgspec.msgpack.encode(msgspec.msgpack.decode(stats.codec.encode(row)[2:])[:-3])
    assert stats.codec.decode(first) == row
    assert stats.codec.encode(stats.codec.decode(first))[1] == 2


def test_a_message_is_small() -> None:
    """The hot table's rows stay around two hundred bytes."""
    row = Message(
        DLQMessageStatus.RETRYING, 1_700_000_000_000, 1_700_000_000_000, None, "heat-processing",
        group="heat-agent", origin_topic="heat-processing", origin_partition=3, origin_offset=81,
        origin_timestamp=1_700_000_000_000, attempt=2, revision=5, category=ErrorCategory.TRANSIENT,
        error_type="asyncio.exceptions.TimeoutError", fingerprint=b"12345678", last_failed_ms=1_700_000_000_000,
        allowance_from_ms=1_700_000_000_000, record_bytes=1_000,
    )  # fmt: skip
    assert len(messages.codec.encode(row)) < 220


def test_an_earlier_minor_version_is_read_with_defaults() -> None:
    """Fields that did not exist yet take their defaults, and the row is written as this version from then on."""
    row = new_codec.decode(old_codec.encode(Old("a", 3)))
    assert row == New("a", 3, "none", ())
    assert new_codec.encode(row)[1] == 2


def test_a_newer_minor_version_keeps_its_unknown_fields() -> None:
    """Through decoding, changing and encoding by an old worker."""
    raw = new_codec.encode(New("a", 3, "label", ("x", "y")))
    row = old_codec.decode(raw)
    assert isinstance(row, Old)
    assert (row.name, row.count) == ("a", 3)
    assert old_codec.encode(row) == raw
    changed = old_codec.encode(msgspec.structs.replace(row, count=4))
    assert new_codec.decode(changed) == New("a", 4, "label", ("x", "y"))
    assert changed[1] == 2
    again = old_codec.decode(changed)
    assert old_codec.encode(again) == changed


@given(MESSAGES, st.lists(st.integers().filter(lambda n: abs(n) < 2**62) | _text | st.none(), max_size=4))
def test_messages_of_a_newer_minor_version_keep_what_is_not_known(row: Message, tail: list[Any]) -> None:
    """Whatever a newer version appends, `messages` carries along, and index keys are the same."""
    plain = messages.codec.encode(row)
    newer = bytes((MAJOR, 2)) + msgspec.msgpack.encode([*msgspec.msgpack.decode(plain[2:]), *tail])
    read = messages.codec.decode(newer)
    assert messages.codec.encode(read) == newer
    changed = msgspec.structs.replace(read, revision=read.revision + 1)
    assert msgspec.msgpack.decode(messages.codec.encode(changed)[2:])[len(Message.__struct_fields__) :] == tail
    if "\0" not in row.booked:
        assert messages.derive(b"i" * 16, plain, newer) == ([], [])


@pytest.mark.parametrize("major", [0, MAJOR + 1, 255])
def test_another_major_version_is_refused(major: int) -> None:
    """With a text that says what to do, whatever follows the version."""
    for raw in (bytes((major, 0)) + b"\x91\xa1a", bytes((major, 0)) + b"garbage", bytes((major, 9))):
        with pytest.raises(UnsupportedFormat, match="upgrade this worker"):
            old_codec.decode(raw)
    row = bytes((major, 0)) + messages.codec.encode(Message(DLQMessageStatus.PENDING, 1, 2, None, "q"))[2:]
    with pytest.raises(UnsupportedFormat, match="upgrade"):
        messages.derive(b"i" * 16, None, row)


@pytest.mark.parametrize("raw", [b"", b"\x01", b"\x01\x00", b"\x01\x00\xc1", b"\x01\x00\x91\x01", b"\x01\x09\x90"])
def test_bytes_without_sense_are_undecodable(raw: bytes) -> None:
    """Truncated rows, other types, missing fields."""
    with pytest.raises(UndecodableRow, match="Old row"):
        old_codec.decode(raw)
    with pytest.raises(UndecodableRow):
        Codec(Other).decode(old_codec.encode(Old("a")))
