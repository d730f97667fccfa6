"""What a record of the wire contract tells of a message: which one, which delivery, and when its retry is due.

Shared by the screen's ledger and the verdict.  Both look at headers as any consumer would; neither asks a worker.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from dlq_stream.core.backoff import backoff_ms, chance_of
from dlq_stream.core.errors import MalformedEvent
from dlq_stream.core.headers import ATTEMPT, MESSAGE_ID, OWN_HEADERS
from dlq_stream.core.ids import parse_id
from dlq_stream.core.model import Headers, Record
from dlq_stream.demo.plan import retry_policy

_POLICY = retry_policy()


class Trace(NamedTuple):
    """One delivery of one message: its id and the number of the attempt."""

    id: bytes
    attempt: int

    @property
    def before(self) -> Trace:
        """The delivery before this one."""
        return Trace(self.id, self.attempt - 1)

    @property
    def after(self) -> Trace:
        """The delivery that follows when this one fails."""
        return Trace(self.id, self.attempt + 1)


def due_ms(failure: Trace, failed_ms: int) -> int:
    """When the retry is due that follows a failure which the brokers have seen at ``failed_ms``."""
    retry = failure.attempt + 1
    return failed_ms + backoff_ms(_POLICY, retry, chance_of(failure.id, retry))


def user_headers(record: Record) -> Headers:
    """The headers that are not ours, in order."""
    return tuple((name, value) for name, value in record.headers if name not in OWN_HEADERS)


def emission_of(record: Record) -> Trace | None:
    """The message and attempt that a record of the source or the dead-letter topic says it is; None for an original."""
    return _trace(_last(record, MESSAGE_ID), _last(record, ATTEMPT))


def failure_of(record: Record) -> Trace | None:
    """The delivery that a record of the failures topic reports as failed; None where it does not say."""
    return _trace(_last(record, MESSAGE_ID) or record.key, _last(record, ATTEMPT) or b"0")


def success_of(record: Record) -> Trace | None:
    """The delivery that a record of the commands topic reports as succeeded; None for other commands."""
    try:
        command = json.loads(record.value or b"")
        if command["type"] != "succeeded":
            return None
        return _trace(command["message_id"].encode(), str(command["attempt"]).encode())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _last(record: Record, name: str) -> bytes | None:
    return next((value for key, value in reversed(record.headers) if key == name), None)


def _trace(message_id: bytes | None, attempt: bytes | None) -> Trace | None:
    if message_id is None or attempt is None:
        return None
    try:
        return Trace(parse_id(message_id), int(attempt))
    except (MalformedEvent, ValueError):
        return None
