"""What became of orders, as it is said: a preview, a line for each message, a progress bar, a last line, or JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import click

from dlq_stream.cli.layout import duration, in_one_line

if TYPE_CHECKING:
    from dlq_stream.cli.ordering import Plan, Refused
    from dlq_stream.cli.orders import Request
    from dlq_stream.settings import Settings
    from dlq_stream.tables.messages import Message
    from dlq_stream.view.carrying import Case, Dispatch

SAMPLE: Final = 5
"""So many of the messages that a filter means are shown before it is asked."""

_SAID: Final = {
    "applied": "applied",
    "changed": "changed otherwise",
    "no_effect": "no effect",
    "unconfirmed": "not confirmed",
    "not_applicable": "not sent",
    "absent": "not sent",
    "not_sent": "not sent",
}
_WIDTH: Final = max(map(len, _SAID.values()))


def preview(settings: Settings, request: Request, plan: Plan) -> list[str]:
    """How many messages a filter means, and the first of them."""
    from dlq_stream.cli.rows import as_of_line, as_table

    answer, count = plan.answer, len(plan.cases)
    lines = [as_of_line(settings.app_id, answer.as_of), "", f"{len(answer)} fit, {request.action} is for {count}"]
    if plan.left:
        lines[-1] = f"{len(answer)} fit, {request.action} is for {count + plan.left}: the first {count} (--limit)"
    if plan.passed_over:
        counts = ", ".join(f"{status} {number}" for status, number in sorted(plan.passed_over.items()))
        lines[-1] += f"; not for {plan.passed_over.total()} ({counts})"
    if count:
        sample = [(case.order.id, case.before) for case in plan.cases[:SAMPLE]]
        lines += ["", *as_table(sample, answer.as_of.as_of_ms)]
        if count > SAMPLE:
            lines.append(f"... and {count - SAMPLE} more")
        lines.append("")
    return lines


class Board:
    """Says results as they come; on a terminal a progress bar stands there until all are known."""

    def __init__(self, request: Request, plan: Plan) -> None:
        self._request = request
        self._plan = plan
        self._bar: Any = None
        if not request.as_json:
            for each in plan.refused:
                click.echo(_line(each.message_id.hex(), each.outcome, each.why))

    def __enter__(self) -> Board:
        if sys.stderr.isatty():
            self._bar = click.progressbar(
                length=len(self._plan.cases), label=str(self._request.action), file=sys.stderr
            )
            self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)

    def settled(self, case: Case) -> None:
        """One more result is known."""
        if self._bar is not None:
            self._bar.update(1)
        elif not self._request.as_json:
            click.echo(_line_of(case))

    def conclude(self, settings: Settings, dispatch: Dispatch) -> None:
        """Say what there is left to say."""
        if self._request.as_json:
            click.echo(json.dumps(self._object(settings, dispatch), indent=2))
            return
        if self._request.dry_run:
            if self._request.ids:
                for case in dispatch.cases:
                    click.echo(_line(case.order.id.hex(), "not_sent", f"dry run; it is {_now(case.before)}"))
            click.echo(f"dry run: nothing was sent, {len(dispatch.cases)} would have been")
            return
        if self._bar is not None:
            for case in dispatch.cases:
                click.echo(_line_of(case))
        self.say_last(dispatch)

    def say_last(self, dispatch: Dispatch, *, err: bool = False) -> None:
        """How many of the orders came to what; on standard error where nobody reads the results."""
        if dispatch.cases:
            click.echo(_last_line(self._request, dispatch), err=err)

    def all_well(self, dispatch: Dispatch) -> bool:
        """Whether all that was asked for was done; what a filter met but is not for does not count."""
        if self._plan.refused:
            return False
        return self._request.dry_run or all(case.outcome == "applied" for case in dispatch.cases)

    def _object(self, settings: Settings, dispatch: Dispatch) -> dict[str, Any]:
        """Names and units are a contract: fields are added, never renamed.

        `rows.as_of_object`'s fields tell of the reading; ``matched`` counts what fits or is there, ``selected`` what
        the order was for, ``sent`` what was sent in ``sent_seconds``.  ``results`` has an object for each message
        selected, and for each id named that the order is not for: ``outcome`` is a `dlq_stream.view.orders.Outcome`;
        ``status``, ``revision`` and ``due_ms`` are the latest that was seen, null where the message is gone.
        """
        from dlq_stream.cli.rows import as_of_object

        found = [_result_of(case) for case in dispatch.cases]
        found += [_result_of_refused(each) for each in self._plan.refused]
        return {
            **as_of_object(settings.app_id, self._plan.answer.as_of),
            "action": self._request.action,
            "dry_run": self._request.dry_run,
            "matched": len(self._plan.answer),
            "selected": len(dispatch.cases),
            "sent": dispatch.sent,
            "sent_seconds": round(dispatch.seconds, 3),
            "counts": dict(sorted(Counter(str(each["outcome"]) for each in found).items())),
            "results": found,
        }


def _result_of(case: Case) -> dict[str, Any]:
    row = case.before if case.outcome in ("unconfirmed", "not_sent", "no_effect") else case.after
    return _result(case.order.id, case.outcome, case.before, row)


def _result_of_refused(refused: Refused) -> dict[str, Any]:
    return _result(refused.message_id, refused.outcome, refused.row, refused.row) | {"why": refused.why}


def _result(message_id: bytes, outcome: str, before: Message | None, row: Message | None) -> dict[str, Any]:
    return {
        "message_id": message_id.hex(),
        "outcome": outcome,
        "queue": before and before.queue,
        "status": row and row.status,
        "revision": row and row.revision,
        "due_ms": row and row.due_ms,
    }


def _line_of(case: Case) -> str:
    match case.outcome:
        case "applied" | "changed":
            said = f"now {_now(case.after)}"
        case "no_effect":
            said = f"the workers left it as it was: {_now(case.before)}"
        case "unconfirmed":
            said = "no worker has had the order yet"
        case _:
            said = "told to stop before"
    return _line(case.order.id.hex(), case.outcome, said)


def _line(message_id: str, outcome: str, said: str) -> str:
    return f"{message_id}  {_SAID[outcome]:<{_WIDTH}}  {in_one_line(said)}"


def _now(row: Message | None) -> str:
    return "gone" if row is None else f"{row.status}, attempt {row.attempt}, revision {row.revision}"


def _last_line(request: Request, dispatch: Dispatch) -> str:
    counts = Counter(case.outcome for case in dispatch.cases)
    said = ", ".join(f"{number} {_SAID[outcome]}" for outcome, number in sorted(counts.items()))
    # From the first to the last there is one pause less than orders.
    pace = f", {(dispatch.sent - 1) / dispatch.seconds:.1f} a second" if dispatch.sent > 1 and dispatch.seconds else ""
    line = f"{request.action}: {said}; sent {dispatch.sent} in {dispatch.seconds:.1f} s{pace}"
    if any(case.outcome == "unconfirmed" for case in dispatch.cases):
        waited = duration(request.confirm_seconds)
        line += (
            f"\nnothing was confirmed for {waited}: is a worker running? The orders stay in the commands topic and will"
            f" be obeyed, for messages that are then as they were seen"
        )
    return line
