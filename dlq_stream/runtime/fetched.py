"""What one fetch brought of one partition, as records: aiokafka's classes for that, at half the cost of a record.

aiokafka makes a frozen dataclass of eleven fields of each record, through four iterators.  Here a record is a struct of
the seven that we read, whole batches are decoded at once, and a fetch says how large it is, so that nobody has to add
up the sizes of its records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from aiokafka.consumer import fetcher

from dlq_stream.core.model import RECORD_OVERHEAD_BYTES, Headers
from dlq_stream.tolerant import TolerantRecords


class FetchedRecord(msgspec.Struct, frozen=True, gc=False):
    """`dlq_stream.core.model.Record`."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Fetched(list[FetchedRecord]):
    """Records of one partition, in order, and at most how many bytes they take."""

    def __init__(self, records: Iterable[FetchedRecord], bytes_max: int) -> None:
        super().__init__(records)
        self.size = bytes_max + RECORD_OVERHEAD_BYTES * len(self)


class PartitionRecords(fetcher.PartitionRecords):
    """Decodes lazily, as aiokafka's does, so that memory holds the records of one poll."""

    def __iter__(self) -> Iterator[FetchedRecord]:
        """Removes: a call of a method written in Python for each record."""
        records: Iterator[FetchedRecord] = self._records_iterator
        return records

    def _consumer_record(self, tp: Any, record: Any) -> FetchedRecord:
        """Removes: fields that nobody reads."""
        return FetchedRecord(
            tp.topic, tp.partition, record.offset, record.timestamp, record.key, record.value, tuple(record.headers)
        )

    @property
    def source(self) -> TolerantRecords:
        """What is decoded."""
        source: TolerantRecords = self._records
        return source


class FetchResult(fetcher.FetchResult):
    """The records of one fetch that were not polled yet."""

    def getall(self, max_records: int | None = None) -> list[FetchedRecord]:
        """Removes: a second pass over every record, to find out how many bytes were polled."""
        if not self.has_more():
            return []
        source = self._partition_records.source
        before = source.decoded_bytes - source.begun_bytes
        found: list[FetchedRecord] = super().getall(max_records)
        return Fetched(found, source.decoded_bytes - before) if found else found


def install() -> None:
    """Make this process's aiokafka consumers read so; called twice it does nothing.

    Removes: a partition that stops at a header name which is not UTF-8, and fetches that unfold without a bound (see
    `dlq_stream.tolerant`).
    """
    fetcher.MemoryRecords = TolerantRecords
    fetcher.PartitionRecords = PartitionRecords
    fetcher.FetchResult = FetchResult
