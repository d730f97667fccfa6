"""Events that arrived on a partition that is not their message's: they are passed on within the transaction, once.

What could be derived differently over there is written into the headers first.  An event that is misplaced again after
that is nobody's and goes to quarantine: passing it on would never end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from dlq_stream.core.commands import MessageCommand
from dlq_stream.core.errors import MalformedEvent
from dlq_stream.core.events import EventForwarded
from dlq_stream.core.headers import FORWARDED, FORWARDED_YES, MESSAGE_ID, FailureEvent
from dlq_stream.core.ids import partitions_of
from dlq_stream.core.model import Headers, Record
from dlq_stream.core.outgoing import fixed_for_forwarding
from dlq_stream.engine.quarantine import quarantine
from dlq_stream.engine.turn import Turn


class _OfMessage(Protocol):
    @property
    def id(self) -> bytes: ...


EventT = TypeVar("EventT", bound=_OfMessage)


def ours_of(
    turn: Turn, events: list[tuple[Record, EventT]], forward: Callable[[Turn, Record, EventT, int], None]
) -> list[tuple[Record, EventT]]:
    """Those whose messages live in this partition; the others are passed on, or quarantined where that raises."""
    here, ours = turn.tx.partition, []
    targets = partitions_of([event.id for _, event in events], turn.tx.partitions)
    for pair, target in zip(events, targets, strict=True):
        if target == here:
            ours.append(pair)
            continue
        record, event = pair
        try:  # nothing is staged here but one send, last
            forward(turn, record, event, target)
        except Exception as error:
            quarantine(turn, record, error)
    return ours


def forward_misplaced(turn: Turn, record: Record, event: FailureEvent, target: int) -> None:
    """Pass a failure event on to partition ``target``; raises `MalformedEvent` where that has been tried."""
    if event.kind.forwarded:
        raise MalformedEvent(f"{MESSAGE_ID}: {event.id.hex()} was forwarded to the wrong partition")
    forward_failure(turn, record, event, target)


def forward_failure(turn: Turn, record: Record, event: FailureEvent, target: int, corrections: Headers = ()) -> None:
    """Pass a failure event on to partition ``target``; ``corrections`` replace headers of the same names."""
    headers = fixed_for_forwarding(record, event)
    if corrections:
        headers = replaced(headers, corrections)
    turn.tx.send(record.topic, event.id.hex().encode(), record.value, headers, target)
    turn.book.forwarded()
    turn.seen.append(EventForwarded(event.id, "failure", target))


def forward_command(turn: Turn, record: Record, command: MessageCommand, target: int) -> None:
    """Pass a command on to partition ``target``; raises `MalformedEvent` where that has been tried."""
    if (FORWARDED, FORWARDED_YES) in record.headers:
        raise MalformedEvent(f"message_id: {command.id.hex()} was forwarded to the wrong partition")
    digits = command.id.hex().encode()
    headers = replaced(record.headers, ((MESSAGE_ID, digits), (FORWARDED, FORWARDED_YES)))
    turn.tx.send(record.topic, digits, record.value, headers, target)
    turn.book.forwarded()
    turn.seen.append(EventForwarded(command.id, "command", target))


def replaced(headers: Headers, by: Headers) -> Headers:
    """The headers with ``by`` in place of those of the same names."""
    names = {name for name, _ in by}
    return (*(header for header in headers if header[0] not in names), *by)
