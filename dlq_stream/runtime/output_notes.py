"""Where a transaction's outputs went, noted in a header of its changelog records.

Should the brokers forget to end a decided transaction (see `tenure`), somebody has to know all partitions that it wrote
to.  Its rows do not tell: policies may have changed since, and what became of a message may be that it is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from dlq_stream.core.destinations import topic_chars_max
from dlq_stream.core.model import Headers
from dlq_stream.runtime.ports import OutRecord

OUTPUTS = "dlq-outputs"
"""The header's name.  Its value: MessagePack, an array of pairs of a topic and an array of its partitions."""

NOTE_BYTES_MAX = 16_384
"""A longer note is cut into several, one for each of so many rows, which grow by it.  (Many topics have many rows.)"""

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
    """The rows of one changelog with a note each in the first of them that have room for it, as far as there are any.

    Only rows of several hundred kilobytes have none, and a transaction has small ones in other changelogs then.
    """
    room = row_bytes_max - NOTE_BYTES_MAX - 2 * topic_chars_max
    left = list(reversed(notes))
    made = list(rows)
    for at, (key, value, headers) in enumerate(rows):
        if not left:
            break
        if len(key or b"") + len(value or b"") < room:
            made[at] = key, value, (*headers, (OUTPUTS, left.pop()))
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
