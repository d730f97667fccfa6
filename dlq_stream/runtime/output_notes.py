"""Where a transaction's outputs went, noted in headers of its last changelog records.

Should the brokers forget to end a decided transaction (see `tenure`), somebody has to know all partitions that it wrote
to.  Its rows do not tell: policies may have changed since, and what became of a message may be that it is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dlq_stream.core.model import Headers
from dlq_stream.runtime.ports import OutRecord
from dlq_stream.runtime.transaction import ROW_OVERHEAD_BYTES, growth_bytes_max

OUTPUTS = "dlq-outputs"
"""The header's name.  Its value: MessagePack, an array of pairs of a topic and an array of its partitions."""

NOTE_BYTES_MAX = 16_384
"""A longer note is cut into several, one for each of so many rows, which grow by it.  (Many topics have many rows.)"""

READ_BACK_RECORDS = 16
"""So far from the end of a changelog notes are looked for: they are on the last records before the last marker."""

SILENCE_SECONDS_MAX = 10.0
"""No answer to a fetch for this long counts as brokers that do not answer."""

_LOOK_MS = 20
_Note = list[tuple[str, list[int]]]
_decoder = msgspec.msgpack.Decoder(_Note)


def notes_of(outputs: Iterable[tuple[str, int]]) -> list[bytes]:
    """The values of the headers that note these topics and partitions; none where there are none."""
    partitions: dict[str, list[int]] = {}
    for topic, partition in outputs:
        partitions.setdefault(topic, []).append(partition)
    notes: list[bytes] = []
    note: _Note = []
    size = 0
    for entry in partitions.items():
        entry_size = len(msgspec.msgpack.encode(entry))
        if note and size + entry_size > NOTE_BYTES_MAX:
            notes.append(msgspec.msgpack.encode(note))
            note, size = [], 0
        note.append(entry)
        size += entry_size
    if note:
        notes.append(msgspec.msgpack.encode(note))
    return notes


def noted(rows: Sequence[OutRecord], notes: Sequence[bytes], row_bytes_max: int) -> list[OutRecord]:
    """The rows of one changelog with a note each on the last of them, as far as these have room for it.

    Rows that fill a record have none; a transaction has small ones in its other changelogs then.
    """
    made = list(rows)
    for at, note in zip(range(len(rows) - 1, -1, -1), notes, strict=False):
        key, value, headers = rows[at]
        size = len(key or b"") + len(value or b"") + len(note) + len(OUTPUTS) + ROW_OVERHEAD_BYTES
        if size + growth_bytes_max(size) <= row_bytes_max:
            made[at] = key, value, (*headers, (OUTPUTS, note))
    return made


def outputs_in(headers: Headers) -> set[tuple[str, int]]:
    """What the headers of a row note.  Raises `msgspec.DecodeError` where a note does not decode."""
    return {
        (topic, partition)
        for name, value in headers
        if name == OUTPUTS
        for topic, partitions in _decoder.decode(value or b"")
        for partition in partitions
    }


async def outputs_at_the_ends(consumer: Any, ends: Mapping[Any, tuple[int, int]]) -> set[tuple[str, int]]:
    """What is noted behind the last stable offset of changelogs and on the last records before.

    ``ends`` are their last stable offsets and high-water marks, ``consumer`` reads ``read_uncommitted``.  Raises
    TimeoutError, and `msgspec.DecodeError` where a note does not decode.
    """
    outputs: set[tuple[str, int]] = set()
    for place, (stable, written) in ends.items():
        consumer.seek(place, max(0, stable - READ_BACK_RECORDS))
        async with asyncio.timeout(SILENCE_SECONDS_MAX):
            while await consumer.position(place) < written:
                for record in (await consumer.getmany(place, timeout_ms=_LOOK_MS)).get(place, ()):
                    outputs |= outputs_in(record.headers)
    return outputs
