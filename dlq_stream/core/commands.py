"""The commands topic: what consumers and operators say about a message, as small JSON objects.

``{"type": "succeeded", "message_id": "<32 hex digits>", "attempt": 2}`` comes from the consumer of a retry, and so does
``traffic``, which is about no message: how many records its handlers processed, and how many of them failed.  The other
types come from people and name the ``revision`` of the message that they saw: it grows with every transition, so a
command that is repeated, replayed or too late does nothing.  `parse_command` is as strict as JSON is lax (duplicate
fields, NaN, booleans for numbers) and raises `MalformedEvent` and nothing else, whatever the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NoReturn

from dlq_stream.core import header_values as read
from dlq_stream.core.errors import MalformedEvent
from dlq_stream.core.headers import attempt_max, number_max, time_ms_max
from dlq_stream.core.ids import parse_id
from dlq_stream.core.lifecycle import Event
from dlq_stream.core.shown import shown

command_bytes_max = 16_384
"""A longer command is malformed; it is not even parsed."""

reason_chars_max = 1_000
"""A longer reason is malformed."""

by_chars_max = 200
"""A longer name of who said so is malformed."""


class Action(StrEnum):
    """What an operator can order; the value is the command's ``type``.

    * ``RETRY``: emit a PENDING message now.
    * ``RESCHEDULE``: emit it at another time.
    * ``RESOLVE``: it needs no further retries.
    * ``ESCALATE``: give it up now.
    * ``REDRIVE``: send an ESCALATED message round again, with a fresh allowance of retries.
    * ``PURGE``: forget a RESOLVED or ESCALATED message.
    """

    RETRY = "retry"
    RESCHEDULE = "reschedule"
    RESOLVE = "resolve"
    ESCALATE = "escalate"
    REDRIVE = "redrive"
    PURGE = "purge"

    @property
    def event(self) -> Event:
        """What the order is to the lifecycle."""
        return _EVENTS[self]


_EVENTS: Mapping[Action, Event] = {
    Action.RETRY: Event.RETRY_NOW,
    Action.RESCHEDULE: Event.RESCHEDULED,
    Action.RESOLVE: Event.RESOLVED_BY_OPERATOR,
    Action.ESCALATE: Event.GIVEN_UP,
    Action.REDRIVE: Event.REDRIVEN,
    Action.PURGE: Event.PURGED,
}


@dataclass(frozen=True, slots=True)
class Succeeded:
    """Delivery number ``attempt`` of the message was processed."""

    id: bytes
    attempt: int


@dataclass(frozen=True, slots=True)
class Order:
    """An operator wants something done, if the message is still as he saw it: at ``revision``.

    ``reason`` and ``by`` are for the record and may be empty.  ``due_at`` (epoch ms) belongs to RESCHEDULE alone.
    """

    id: bytes
    action: Action
    revision: int
    reason: str = ""
    by: str = ""
    due_at: int | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one consumer of ``group`` did with the records of ``queue`` from ``from_ms`` until ``to_ms`` (epoch ms).

    ``processed`` records were handled, retries included; ``failed`` of them failed.  Records that were skipped, or
    fetched and not handled, do not count.  ``group`` may be empty.
    """

    queue: str
    group: str
    processed: int
    failed: int
    from_ms: int
    to_ms: int


MessageCommand = Succeeded | Order
"""Those that are about one message; it lives in the partition that its id says."""

Command = MessageCommand | Traffic

_SUCCEEDED, _TRAFFIC = "succeeded", "traffic"
_TYPES = (_SUCCEEDED, _TRAFFIC, *Action)
_FIELDS_OF_TRAFFIC = frozenset(("type", "queue", "group", "processed", "failed", "from_ms", "to_ms"))
_FIELDS_OF_SUCCESS = frozenset(("type", "message_id", "attempt"))
_FIELDS_OF_ORDER = frozenset(("type", "message_id", "revision", "reason", "by"))
_FIELDS_OF_RESCHEDULE = _FIELDS_OF_ORDER | {"due_at"}


def parse_command(value: bytes | None) -> Command:
    """The command that the bytes hold.  Raises `MalformedEvent`, naming the field at fault, and nothing else."""
    fields = _json_object(value)
    kind = _needed(fields, "type")
    if kind == _SUCCEEDED:
        _refuse_others(fields, kind, _FIELDS_OF_SUCCESS)
        return Succeeded(_id(fields), _number(fields, "attempt", attempt_max))
    if kind == _TRAFFIC:
        return _traffic(fields)
    if not isinstance(kind, str) or kind not in _TYPES:
        raise MalformedEvent(f"type: {shown(kind)} is not one of {', '.join(_TYPES)}")
    action = Action(kind)
    rescheduled = action is Action.RESCHEDULE
    _refuse_others(fields, kind, _FIELDS_OF_RESCHEDULE if rescheduled else _FIELDS_OF_ORDER)
    return Order(
        id=_id(fields),
        action=action,
        revision=_number(fields, "revision", number_max),
        reason=_text(fields, "reason", reason_chars_max),
        by=_text(fields, "by", by_chars_max),
        due_at=_number(fields, "due_at", time_ms_max) if rescheduled else None,
    )


def encode_command(command: Command) -> bytes:
    """The bytes that `parse_command` makes the same command of."""
    fields: dict[str, object]
    if isinstance(command, Succeeded):
        fields = {"type": _SUCCEEDED, "message_id": command.id.hex(), "attempt": command.attempt}
    elif isinstance(command, Traffic):
        fields = {"type": _TRAFFIC, **asdict(command)}
    else:
        fields = {"type": command.action, "message_id": command.id.hex(), "revision": command.revision}
        optional = {"reason": command.reason or None, "by": command.by or None, "due_at": command.due_at}
        fields.update((name, content) for name, content in optional.items() if content is not None)
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def _traffic(fields: dict[str, Any]) -> Traffic:
    _refuse_others(fields, _TRAFFIC, _FIELDS_OF_TRAFFIC)
    processed = _number(fields, "processed", number_max)
    from_ms = _number(fields, "from_ms", time_ms_max)
    to_ms = _number(fields, "to_ms", time_ms_max)
    if to_ms < from_ms:
        raise MalformedEvent(f"to_ms: {to_ms} is before from_ms, {from_ms}")
    return Traffic(
        queue=read.queue("queue", _encoded(fields, "queue")),
        group=read.group("group", _encoded(fields, "group")),
        processed=processed,
        failed=_number(fields, "failed", processed),
        from_ms=from_ms,
        to_ms=to_ms,
    )


def _encoded(fields: dict[str, Any], name: str) -> bytes:
    text = _needed(fields, name)
    if not isinstance(text, str):
        raise MalformedEvent(f"{name}: {shown(text)} is not a text")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise MalformedEvent(f"{name}: {shown(text)} holds half a surrogate pair") from None


def _json_object(value: bytes | None) -> dict[str, Any]:
    if value is None:
        raise MalformedEvent("command: null, not a JSON object")
    if len(value) > command_bytes_max:
        raise MalformedEvent(f"command: {len(value)} bytes, at most {command_bytes_max} are allowed")
    try:
        # Decoded here, for json would guess at UTF-16 and UTF-32.
        fields = json.loads(value.decode(), object_pairs_hook=_once_each, parse_constant=_refuse_constant)
    except RecursionError:
        raise MalformedEvent("command: nested too deeply") from None
    except ValueError as wrong:  # not UTF-8, not JSON, a number with thousands of digits
        raise MalformedEvent(f"command: not JSON: {wrong}") from None
    if not isinstance(fields, dict):
        raise MalformedEvent(f"command: {shown(fields)} is not a JSON object")
    return fields


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise MalformedEvent("command: a field is given twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedEvent(f"command: {name} is not JSON")


def _needed(fields: dict[str, Any], name: str) -> Any:
    try:
        return fields[name]
    except KeyError:
        raise MalformedEvent(f"{name}: missing") from None


def _refuse_others(fields: dict[str, Any], kind: str, known: frozenset[str]) -> None:
    if not fields.keys() <= known:
        unknown = min(fields.keys() - known)
        raise MalformedEvent(f"field {shown(unknown)}: unknown in a command of type {kind!r}")


def _id(fields: dict[str, Any]) -> bytes:
    text = _needed(fields, "message_id")
    if isinstance(text, str) and text.isascii():
        try:
            return parse_id(text.encode())
        except MalformedEvent:
            pass
    raise MalformedEvent(f"message_id: {shown(text)} is not 32 hex digits")


def _number(fields: dict[str, Any], name: str, most: int) -> int:
    value = _needed(fields, name)
    if type(value) is not int or not 0 <= value <= most:  # a bool is an int, too, but not here
        raise MalformedEvent(f"{name}: {shown(value)} is not a whole number from 0 to {most}")
    return value


def _text(fields: dict[str, Any], name: str, chars_max: int) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str) or len(value) > chars_max:
        raise MalformedEvent(f"{name}: {shown(value)} is not a text of at most {chars_max} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MalformedEvent(f"{name}: {shown(value)} holds half a surrogate pair") from None
    return value
