"""What an order would do, before it is given: which messages, and which of them it cannot be given for."""

from __future__ import annotations

from dataclasses import dataclass

from dlq_stream.cli.orders import Request
from dlq_stream.core.commands import Action, Order
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.settings import Settings
from dlq_stream.tables import messages
from dlq_stream.tables.messages import Message
from dlq_stream.view.app import now_ms, open_app
from dlq_stream.view.carrying import ORDERS_MAX, Case
from dlq_stream.view.messages import Answer, read_by_id, read_selected
from dlq_stream.view.orders import Outcome, why_not_applicable


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that the order is not sent for, and why."""

    message_id: bytes
    outcome: Outcome
    row: Message | None
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be sent, and what not."""

    answer: Answer
    cases: list[Case]
    refused: list[Refused]
    left: int
    """How many more it could be sent for, beyond the limit."""


async def look(settings: Settings, request: Request) -> Plan:
    """Read the messages that are meant, and make an order for each that it applies to."""
    async with open_app(settings, messages.TABLE.changelog(settings.app_id)) as app:
        if request.ids:
            answer = await read_by_id(app, request.ids)
        else:
            answer = await read_selected(app, request.selection)
    return plan_of(request, answer, now_ms())


def plan_of(request: Request, answer: Answer, at_ms: int) -> Plan:
    """The orders for what was read.  Raises ConfigurationError where they are more than `ORDERS_MAX`."""
    due_at = request.at_ms
    if request.action is Action.RESCHEDULE and due_at is None:
        due_at = at_ms + (request.in_ms or 0)
    cases, refused = [], []
    for id_, row in answer.rows:
        order = Order(id_, request.action, row.revision, request.reason, request.by, due_at)
        why = why_not_applicable(order, row)
        if why is None:
            cases.append(Case(order, row))
        else:
            refused.append(Refused(id_, Outcome.NOT_APPLICABLE, row, why))
    there = {id_ for id_, _ in answer.rows}
    refused += [
        Refused(id_, Outcome.ABSENT, None, "there is no such message; it was never reported here, or purged")
        for id_ in request.ids
        if id_ not in there
    ]
    chosen = cases[: request.limit]
    if len(chosen) > ORDERS_MAX:
        raise ConfigurationError(
            f"{len(chosen):,} messages at once are too many; --limit {ORDERS_MAX} takes the first {ORDERS_MAX:,}"
        )
    return Plan(answer, chosen, refused, len(cases) - len(chosen))
