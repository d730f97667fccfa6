"""What one fetch brought, as records: the same that aiokafka makes of it, and how large it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch

from dlq_stream.core.model import RECORD_OVERHEAD_BYTES, size_of
from dlq_stream.runtime.fetched import FetchResult, PartitionRecords
from dlq_stream.tolerant import TolerantRecords

PLACE = TopicPartition("failures", 3)
HEADERS = [("trace", b"1"), ("trace", None), ("\u00e4", b"")]


def data(records: int, codec: int = 0, batches: int = 2) -> bytes:
    """Fetched bytes of so many batches."""
    made = b""
    for position in range(batches):
        builder = BatchBuilder(1 << 20, codec)
        for number in range(records):
            builder.append(timestamp=number, key=None, value=b"v" * number, headers=HEADERS)
        builder.close()
        built = builder._build()
        built[:8] = (position * records).to_bytes(8, "big")  # the base offset, as brokers set it
        made += bytes(built)
    return made


def result(raw: bytes, *, ours: bool = True) -> Any:
    """A fetch from offset 0."""
    classes = (FetchResult, PartitionRecords, TolerantRecords) if ours else _THEIRS
    of_fetch, of_partition, of_bytes = classes
    records = of_partition(PLACE, of_bytes(raw), [], 0, None, None, True, fetcher.READ_COMMITTED)
    state = SimpleNamespace(
        paused=False,
        has_valid_position=True,
        position=0,
        consumed_to=lambda position: setattr(state, "position", position),
    )
    assignment = SimpleNamespace(active=True, state_value=lambda _: state)
    return of_fetch(PLACE, assignment=assignment, partition_records=records, backoff=0)


_THEIRS = (fetcher.FetchResult, fetcher.PartitionRecords, TolerantRecords)
_FIELDS = ("topic", "partition", "offset", "timestamp", "key", "value", "headers")


def told(records: Any) -> list[tuple[Any, ...]]:
    return [tuple(getattr(record, name) for name in _FIELDS) for record in records]


@pytest.mark.parametrize("codec", [0, DefaultRecordBatch.CODEC_ZSTD])
@pytest.mark.parametrize("max_records", [None, 1, 4])
def test_records_are_those_of_aiokafka(codec: int, max_records: int | None) -> None:
    """In portions, too, however large."""
    raw = data(3, codec)
    ours, theirs = result(raw), result(raw, ours=False)
    while theirs.has_more():
        assert told(ours.getall(max_records)) == told(theirs.getall(max_records))
        assert ours._assignment.state_value(None).position == theirs._assignment.state_value(None).position
    assert not ours.has_more()


@pytest.mark.parametrize("codec", [0, DefaultRecordBatch.CODEC_ZSTD])
def test_the_size_is_a_bound_of_what_they_hold(codec: int) -> None:
    """Of compressed batches, of what they unfold to."""
    found = result(data(50, codec)).getall()
    assert sum(map(size_of, found)) <= found.size < 3 * sum(map(size_of, found))


@pytest.mark.parametrize("codec", [0, DefaultRecordBatch.CODEC_ZSTD])
@pytest.mark.parametrize("max_records", [20, 30, 70])
def test_a_portion_counts_for_itself(codec: int, max_records: int) -> None:
    """Where a fetch is polled in many, none counts for the whole fetch; for its batches, at most."""
    batch_bytes = sum(map(size_of, result(data(50, codec, batches=1)).getall()))
    batches_touched = 2 + max_records // 50
    fetched = result(data(50, codec, batches=20))
    portions = []
    while fetched.has_more():
        portions += [found] if (found := fetched.getall(max_records)) else []
    assert sum(map(len, portions)) == 1_000
    for found in portions:
        overhead = RECORD_OVERHEAD_BYTES * len(found)
        assert sum(map(size_of, found)) <= found.size <= batches_touched * batch_bytes + overhead


def test_nothing_is_found_in_nothing() -> None:
    """As aiokafka says it."""
    assert list(result(b"").getall()) == []
