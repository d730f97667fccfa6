"""What callers are told (`NotStarted`, `UnusableRecord`), and what handlers may raise to overrule policy.

A handler that knows more about its failure than its type says raises `Permanent` or `RetryAfter`, from the error that
it caught: ``raise RetryAfter(30, "busy") from error``.  People see that error then, behind the reason.  As a cause of
another error they say nothing: whoever raised that one has decided otherwise.
"""

from __future__ import annotations

import math

from dlq_stream.core.errors import DLQError


class NotStarted(DLQError, RuntimeError):
    """The reporter is used outside ``async with`` (or before `start`, or after `stop`)."""


class UnusableRecord(DLQError, TypeError):
    """The record's key, value or headers are not the bytes that were read, so it could not be kept untouched."""


class Permanent(Exception):
    """No retry helps: the message is given up at once, whatever its queue's policy and rules say."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class RetryAfter(Exception):
    """The next retry is due ``seconds`` (fractions allowed) after the worker sees this, whatever the backoff would be.

    It is worth a retry, whatever classification would say of the error behind it; the number of retries and the time
    budget stay what policy says, and more than a year is cut to that.  Raises ValueError where ``seconds`` is negative
    or not finite.
    """

    def __init__(self, seconds: float, reason: str = "") -> None:
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"RetryAfter: {seconds!r} is not a number of seconds from 0 on")
        super().__init__(reason or f"retry after {seconds:g} s")
        self.seconds = seconds
        self.reason = reason
