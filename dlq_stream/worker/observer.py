"""Logs what the engine says happened; metrics will listen here too.

Nothing that a sender wrote is logged (`SENDERS_WORDS`): an event is told by its kind, the message's id, numbers, and
words of ours.  Each is told at level debug.

What somebody has to see to is told as a warning, too.  Whoever may send events could make a million of these, so of
each kind and reason the first is told at once, and how many more there were when `WARNING_SECONDS` are over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from dlq_stream.core.events import (
    SENDERS_WORDS,
    DeadLetterDelayed,
    EventQuarantined,
    Happening,
    RetryEmitted,
    RowStuck,
)

log = logging.getLogger("dlq_stream.events")

WARNING_SECONDS: Final = 60.0
"""An interval in which a kind of warning is told once, and summed up at its end."""

WARNINGS_MAX: Final = 64
"""Kinds and reasons that are told apart in an interval; what comes beyond it is summed up as ``other``."""

_WARNED: Final = (RowStuck, DeadLetterDelayed, EventQuarantined)
_Warned: TypeAlias = RowStuck | DeadLetterDelayed | EventQuarantined
_Kind: TypeAlias = tuple[type[_Warned], str]
"""An event's type and its reason."""

_TOLD: Final[dict[type[_Warned], str]] = {
    RowStuck: "a message is stuck until an operator retries, resolves or escalates it",
    DeadLetterDelayed: "an escalated message is not in its -dlq topic",
    EventQuarantined: "an event could not be understood and went to quarantine",
}
"""The events that are warnings, in words."""


class Observer:
    """The listener of an engine; `run` sums up.  ``emitted`` is told of every retry, too, and must be quick."""

    def __init__(self, emitted: Callable[[RetryEmitted], None] | None = None) -> None:
        self._emitted = emitted
        self._more: dict[_Kind, int] = {}

    def __call__(self, event: Happening) -> None:
        """Log one event; raises nothing."""
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s", type(event).__name__, extra={"fields": fields_of(event)})
        if isinstance(event, _WARNED):
            self._warn(event)
        elif self._emitted is not None and type(event) is RetryEmitted:
            self._emitted(event)

    async def run(self) -> None:
        """Sum up warnings until cancelled, and once more then."""
        try:
            while True:
                await asyncio.sleep(WARNING_SECONDS)
                self.sum_up()
        finally:
            self.sum_up()

    def sum_up(self) -> None:
        """Tell how many warnings there were beside those that were told, and begin a new interval."""
        counted, self._more = self._more, {}
        for (kind, reason), more in counted.items():
            if more:
                log.warning("%s", _TOLD[kind], extra={"fields": {"reason": reason, "more": more}})

    def _warn(self, event: _Warned) -> None:
        kind = type(event), event.fault if isinstance(event, EventQuarantined) else event.reason
        if kind not in self._more and len(self._more) < WARNINGS_MAX:
            self._more[kind] = 0
            log.warning("%s", _TOLD[kind[0]], extra={"fields": fields_of(event)})
            return
        if kind not in self._more:
            kind = kind[0], "other"
        self._more[kind] = self._more.get(kind, 0) + 1


def fields_of(event: Happening) -> dict[str, Any]:
    """What may be logged of an event: all but senders' words, the id as hex digits."""
    told = {name: value for name, value in event._asdict().items() if name not in SENDERS_WORDS and name != "id"}
    return told if isinstance(event, EventQuarantined) else {"message_id": event.id.hex(), **told}
