"""The record that is being handled here and now, for whoever reports a failure from within a handler.

A context variable, so that it follows a handler through its awaits, its tasks and (by `contextvars.copy_context`) its
threads, and never leaks into the handler of the next record.

Whoever calls handlers sets it, and looks afterwards whether the handler has reported the record itself: then there is
nothing more to say of it, and least of all that it succeeded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from dlq_stream.client.records import AnyRecord


@dataclass(slots=True)
class Handling:
    """One run of a handler.  ``reported``: a report of this very record was acknowledged meanwhile."""

    record: AnyRecord
    reported: bool = False


_current: ContextVar[Handling | None] = ContextVar("dlq_stream_current_record", default=None)


def current_record() -> AnyRecord | None:
    """The record that the running handler was given; None outside one."""
    handled = _current.get()
    return None if handled is None else handled.record


def current_handling() -> Handling | None:
    """The run of a handler that this code is a part of; None outside one."""
    return _current.get()


@contextmanager
def handling(record: AnyRecord) -> Iterator[Handling]:
    """Make ``record`` the current one for the length of the block."""
    handled = Handling(record)
    token = _current.set(handled)
    try:
        yield handled
    finally:
        _current.reset(token)
