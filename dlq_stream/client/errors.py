"""Errors of those who call: the reporter was not started, or was handed something that is not a record as read."""

from __future__ import annotations

from dlq_stream.core.errors import DLQError


class NotStarted(DLQError, RuntimeError):
    """The reporter is used outside ``async with`` (or before `start`, or after `stop`)."""


class UnusableRecord(DLQError, TypeError):
    """The record's key, value or headers are not the bytes that were read, so it could not be kept untouched."""
