"""Commands that run in the tests' own process set logging up for themselves; what comes after shall not notice."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from dlq_stream.logs import THEIRS


@contextmanager
def logging_as_it_was() -> Iterator[None]:
    """Put handlers and levels back at the end; else the next test would not hear its warnings."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    theirs = {name: logging.getLogger(name).level for name in THEIRS}
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
        for name, before in theirs.items():
            logging.getLogger(name).setLevel(before)
        logging.captureWarnings(False)
