"""What the table `attempts` has of one message: every failure that is kept, and the original record."""

from __future__ import annotations

from aiokafka import TopicPartition

from dlq_stream.core.ids import partition_of
from dlq_stream.reading import records_until
from dlq_stream.tables import attempts
from dlq_stream.tables.attempts import Attempt
from dlq_stream.tables.codec import UndecodableRow
from dlq_stream.tables.messages import Message
from dlq_stream.view.app import AppReader

MARGIN_MS = 3_600_000
"""Reading begins so long before the message was created; its creation is told by a worker's clock, not the brokers'."""


async def read_history(app: AppReader, message_id: bytes, row: Message) -> list[tuple[int, Attempt | None]]:
    """Number of the delivery and its row, in order; None where the bytes of a row make no sense.

    All rows of a message were written at or after its first one, so reading may begin shortly before that; should the
    first not be there, clocks are not what they seem, and the whole partition is read.
    """
    place = TopicPartition(attempts.TABLE.changelog(app.app_id), partition_of(message_id, app.partitions))
    app.consumer.assign([place])
    ends = await app.consumer.end_offsets([place])
    begin = (await app.consumer.offsets_for_times({place: max(0, row.created_ms - MARGIN_MS)}))[place]
    if begin is not None:
        app.consumer.seek(place, begin.offset)
        found = await _rows(app, message_id, ends)
        if attempts.attempt_key(message_id, row.first_attempt) in found:
            return _decoded(found)
    await app.consumer.seek_to_beginning(place)
    return _decoded(await _rows(app, message_id, ends))


async def _rows(app: AppReader, message_id: bytes, ends: dict[TopicPartition, int]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    async for record in records_until(app.consumer, ends):
        key = record.key
        if key is None or len(key) != attempts.KEY_BYTES or not key.startswith(message_id):
            continue
        if record.value is None:
            found.pop(key, None)
        else:
            found[key] = record.value
    return found


def _decoded(found: dict[bytes, bytes]) -> list[tuple[int, Attempt | None]]:
    return [(attempts.split_key(key)[1], _readable(found[key])) for key in sorted(found)]


def _readable(raw: bytes) -> Attempt | None:
    try:
        return attempts.codec.decode(raw)
    except UndecodableRow:
        return None
