"""The table `attempts`: what failed and why, one row per failed delivery; the first also holds the record itself.

Key: message id (16 bytes), number of the delivery (4 bytes, big-endian).  Rows are cold: written once, read when a
retry is emitted, when a message is given up, and by people.  At most ``attempts_kept_max`` rows stay per message, the
first (with the record) always, then the latest.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

import msgspec

from dlq_stream.core.model import ErrorCategory, Headers
from dlq_stream.core.transaction import Transaction
from dlq_stream.tables.codec import Codec
from dlq_stream.tables.spec import TableSpec

ATTEMPT_MAX = 2**32 - 1
"""The largest number of a delivery; four bytes of the key."""

PAGE_ROWS = 16
"""Rows of a message that are read at a time: as many as are usually kept at most."""

_NUMBER = Struct(">I")

KEY_BYTES = 16 + _NUMBER.size
"""Length of every key of the table."""

TABLE = TableSpec("attempts", b"a")


class Attempt(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One failed delivery.  ``failed_at`` is the reporter's clock, ``recorded_ms`` the worker's.

    ``error_types`` are names of the error, most specific first, ``cause_types`` those of its cause; ``rule`` is the
    classification rule that decided.
    ``key``, ``value`` and ``headers`` are the original record, untouched, where ``has_record``.
    """

    error_types: tuple[str, ...]
    error_message: str
    category: ErrorCategory
    rule: str
    recorded_ms: int
    failed_at: int | None = None
    group: str = ""
    cause_types: tuple[str, ...] = ()
    stacktrace: bytes = b""
    metadata: bytes | None = None
    has_record: bool = False
    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()


codec: Codec[Attempt] = Codec(Attempt)


def define(app: Any, **options: Any) -> Any:
    """The Faust table on ``app``."""
    return TABLE.define(app, **options)


def attempt_key(message_id: bytes, attempt: int) -> bytes:
    """The key of a row; raises `struct.error` beyond `ATTEMPT_MAX`."""
    return message_id + _NUMBER.pack(attempt)


def split_key(key: bytes) -> tuple[bytes, int]:
    """Message id and number of the delivery."""
    return key[:16], _NUMBER.unpack_from(key, 16)[0]


def get(tx: Transaction, message_id: bytes, attempt: int) -> Attempt | None:
    """One row."""
    key = attempt_key(message_id, attempt)
    raw = tx.get_many("attempts", (key,))[key]
    return None if raw is None else codec.decode(raw)


def put(tx: Transaction, message_id: bytes, attempt: int, row: Attempt) -> None:
    """Write a row."""
    tx.put("attempts", message_id + _NUMBER.pack(attempt), codec.encode(row))


def trim(tx: Transaction, message_id: bytes, first: int, latest: int, kept_max: int) -> None:
    """Delete the row that ``latest`` pushes out: the first stays, and the latest ``kept_max - 1``.

    Called once for every delivery that is over, reported or not, so there is never more than one to delete.
    """
    oldest = latest - (kept_max - 1)
    if oldest > first:
        tx.delete("attempts", attempt_key(message_id, oldest))


def history(tx: Transaction, message_id: bytes, limit: int) -> list[tuple[int, Attempt]]:
    """The rows of a message in order of delivery."""
    found = tx.scan("attempts", message_id, message_id + b"\xff" * 5, limit)
    return [(split_key(key)[1], codec.decode(raw)) for key, raw in found]


def keys_and_bytes(tx: Transaction, message_id: bytes) -> tuple[list[bytes], int]:
    """The keys of all rows of a message, readable or not, and the bytes that it took to read them.

    A scan, although the numbers of deliveries nearly tell the keys: only nearly, since ``attempts_kept_max`` may have
    been another one when a row was written.
    """
    keys: list[bytes] = []
    size, start = 0, message_id
    while True:
        page = tx.scan("attempts", start, message_id + b"\xff" * 5, PAGE_ROWS)
        keys += [key for key, _ in page]
        size += sum(len(value) for _, value in page)
        if len(page) < PAGE_ROWS:
            return keys, size
        start = keys[-1] + b"\0"


def delete(tx: Transaction, key: bytes) -> None:
    """Delete one row."""
    tx.delete("attempts", key)
