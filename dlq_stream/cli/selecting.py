"""The options that say which messages are meant, the same for every command that takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dlq_stream.cli.kinds import DURATION
from dlq_stream.cli.options import line_option
from dlq_stream.core.model import DLQMessageStatus
from dlq_stream.view.selection import Selection

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

STATUSES = tuple(status.value for status in DLQMessageStatus if status is not DLQMessageStatus.PURGED)
"""What a message that is there can be."""


def selection_options(function: FunctionT) -> FunctionT:
    """Add ``--queue --status --error-type --older-than``; `take_selection` makes a `Selection` of them."""
    for option in (
        line_option(
            "--older-than",
            type=DURATION,
            metavar="AGE",
            help="Only messages that failed first at least so long ago, like 90s, 2h or 1d12h.",
        ),
        line_option(
            "--error-type",
            "error_types",
            multiple=True,
            metavar="PATTERN",
            help="Only messages whose latest error is of this type, dotted or its class alone; * and ? stand for"
            " other letters. May be given several times.",
        ),
        line_option(
            "--status",
            "statuses",
            multiple=True,
            type=click.Choice(STATUSES, case_sensitive=False),
            help="Only messages in this status. May be given several times.",
        ),
        line_option(
            "--queue",
            "in_queues",
            multiple=True,
            metavar="PATTERN",
            help="Only messages of this queue; * and ? stand for other letters. May be given several times.",
        ),
    ):
        function = option(function)
    return function


def take_selection(options: dict[str, Any]) -> Selection:
    """The selection that a command's options ask for; takes them out of ``options``."""
    return Selection(
        queues=options.pop("in_queues"),
        statuses=frozenset(map(DLQMessageStatus, options.pop("statuses"))),
        error_types=options.pop("error_types"),
        older_than_ms=options.pop("older_than"),
    )
