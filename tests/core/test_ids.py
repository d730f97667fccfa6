"""Message ids: what is hashed, and where a message lives."""

from __future__ import annotations

import hashlib
import uuid
from contextlib import suppress

import pytest
from aiokafka.partitioner import murmur2 as kafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.errors import MalformedEvent
from dlq_stream.core.ids import message_id, murmur2, new_id, origins_agree, parse_id, partition_of, partitions_of
from dlq_stream.core.model import Origin

_int64 = st.integers(-(2**63), 2**63 - 1)
_texts = st.text(st.characters(codec="utf-8"), max_size=20)
_origins = st.builds(Origin, _texts, _int64, _int64, _int64)
_ids = st.binary(min_size=16, max_size=16)


def test_id_of_a_record_byte_by_byte() -> None:
    """The hashed bytes are those of the contract, written out."""
    hashed = (
        b"\x00\x00\x00\x04heat"
        b"\x00\x00\x00\x0fheat-processing"
        b"\x00\x00\x00\x00\x00\x00\x00\x03"
        b"\x00\x00\x00\x00\x00\x00\x00\x51"
        b"\x00\x00\x01\x8b\xcf\xe5\x68\x00"
    )
    found = message_id("heat", Origin("heat-processing", 3, 81, 1_700_000_000_000))
    assert found == hashlib.blake2b(hashed, digest_size=16).digest()


@pytest.mark.parametrize(
    ("group", "origin", "expected"),
    [
        ("heat", Origin("heat-processing", 3, 81, 1_700_000_000_000), "ddba4ad934b3206e562a650f1e986314"),
        ("", Origin("heat-processing", 3, 81, 1_700_000_000_000), "3743d903fa37f3848a1c51a07735f49b"),
        ("grüppe", Origin("t", 0, 0, -1), "50257aad4cad07a175e80a7578b3ca04"),
    ],
)
def test_published_vectors(group: str, origin: Origin, expected: str) -> None:
    """The vectors of the contract, as hex: they may never change."""
    assert message_id(group, origin).hex() == expected


def test_no_group_and_no_timestamp() -> None:
    """No group is the empty string; Kafka's -1 for no timestamp is hashed as it is."""
    hashed = b"\0\0\0\0" + b"\0\0\0\1t" + bytes(16) + b"\xff" * 8
    assert message_id("", Origin("t", 0, 0, -1)) == hashlib.blake2b(hashed, digest_size=16).digest()


@given(_texts, _origins, _texts, _origins)
def test_ids_are_equal_only_for_the_same_group_and_origin(
    group: str, origin: Origin, other_group: str, other: Origin
) -> None:
    """Length prefixes keep ("ab", "c") and ("a", "bc") apart."""
    assert (message_id(group, origin) == message_id(other_group, other)) == ((group, origin) == (other_group, other))


def test_length_prefixes_separate_group_and_topic() -> None:
    """The same letters, split elsewhere, are another message."""
    assert message_id("ab", Origin("c", 0, 0, 0)) != message_id("a", Origin("bc", 0, 0, 0))


@pytest.mark.parametrize(
    "origin", [Origin("t"), Origin("t", 0, None, 0), Origin("t", 0, 2**63, 0), Origin("t", 0, 0, -(2**63) - 1)]
)
def test_an_origin_without_coordinates_has_no_id(origin: Origin) -> None:
    """Missing numbers and those beyond 64 bits are the event's fault."""
    with pytest.raises(MalformedEvent, match="origin"):
        message_id("g", origin)


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_new_ids_are_uuids_of_version_7(now_ms: int, random: bytes) -> None:
    """Time first, so that they sort by it; version and variant where RFC 9562 wants them."""
    made = uuid.UUID(bytes=new_id(now_ms, random))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == now_ms
    assert made.bytes[9:] == random[3:]


@pytest.mark.parametrize(("now_ms", "random"), [(0, b"short"), (-1, bytes(10)), (2**48, bytes(10))])
def test_new_ids_refuse_what_does_not_fit(now_ms: int, random: bytes) -> None:
    """A caller's mistake is his error."""
    with pytest.raises(ValueError, match="UUIDv7"):
        new_id(now_ms, random)


@given(_ids)
def test_ids_are_read_back_in_either_case(id_: bytes) -> None:
    """Hex digits of either case name the same message."""
    assert parse_id(id_.hex().encode()) == parse_id(id_.hex().upper().encode()) == id_


@pytest.mark.parametrize(
    "raw",
    [b"", b"0" * 31, b"0" * 33, b"g" * 32, b" " + b"0" * 31, b"0" * 30 + b"\n\n", b"0x" + b"0" * 30, "٣".encode() * 16],
)
def test_what_is_no_id(raw: bytes) -> None:
    """Thirty-two hex digits and nothing else."""
    with pytest.raises(MalformedEvent, match="message id"):
        parse_id(raw)


@given(st.binary(max_size=40))
def test_parse_id_raises_nothing_else(raw: bytes) -> None:
    """Any bytes are an id or malformed."""
    with suppress(MalformedEvent):
        assert len(parse_id(raw)) == 16


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # org.apache.kafka.common.utils.UtilsTest
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_vectors_of_kafka(data: bytes, expected: int) -> None:
    """Kafka's own test vectors."""
    assert murmur2(data) == expected


@given(st.binary(max_size=64))
def test_murmur2_agrees_with_the_client(data: bytes) -> None:
    """The partitioner of aiokafka hashes alike."""
    assert murmur2(data) & 0xFFFFFFFF == kafka_murmur2(data) & 0xFFFFFFFF


@given(_ids, st.integers(1, 1000))
def test_partition_is_the_default_partitioners(id_: bytes, partitions: int) -> None:
    """A producer that knows nothing of us sends the hex digits to the same partition."""
    assert partition_of(id_, partitions) == (murmur2(id_.hex().encode()) & 0x7FFFFFFF) % partitions


@given(st.lists(_ids, max_size=50), st.integers(1, 1000))
def test_partitions_of_many_at_once(ids: list[bytes], partitions: int) -> None:
    """Side by side they are what they are one by one."""
    assert partitions_of(ids, partitions) == [partition_of(id_, partitions) for id_ in ids]


@pytest.mark.parametrize(
    ("known", "told", "agree"),
    [
        (Origin("t", 1, 2, 3), Origin("t", 1, 2, 3), True),
        (Origin("t", 1, 2, 3), Origin("t"), True),
        (Origin("t"), Origin("t", 1, 2, 3), True),
        (Origin("t", 1, 2, 3), Origin("t", 1, 2, 4), False),
        (Origin("t", 1, 2, 3), Origin("u", 1, 2, 3), False),
        (Origin("t"), Origin("u"), False),
    ],
)
def test_origins_agree_where_both_tell(known: Origin, told: Origin, agree: bool) -> None:
    """The topic always counts, the numbers where both have them."""
    assert origins_agree(known, told) is agree
