"""Errors by whose fault it is: configuration, caller, message, broker.  Each names the thing, the value and the fix."""

from __future__ import annotations


class DLQError(Exception):
    """Base of all errors that this package raises on purpose."""


class ConfigurationError(DLQError):
    """A setting, a topic or a version does not fit; the text names it, its value and the fix."""


class NotAllowed(ConfigurationError):
    """The brokers let us in, but do not let us do this: ``operation`` (an ACL's) on the resource of this kind and name.

    Somebody has to grant it; waiting does not help.
    """

    def __init__(self, operation: str, kind: str, name: str) -> None:
        super().__init__(
            f"not allowed: {operation} on {kind} {name}; grant it to this client's user "
            "(`dlq-stream init --print-acls` lists what each role needs)"
        )
        self.operation = operation
        self.kind = kind
        self.name = name


class MalformedEvent(DLQError):
    """A failure event or command that cannot be understood; it is quarantined with this text as the reason."""


class UnsupportedFormat(DLQError):
    """A row was written by a newer, incompatible version of this package: upgrade this worker."""


class TooLarge(DLQError):
    """A record or row exceeds what its topic takes; raised when it is staged, before anything is sent."""


class Refused(DLQError):
    """The brokers refused this record (not its destination) for a reason that trying again does not cure."""


class BrokersUnavailable(DLQError):
    """No broker answered within the time allowed."""
