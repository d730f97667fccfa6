"""What an order would do, before it is given: which messages, and which of them it cannot be given for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

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
    left: int
    """How many more it could be sent for, beyond the limit."""
    refused: list[Refused]
    """Messages that were named and are not sent an order."""
    passed_over: Counter[str]
    """Messages that fit a filter and are not in a status that the order is for, by status."""


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
    plan = Plan(answer, [], 0, [], Counter())
    cases, refused, left = plan.cases, plan.refused, 0
    limit = ORDERS_MAX + 1 if request.limit is None else request.limit
    for id_, row in answer:
        order = Order(id_, request.action, row.revision, request.reason, request.by, due_at)
        why = why_not_applicable(order, row)
        if why is None and len(cases) < limit:
            cases.append(Case(order, row))
        elif why is None:
            left += 1
        elif request.ids:
            refused.append(Refused(id_, Outcome.NOT_APPLICABLE, row, why))
        else:
            plan.passed_over[str(row.status)] += 1
    if len(cases) > ORDERS_MAX:
        raise ConfigurationError(
            f"{len(cases) + left:,} messages at once are too many; --limit {ORDERS_MAX} takes the first {ORDERS_MAX:,}"
        )
    there = {each.message_id for each in refused} | {case.order.id for case in cases}
    refused += [
        Refused(id_, Outcome.ABSENT, None, "there is no such message; it was never reported here, or purged")
        for id_ in request.ids
        if id_ not in there
    ]
    return replace(plan, left=left)
