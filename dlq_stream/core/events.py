"""The catalogue of what happened: one type each, with a sentence, for whoever logs, counts or looks on.

The engine and the runtime say what happened once it is committed, by handing one of these to a listener; they know no
logger and no metric.  Nothing here holds a payload or a key.  But some fields hold what a sender has written into a
header or a command (`SENDERS_WORDS`): a listener may go by them, and must not log them.

They are named tuples, not frozen dataclasses: one is made for every failure and every retry, at half the cost.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from dlq_stream.core.decide import EscalationReason
from dlq_stream.core.lifecycle import Ignored
from dlq_stream.core.model import ErrorCategory
from dlq_stream.core.reasons import StuckReason, UnwrittenReason

EventKind = Literal["failure", "command"]
"""Which of the two intake topics an event came from."""

SENDERS_WORDS: Final = frozenset(("queue", "error_type", "destination", "detail", "by"))
"""Fields whose values senders chose: header values are never logged, nor what a command says in words."""


class FailureStored(NamedTuple):
    """A delivery failed, and its next retry is scheduled for ``due_ms``; ``reopened`` if it was presumed resolved."""

    id: bytes
    queue: str
    attempt: int
    error_type: str
    category: ErrorCategory
    rule: str
    due_ms: int
    reopened: bool


class RetryEmitted(NamedTuple):
    """Delivery number ``attempt`` of a message was written to ``destination``, ``late_ms`` after it was due."""

    id: bytes
    queue: str
    attempt: int
    destination: str
    late_ms: int


class OutcomeTimedOut(NamedTuple):
    """Nothing was heard in time of delivery number ``attempt``, though its consumer reports outcomes."""

    id: bytes
    queue: str
    attempt: int


class MessageResolved(NamedTuple):
    """A message needs no further retries: it succeeded, an operator said so, or silence was taken for success."""

    id: bytes
    queue: str
    attempt: int
    how: Literal["succeeded", "operator", "presumed"]


class MessageEscalated(NamedTuple):
    """A message was given up, for ``reason``; ``detail`` says more where there is more, in words."""

    id: bytes
    queue: str
    attempt: int
    reason: EscalationReason
    detail: str


class MessageRescheduled(NamedTuple):
    """An operator changed when a message is due."""

    id: bytes
    queue: str
    due_ms: int
    by: str


class MessageRedriven(NamedTuple):
    """An operator sent an escalated message round again."""

    id: bytes
    queue: str
    due_ms: int
    by: str


class MessagePurged(NamedTuple):
    """A closed message was deleted, because its retention passed or by an operator's order."""

    id: bytes
    queue: str
    how: Literal["retention", "operator"]


class RetryPutOff(NamedTuple):
    """A retry is due, but its destination does not answer at the moment; looked at again at ``due_ms``."""

    id: bytes
    queue: str
    destination: str
    due_ms: int


class RetryPaced(NamedTuple):
    """A retry is due, but its queue may not emit more at the moment; its slot is at ``due_ms``."""

    id: bytes
    queue: str
    due_ms: int


class DeadLetterWritten(NamedTuple):
    """An escalated message was written to its ``-dlq`` topic."""

    id: bytes
    queue: str
    destination: str


class DeadLetterDelayed(NamedTuple):
    """A ``-dlq`` topic could not be written, for ``reason``; tried again at ``retry_ms``, or never (None)."""

    id: bytes
    queue: str
    destination: str
    reason: UnwrittenReason
    retry_ms: int | None


class EventIgnored(NamedTuple):
    """A failure or command had no effect on its message: a repeat, too late, or not meant for its status."""

    id: bytes
    queue: str
    kind: EventKind
    why: Ignored


class EventForwarded(NamedTuple):
    """A failure or command came on a partition that is not its message's and was passed on."""

    id: bytes
    kind: EventKind
    to_partition: int


class EventQuarantined(NamedTuple):
    """A record could not be understood and went to quarantine, whole; ``fault`` names the header or field, no value."""

    topic: str
    partition: int
    offset: int
    fault: str


class RowStuck(NamedTuple):
    """A timer could not process a message's row, which leaves the due index as it is; ``error`` is the raised class."""

    id: bytes
    queue: str
    reason: StuckReason
    error: str


Happening = (
    FailureStored
    | RetryEmitted
    | OutcomeTimedOut
    | MessageResolved
    | MessageEscalated
    | MessageRescheduled
    | MessageRedriven
    | MessagePurged
    | RetryPutOff
    | RetryPaced
    | DeadLetterWritten
    | DeadLetterDelayed
    | EventIgnored
    | EventForwarded
    | EventQuarantined
    | RowStuck
)
"""Any of them: what a listener is handed."""
