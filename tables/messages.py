"""The table `messages`: where every failed message stands.  Hot and small (about 200 bytes): no payload, no error text.

Key: the message id, 16 raw bytes.  Three local indexes are derived from a row:

* ``due``: prefix empty, time `Message.due_ms`.  What a timer has to look at next, be it a retry to emit (PENDING), an
  outcome that did not come (RETRYING) or a ``-dlq`` record that could not be written yet (ESCALATED).  A row whose
  ``due_ms`` is None, a stuck one for example, is not in it.
* ``status``: prefix queue, NUL, status; time `Message.created_ms`.  The messages of a queue by age, and its oldest one.
* ``closed``: prefix empty, time `Message.closed_ms`.  What retention takes next; a message that is not finished, or not
  yet in its ``-dlq`` topic, has no ``closed_ms``.

The fields that indexes depend on come first, so that deriving decodes no more than those.

Versions: 1.1 added `Message.slot_ms`.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from functools import lru_cache
from typing import Any

import msgspec

from dlq_stream.core.errors import UnsupportedFormat
from dlq_stream.core.lifecycle import State
from dlq_stream.core.model import DLQMessageStatus, ErrorCategory, Origin
from dlq_stream.core.transaction import Transaction
from dlq_stream.tables.codec import MAJOR, Codec, UndecodableRow
from dlq_stream.tables.spec import (
    TIME_MS_MAX,
    IndexKeys,
    IndexMoves,
    IndexSpec,
    TableSpec,
    index_key,
    split_index_key,
    until,
)

DUE = IndexSpec("due", b"d")
STATUS = IndexSpec("status", b"q")
CLOSED = IndexSpec("closed", b"c")

OTHER_QUEUE = "other"
"""Where the messages of queues beyond ``queues_max`` are booked."""


class DeadLetter(StrEnum):
    """What became of the ``-dlq`` record of an ESCALATED message.

    * ``NONE``: there is none to write; the message is not escalated.
    * ``WAITING``: it could not be written yet; ``due_ms`` is the next try, ``dead_letter_reason`` what was in the way.
    * ``WRITTEN``: it went out in the transaction that wrote this row.
    * ``IMPOSSIBLE``: it can never be written, ``dead_letter_reason`` says why; the message stays here.
    """

    NONE = "none"
    WAITING = "waiting"
    WRITTEN = "written"
    IMPOSSIBLE = "impossible"


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A failed message; every instant is the worker's, in epoch milliseconds.

    ``attempt`` is the number of the latest delivery; retries and backoff count from ``attempt_base`` (0, or where the
    latest redrive began) and the time budget from ``allowance_from_ms``.  ``revision`` grows with each transition.
    ``reason`` says why the message was given up (a `dlq_stream.core.decide.EscalationReason`) or that an operator
    closed it, ``detail`` says more in words.  ``record_bytes`` is the size of the first row of `attempts`, so that
    timers know what reading it costs.  ``slot_ms`` is the latest slot that its queue's limit gave the message; it is
    still waiting for that one where ``due_ms`` is the same, and was told not to where that is earlier (whoever sets
    ``due_ms`` need not think of it).
    """

    status: DLQMessageStatus
    due_ms: int | None
    created_ms: int
    closed_ms: int | None
    queue: str
    booked_as: str = ""  # the queue that statistics and the status index go by, where it is not `queue`
    # ---- above: what indexes are derived from
    group: str = ""
    origin_topic: str = ""
    origin_partition: int | None = None
    origin_offset: int | None = None
    origin_timestamp: int | None = None
    attempt: int = 0
    attempt_base: int = 0
    first_attempt: int = 0
    revision: int = 1
    presumed: bool = False
    category: ErrorCategory = ErrorCategory.UNKNOWN
    error_type: str = ""
    fingerprint: bytes = b""
    last_failed_ms: int = 0
    allowance_from_ms: int = 0
    retry_topic: str = ""
    outcomes_reported: bool = False
    record_bytes: int = 0
    reason: str = ""
    detail: str = ""
    dead_letter: DeadLetter = DeadLetter.NONE
    dead_letter_tries: int = 0
    dead_letter_reason: str = ""
    stuck_reason: str = ""
    slot_ms: int | None = None

    @property
    def booked(self) -> str:
        """The queue that statistics and the status index go by."""
        return self.booked_as or self.queue

    @property
    def origin(self) -> Origin:
        """Coordinates of the record that failed first."""
        return Origin(self.origin_topic, self.origin_partition, self.origin_offset, self.origin_timestamp)


class _Head(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The first fields of `Message`: all that index keys are made of."""

    status: DLQMessageStatus
    due_ms: int | None
    created_ms: int
    closed_ms: int | None
    queue: str
    booked_as: str = ""


codec: Codec[Message] = Codec(Message, minor=1)
_decode_head = msgspec.msgpack.Decoder(_Head).decode

_STATUS_BYTES = {
    DLQMessageStatus.PENDING: b"\x01",
    DLQMessageStatus.RETRYING: b"\x02",
    DLQMessageStatus.RESOLVED: b"\x03",
    DLQMessageStatus.ESCALATED: b"\x04",
    DLQMessageStatus.PURGED: b"\x05",  # no row has it
}


@lru_cache(maxsize=4096)
def status_prefix(queue: str, status: DLQMessageStatus) -> bytes:
    """The prefix of the status index for one queue and status; raises ValueError where the name holds a NUL."""
    name = queue.encode()
    if b"\0" in name:
        raise ValueError(f"queue name {queue!r:.80} holds a NUL")
    return name + b"\0" + _STATUS_BYTES[status]


def _head(key: bytes, raw: bytes) -> _Head:
    if raw[0] != MAJOR:
        raise UnsupportedFormat(
            f"a Message row has format {raw[0]}, this version of dlq-stream reads {MAJOR}: upgrade this worker"
        )
    try:
        return _decode_head(raw[2:])  # a copy of so little costs less than a view
    except msgspec.DecodeError as error:
        raise UndecodableRow(f"message {key.hex()}: its row of {len(raw)} bytes does not decode: {error}") from error


def _entries(key: bytes, row: _Head | Message) -> IndexKeys:
    entries = [("status", index_key(status_prefix(row.booked_as or row.queue, row.status), row.created_ms, key))]
    if row.due_ms is not None:
        entries.append(("due", index_key(b"", row.due_ms, key)))
    if row.closed_ms is not None:
        entries.append(("closed", index_key(b"", row.closed_ms, key)))
    return entries


def moves(key: bytes, old: _Head | Message | None, new: _Head | Message | None) -> IndexMoves:
    """The index entries that the change of a row from ``old`` to ``new`` removes and adds (None: no row)."""
    before = [] if old is None else _entries(key, old)
    after = [] if new is None else _entries(key, new)
    if not before or not after:
        return before, after
    return [entry for entry in before if entry not in after], [entry for entry in after if entry not in before]


def derive(key: bytes, old: bytes | None, new: bytes | None) -> IndexMoves:
    """`moves` of rows as bytes, of which it decodes no more than it takes."""
    return moves(key, None if old is None else _head(key, old), None if new is None else _head(key, new))


TABLE = TableSpec("messages", b"m", derive)


def define(app: Any, **options: Any) -> Any:
    """The Faust table on ``app``."""
    return TABLE.define(app, **options)


# ------------------------------------------------------------------------------------------------------- typed access


def get_many(tx: Transaction, ids: Collection[bytes]) -> dict[bytes, Message | None]:
    """Rows by id, None where there is none."""
    decode = codec.decode
    return {key: None if raw is None else decode(raw) for key, raw in tx.get_many("messages", ids).items()}


def get(tx: Transaction, message_id: bytes) -> Message | None:
    """One row."""
    raw = tx.get_many("messages", (message_id,))[message_id]
    return None if raw is None else codec.decode(raw)


def put(tx: Transaction, message_id: bytes, row: Message) -> None:
    """Write a row, whatever was there."""
    tx.put("messages", message_id, codec.encode(row))


def change(tx: Transaction, message_id: bytes, old: Message | None, new: Message) -> None:
    """Write a row in place of ``old`` (None: there is none), which spares reading both again for the indexes."""
    tx.put("messages", message_id, codec.encode(new), moves(message_id, old, new))


def delete(tx: Transaction, message_id: bytes) -> None:
    """Delete a row; its attempts are another table's."""
    tx.delete("messages", message_id)


_STATES = {
    DLQMessageStatus.PENDING: State.PENDING,
    DLQMessageStatus.RETRYING: State.RETRYING,
    DLQMessageStatus.RESOLVED: State.RESOLVED,
    DLQMessageStatus.ESCALATED: State.ESCALATED,
}


def state_of(row: Message | None) -> State:
    """The row's state in the lifecycle table, which tells presumed successes from known ones."""
    if row is None:
        return State.ABSENT
    if row.presumed:
        return State.PRESUMED
    return _STATES[row.status]


def due_until(tx: Transaction, time_ms: int, limit: int, after: bytes = b"") -> list[tuple[int, bytes]]:
    """The earliest entries of the due index beyond the key ``after``, ``time_ms`` included: (due, message id)."""
    found = tx.scan("due", after + b"\0" if after else b"", until(b"", time_ms), limit)
    return [split_index_key(key) for key, _ in found]


def next_due_ms(tx: Transaction, after_ms: int) -> int | None:
    """The earliest instant of the due index beyond ``after_ms``.

    Looks from the index's beginning first, which is where a remembered bound spares the tombstones: right after
    ``after_ms`` lie those of every outcome that came before its deadline.
    """
    for start in (b"", until(b"", after_ms)):
        found = tx.scan("due", start, until(b"", TIME_MS_MAX), 1)
        if not found:
            return None
        earliest = split_index_key(found[0][0])[0]
        if earliest > after_ms:
            return earliest
    return None


def closed_first(tx: Transaction, limit: int) -> list[tuple[int, bytes]]:
    """The messages that were closed first: (closed, message id)."""
    return [split_index_key(key) for key, _ in tx.scan("closed", b"", until(b"", TIME_MS_MAX), limit)]


def by_status(
    tx: Transaction, queue: str, status: DLQMessageStatus, limit: int, *, newest_first: bool = False
) -> list[tuple[int, bytes]]:
    """Messages of a (booked) queue in one status by age: (created, message id)."""
    prefix = status_prefix(queue, status)
    found = tx.scan("status", prefix, until(prefix, TIME_MS_MAX), limit, reverse=newest_first)
    return [split_index_key(key) for key, _ in found]


def salvage(raw: bytes) -> Message:
    """What can be read of a row that does not decode; fields that make no sense take their defaults.

    For rows that a timer cannot process: their status is kept, and a reason can be written beside it.  A row whose
    index entries were derived is well-formed msgpack, and the fields that these depend on make sense.
    """
    head = _decode_head(memoryview(raw)[2:])
    values: dict[str, Any] = {name: getattr(head, name) for name in _Head.__struct_fields__}
    read = msgspec.msgpack.decode(memoryview(raw)[2:])
    for field, value in zip(msgspec.structs.fields(Message), read, strict=False):
        if field.name not in values:
            try:
                values[field.name] = msgspec.convert(value, field.type)
            except msgspec.ValidationError:
                continue
    return Message(**values)
