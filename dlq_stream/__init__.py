"""Dead-letter and retry system for Kafka.

Names are resolved on first use (PEP 562): this package is imported by other people's agents, and by every
`dlq-stream --version`, so importing it loads nothing but itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlq_stream.client import FailureReporter, Permanent, RetryAfter, RetryConsumer, SyncFailureReporter
    from dlq_stream.core.connection import Connection, Security
    from dlq_stream.core.model import DLQMessageStatus, ErrorCategory

    __version__: str

__all__ = [
    "Connection",
    "DLQMessageStatus",
    "ErrorCategory",
    "FailureReporter",
    "Permanent",
    "RetryAfter",
    "RetryConsumer",
    "Security",
    "SyncFailureReporter",
    "__version__",
]

_HOMES = {
    "Connection": "dlq_stream.core.connection",
    "DLQMessageStatus": "dlq_stream.core.model",
    "ErrorCategory": "dlq_stream.core.model",
    "FailureReporter": "dlq_stream.client",
    "Permanent": "dlq_stream.client",
    "RetryAfter": "dlq_stream.client",
    "RetryConsumer": "dlq_stream.client",
    "Security": "dlq_stream.core.connection",
    "SyncFailureReporter": "dlq_stream.client",
}


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives, once."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("dlq-stream")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Show the names that have not been used yet, too."""
    return sorted({*globals(), *__all__})
