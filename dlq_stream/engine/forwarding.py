"""Events that arrived on a partition that is not their message's: they are passed on within the transaction, once.

What could be derived differently over there is written into the headers first.  An event that is misplaced again after
that is nobody's and goes to quarantine: passing it on would never end.
"""

from __future__ import annotations

from dlq_stream.core.events import EventForwarded
from dlq_stream.core.headers import FORWARDED, FORWARDED_YES, MESSAGE_ID, FailureEvent
from dlq_stream.core.model import Headers, Record
from dlq_stream.core.outgoing import fixed_for_forwarding
from dlq_stream.engine.turn import Turn


def forward_failure(turn: Turn, record: Record, event: FailureEvent, target: int, corrections: Headers = ()) -> None:
    """Pass a failure event on to partition ``target``; ``corrections`` replace headers of the same names."""
    headers = fixed_for_forwarding(record, event)
    if corrections:
        headers = replaced(headers, corrections)
    turn.tx.send(record.topic, event.id.hex().encode(), record.value, headers, target)
    turn.book.forwarded()
    turn.seen.append(EventForwarded(event.id, "failure", target))


def forward_command(turn: Turn, record: Record, message_id: bytes, target: int) -> None:
    """Pass a command on to partition ``target``."""
    digits = message_id.hex().encode()
    headers = replaced(record.headers, ((MESSAGE_ID, digits), (FORWARDED, FORWARDED_YES)))
    turn.tx.send(record.topic, digits, record.value, headers, target)
    turn.book.forwarded()
    turn.seen.append(EventForwarded(message_id, "command", target))


def replaced(headers: Headers, by: Headers) -> Headers:
    """The headers with ``by`` in place of those of the same names."""
    names = {name for name, _ in by}
    return (*(header for header in headers if header[0] not in names), *by)
