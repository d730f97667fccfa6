"""Where retries go, found once per transaction and kind: what is known of a topic does not change within one."""

from __future__ import annotations

from typing import NamedTuple

from dlq_stream.core.decide import EscalationReason
from dlq_stream.core.policy import RetryPolicy
from dlq_stream.core.transaction import UNAVAILABLE, Destination
from dlq_stream.engine.targets import refusal_of, target_of
from dlq_stream.engine.turn import Turn
from dlq_stream.tables.messages import Message


class Route(NamedTuple):
    """Where retries of a kind go.  ``destination`` None: it has to be looked up first.

    ``away``: it does not answer at the moment.  ``unusable``: why nothing can be written there, and that in words.
    """

    policy: RetryPolicy
    target: str
    destination: Destination | None
    away: bool
    unusable: tuple[EscalationReason, str] | None

    @property
    def open(self) -> bool:
        """Whether a retry can be written now."""
        return self.destination is not None and not self.away and self.unusable is None


class Routes:
    """Those of one transaction."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._found: dict[tuple[str, str, str, str], Route] = {}

    def of(self, row: Message) -> Route:
        """The row's route."""
        kind = row.queue, row.group, row.origin_topic, row.retry_topic
        route = self._found.get(kind)
        if route is None:
            route = self._found[kind] = self._find(row)
        return route

    def _find(self, row: Message) -> Route:
        engine = self._turn.engine
        policy = engine.policies.for_queue(row.queue)
        target = target_of(row, policy)
        destination = self._turn.tx.destination(target)
        away = destination is not None and destination.refusal == UNAVAILABLE
        forbidden = refusal_of(row, target, engine)
        unusable = (EscalationReason.FORBIDDEN, forbidden) if forbidden else _unusable(destination, policy)
        return Route(policy, target, destination, away, unusable)


def _unusable(destination: Destination | None, policy: RetryPolicy) -> tuple[EscalationReason, str] | None:
    if destination is None:
        return None
    topic = destination.topic
    if destination.refusal is not None:
        try:
            return EscalationReason(destination.refusal), f"topic {topic}"
        except ValueError:
            return EscalationReason.RECORD_REFUSED, f"topic {topic}: {destination.refusal}"
    if destination.compacted and not policy.write_compacted:
        return EscalationReason.COMPACTED, f"topic {topic} is compacted: a retry would make an old value the latest"
    return None
