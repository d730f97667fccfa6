"""The record that is being handled here and now, for whoever reports a failure from within a handler.

A context variable, so that it follows a handler through its awaits, its tasks and (by `contextvars.copy_context`) its
threads, and never leaks into the handler of the next record.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from dlq_stream.core.model import Record

_current: ContextVar[Record | None] = ContextVar("dlq_stream_current_record", default=None)


def current_record() -> Record | None:
    """The record that the running handler was given; None outside one."""
    return _current.get()


@contextmanager
def handling(record: Record) -> Iterator[None]:
    """Make ``record`` the current one for the length of the block."""
    token = _current.set(record)
    try:
        yield
    finally:
        _current.reset(token)
