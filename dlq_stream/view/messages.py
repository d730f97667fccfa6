"""The table of messages, read from its changelog: committed records only, to the end seen at the start.

There is no index in a changelog, so every row of the partitions asked for is looked at; what is kept in memory is the
latest of those that fit, as bytes, and at most `ROWS_MAX` of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import msgspec
from aiokafka import TopicPartition

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.ids import ID_BYTES, partition_of
from dlq_stream.engine.purge import PURGE_ORDERED_MS
from dlq_stream.reading import records_until
from dlq_stream.tables import messages
from dlq_stream.tables.codec import UndecodableRow
from dlq_stream.tables.messages import Message
from dlq_stream.view.app import AppReader, AsOf, now_ms
from dlq_stream.view.selection import Selection, id_of_turn, turn_of

ROWS_MAX = 1_000_000
"""More messages that fit are an error that asks for a narrower filter; so many take about half a gigabyte."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The messages that were asked for: ids and rows, in the order of `turn_of`.

    Rows stay bytes until they are looked at, which takes a fifth of the memory.
    """

    as_of: AsOf
    ends: Mapping[int, int]
    """By partition, the offset of the changelog where reading ended: changes from there on are not in it."""
    undecodable: int
    """Rows of which nothing can be read at all; no filter fits them."""
    _kept: Mapping[bytes, bytes]
    _turns: Sequence[bytes]

    def __len__(self) -> int:
        return len(self._turns)

    def __iter__(self) -> Iterator[tuple[bytes, Message]]:
        for turn in self._turns:
            id_ = id_of_turn(turn)
            row = present(self._kept[id_])
            if row is not None:  # which it was when it was kept
                yield id_, row

    def first(self, limit: int | None) -> Iterator[tuple[bytes, Message]]:
        """The first so many of them; all for None."""
        return islice(self, limit)


async def read_selected(app: AppReader, selection: Selection) -> Answer:
    """All messages that fit.  Raises ConfigurationError where these are more than `ROWS_MAX`."""
    return await _read(app, range(app.partitions), selection, None)


async def read_by_id(app: AppReader, ids: Collection[bytes]) -> Answer:
    """The messages of these ids, as far as there are any; only their partitions are read."""
    wanted = frozenset(ids)
    return await _read(app, {partition_of(each, app.partitions) for each in wanted}, Selection(), wanted)


def present(raw: bytes | None) -> Message | None:
    """What a record of the changelog says of a message: its row, as far as it can be read; None where it is gone.

    One that an operator purged is gone, though retention has still to delete it.  Raises `UnsupportedFormat` (this
    program is too old), and `UndecodableRow` where nothing can be read.
    """
    if raw is None:
        return None
    try:
        row = messages.codec.decode(raw)
    except UndecodableRow:
        try:
            row = messages.salvage(raw)
        except (msgspec.DecodeError, TypeError) as error:
            raise UndecodableRow(f"a row of {len(raw)} bytes cannot be read at all: {error}") from error
    return None if row.closed_ms == PURGE_ORDERED_MS else row


async def _read(
    app: AppReader, partitions: Collection[int], selection: Selection, ids: frozenset[bytes] | None
) -> Answer:
    topic = messages.TABLE.changelog(app.app_id)
    places = [TopicPartition(topic, number) for number in sorted(partitions)]
    app.consumer.assign(places)
    as_of_ms = now_ms()
    ends = await app.consumer.end_offsets(places)
    await app.consumer.seek_to_beginning(*places)
    kept: dict[bytes, bytes] = {}
    turns: dict[bytes, bytes] = {}
    broken: set[bytes] = set()
    updated_ms = 0
    async for record in records_until(app.consumer, ends):
        key = record.key
        if key is None or len(key) != ID_BYTES or (ids is not None and key not in ids):
            continue
        updated_ms = max(updated_ms, record.timestamp)
        broken.discard(key)
        try:
            row = present(record.value)
        except UndecodableRow:
            broken.add(key)
            row = None
        if row is None or not selection.fits(row, as_of_ms):
            kept.pop(key, None)
            turns.pop(key, None)
            continue
        kept[key], turns[key] = record.value, turn_of(key, row)
        if len(kept) > ROWS_MAX:
            raise ConfigurationError(
                f"more than {ROWS_MAX:,} messages fit; narrow it down with --queue, --status, --error-type or "
                f"--older-than"
            )
    return Answer(
        as_of=AsOf(as_of_ms, updated_ms or None, await app.lag(partitions)),
        ends={place.partition: end for place, end in ends.items()},
        undecodable=len(broken),
        _kept=kept,
        _turns=sorted(turns.values()),
    )
