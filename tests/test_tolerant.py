"""Header names that are not UTF-8: written by any client, read without stopping the partition."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords

from dlq_stream import tolerant
from dlq_stream.core.errors import MalformedEvent
from dlq_stream.core.headers import UNDECODABLE, parse_failure
from dlq_stream.tolerant import TolerantRecords


class RawName(str):
    """A header name whose bytes on the wire are these."""

    raw: bytes

    def __new__(cls, raw: bytes) -> RawName:
        name = super().__new__(cls, raw.decode("latin-1"))
        name.raw = raw
        return name

    def encode(self, *_: Any, **__: Any) -> bytes:
        return self.raw


def batch(*records: tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]], codec: int = 0) -> bytes:
    """One record batch as it comes from a broker."""
    builder = _DefaultRecordBatchBuilderPy(
        2, codec, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=1 << 20
    )
    for offset, (key, value, headers) in enumerate(records):
        assert builder.append(offset, 1_000 + offset, key, value, headers) is not None
    return bytes(builder.build())


def read(data: bytes) -> list[Any]:
    """All records of the fetched data."""
    records = TolerantRecords(data)
    found = []
    while records.has_next():
        found += list(records.next_batch())
    return found


GOOD = (b"k", b"v", [("trace", b"1"), ("trace", None)])
BAD = (b"key", b"value", [("dlq-original-topic", b"t"), (RawName(b"\xff\xfe"), b"x"), ("after", b"y")])


@pytest.mark.parametrize("codec", [0, DefaultRecordBatch.CODEC_GZIP, DefaultRecordBatch.CODEC_ZSTD])
def test_a_bad_header_name_harms_no_other_record(codec: int) -> None:
    """Records before, behind and in other batches come through unchanged; the bad one comes through marked."""
    data = batch(GOOD, BAD, GOOD, codec=codec) + batch(GOOD, codec=codec)
    with pytest.raises((CorruptRecordException, UnicodeDecodeError)):
        list(MemoryRecords(data).next_batch())  # what aiokafka makes of it
    first, bad, second, other = read(data)
    for good in (first, second, other):
        assert (good.key, good.value, list(good.headers)) == GOOD
    assert (bad.key, bad.value, bad.offset) == (b"key", b"value", 1)
    assert list(bad.headers) == [
        ("dlq-original-topic", b"t"), ("??", b"x"), ("after", b"y"), (UNDECODABLE, b"\xff\xfe")
    ]  # fmt: skip


def test_what_unfolds_a_thousandfold_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a fetch is left to the next one; what is not compressed is bounded by the fetch itself."""
    monkeypatch.setattr(tolerant, "UNFOLDED_BYTES_MAX", 150_000)
    zeros = (b"k", b"\0" * 80_000, [("h", b"\0" * 20_000)])
    assert len(read(batch(zeros, codec=DefaultRecordBatch.CODEC_GZIP) * 5)) == 2
    assert len(read(batch(zeros) * 5)) == 5


def test_what_is_repaired_counts_as_unfolded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a bad name at the beginning of each batch would lift the bound."""
    monkeypatch.setattr(tolerant, "UNFOLDED_BYTES_MAX", 150_000)
    zeros = (b"k", b"\0" * 100_000, GOOD[2])
    assert len(read(batch(BAD, zeros, codec=DefaultRecordBatch.CODEC_GZIP) * 5)) == 4


def test_null_keys_values_and_many_headers_are_walked_over() -> None:
    """The repair finds the name whatever stands before it."""
    headers: list[tuple[str, bytes | None]] = [(f"h{i}", b"x" * i) for i in range(200)]
    (record,) = read(batch((None, None, [*headers, (RawName(b"caf\xe9"), None)])))
    assert (record.key, record.value) == (None, None)
    assert list(record.headers) == [*headers, ("????", None), (UNDECODABLE, b"caf\xe9")]


def test_good_batches_are_read_by_the_fast_code_alone() -> None:
    """Attributes and records are those of aiokafka's own batch."""
    data = batch(GOOD, GOOD)
    plain, tolerant = MemoryRecords(data).next_batch(), TolerantRecords(data).next_batch()
    assert tolerant.next_offset == plain.next_offset == 2
    assert [(r.offset, r.timestamp, r.key, r.value, r.headers) for r in tolerant] == [
        (r.offset, r.timestamp, r.key, r.value, r.headers) for r in plain
    ]


def test_a_batch_that_is_corrupt_otherwise_still_says_so() -> None:
    """Only names are repaired; a record that ends too early is an error as before."""
    data = bytearray(batch(GOOD))
    data[61] = 2 * 5  # the first record's length
    with pytest.raises(CorruptRecordException):
        read(bytes(data))


def test_the_engine_calls_a_marked_record_malformed() -> None:
    """So it is quarantined, with the name at fault in the reason."""

    class Received:
        topic, partition, offset, timestamp, key, value = "app-failures", 0, 1, 1, b"k", b"v"
        headers = (("dlq-original-topic", b"t"), ("??", b"x"), (UNDECODABLE, b"\xff\xfe"))

    with pytest.raises(MalformedEvent, match="not UTF-8"):
        parse_failure(Received())  # type: ignore[arg-type]
