"""Reads records whose header names are not UTF-8, and not all at once what unfolds to a thousand times its size.

Kafka's protocol says that they are, and brokers do not check.  aiokafka raises for the whole batch then, again at every
fetch: one such record, which any client in Go or C can write, would stop its partition for ever.  Here the batch is
read once more in Python, the bytes at fault become question marks, and the record says so in a header of its own
(`UNDECODABLE`, with the name's bytes), for which the engine quarantines it.  A handler gets it as it is.

Brokers and fetches limit the compressed size of batches.  A megabyte of them may hold gigabytes of zeros, which any
client may write; aiokafka unfolds all that one fetch brought of a partition.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from types import FunctionType
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import decode_varint

from dlq_stream.core.headers import UNDECODABLE
from dlq_stream.core.model import size_of

UNFOLDED_BYTES_MAX = 32 << 20
"""So much is taken from the compressed batches of one fetch and partition, and one batch more; what is left over is
fetched again.  Whoever polls learns how much it was only then: until it is processed, the partition is full."""

# Every batch, of any format, begins with its base offset (8 bytes) and the length of what follows.
_LENGTH = Struct(">i")
_LENGTH_AT = 8


class TolerantRecords:
    """aiokafka's `MemoryRecords`: what one fetch brought of one partition, batch by batch.

    ``decoded_bytes`` is what the records decoded so far take at most, ``begun_bytes`` the part of it that is one whole
    batch, of which records may be left.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._records = MemoryRecords(data)
        self._next = 0
        self.unfolded_bytes = 0
        self.decoded_bytes = 0
        self.begun_bytes = 0

    def size_in_bytes(self) -> int:
        """Bytes of the fetched data."""
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        """Whether there is another whole batch, and room for it."""
        return self.unfolded_bytes < UNFOLDED_BYTES_MAX and bool(self._records.has_next())

    def next_batch(self) -> Any:
        """The next batch."""
        batch = self._records.next_batch()
        start = self._next
        self._next += _LENGTH_AT + _LENGTH.size + _LENGTH.unpack_from(self._data, start + _LENGTH_AT)[0]
        return TolerantBatch(batch, self, memoryview(self._data)[start : self._next])


class TolerantBatch:
    """A batch that is read by aiokafka's fast code, and where that fails once more by `_RepairingBatch`."""

    def __init__(self, batch: Any, home: TolerantRecords, data: memoryview) -> None:
        self._batch = batch
        self._home = home
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        home = self._home
        if self._batch.compression_type:
            home.begun_bytes = 0
            return self._unfolded()
        home.begun_bytes = len(self._data)
        home.decoded_bytes += home.begun_bytes
        try:
            return iter(list(self._batch))  # no larger than what was fetched: all at once costs less
        except (CorruptRecordException, UnicodeDecodeError):
            return iter(_RepairingBatch(self._data))

    def _unfolded(self) -> Iterator[Any]:
        """One by one, for a batch may hold a thousand times its size."""
        done = 0
        try:
            for record in self._batch:
                self._count(record)
                yield record
                done += 1
            return
        except (CorruptRecordException, UnicodeDecodeError):
            pass
        for position, record in enumerate(_RepairingBatch(self._data)):
            if position >= done:
                self._count(record)
                yield record

    def _count(self, record: Any) -> None:
        size = size_of(record)
        self._home.unfolded_bytes += size
        self._home.decoded_bytes += size


class _RepairingBatch(_DefaultRecordBatchPy):
    """A batch read in Python; header names that are not UTF-8 are overwritten before they are decoded."""

    def __init__(self, data: memoryview) -> None:
        """Removes: a batch's bytes that cannot be repaired, because they are read-only."""
        super().__init__(bytearray(data))

    def _read_msg(self) -> Any:
        """Removes: one undecodable header name makes the whole batch unreadable."""
        undecodable = list(self._repair())
        record = super()._read_msg()
        record.headers.extend((UNDECODABLE, name) for name in undecodable)
        return record

    def _repair(self) -> Iterator[bytes]:
        """Overwrite undecodable names of the record at the current position; yields what they were."""
        buffer, at = self._buffer, self._pos
        for _ in range(2):  # length, attributes
            _, at = decode_varint(buffer, at)
        for _ in range(2):  # deltas of timestamp and offset
            _, at = decode_varint(buffer, at)
        for _ in range(2):  # key, value
            at = _behind(buffer, at)
        count, at = decode_varint(buffer, at)
        for _ in range(count):
            length, at = decode_varint(buffer, at)
            name = bytes(buffer[at : at + length])
            try:
                name.decode()
            except UnicodeDecodeError:
                buffer[at : at + length] = b"?" * length
                yield name
            at = _behind(buffer, at + length)


def _behind(buffer: bytearray, at: int) -> int:
    """The position behind nullable bytes that begin with their length."""
    length: int
    length, at = decode_varint(buffer, at)
    return at + max(length, 0)


def _with(function: Any, **names: Any) -> Any:
    """The same function, for which these global names mean something else."""
    return FunctionType(function.__code__, function.__globals__ | names, function.__name__, function.__defaults__)


class _TolerantFetcher(fetcher.Fetcher):
    """A fetcher of one consumer; nothing is patched for other users of aiokafka in the same process."""

    # Removes: `MemoryRecords`, which one call deep inside of it makes of what was fetched.
    _proc_fetch_request = _with(fetcher.Fetcher._proc_fetch_request, MemoryRecords=TolerantRecords)


def read_tolerantly(consumer: AIOKafkaConsumer) -> None:
    """Have a consumer that was started, and has not fetched yet, read so."""
    reading: Any = consumer._fetcher
    assert type(reading) is fetcher.Fetcher, "a consumer that is not started has none"
    reading.__class__ = _TolerantFetcher
