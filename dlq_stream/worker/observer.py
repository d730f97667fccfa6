"""Logs what the engine says happened; metrics will listen here too."""

from __future__ import annotations

import logging

log = logging.getLogger("dlq_stream.events")


def observe(event: object) -> None:
    """Log one event at debug; must not raise."""
    log.debug("%s", event)
