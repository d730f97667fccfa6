"""One classification rule, checked when it exists, and how error types are named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.model import ErrorCategory
from dlq_stream.core.shown import shown

RuleKind = Literal["type", "text", "regex"]

pattern_chars_max = 1_000
"""A longer pattern is refused; its text is kept with every attempt that it decides."""


@dataclass(frozen=True, slots=True)
class Rule:
    """If ``pattern`` fits, the error is of ``category``.  Raises `ConfigurationError` for a rule that makes no sense.

    * ``type``: the name of one of the error's types, by class (``TimeoutError``) or dotted
      (``asyncpg.exceptions.DeadlockDetectedError``, ``java.net.SocketTimeoutException``); case matters.
    * ``text``: a piece of the error's message; case does not matter.
    * ``regex``: found anywhere in the error's message.
    """

    kind: RuleKind
    pattern: str
    category: ErrorCategory

    def __post_init__(self) -> None:
        if self.kind not in get_args(RuleKind):
            raise ConfigurationError(f"rule kind: {shown(self.kind)} is not one of {', '.join(get_args(RuleKind))}")
        if not 0 < len(self.pattern) <= pattern_chars_max:
            raise ConfigurationError(
                f"rule pattern: {shown(self.pattern)} is not a text of 1 to {pattern_chars_max} characters"
            )
        if type(self.category) is not ErrorCategory:  # a text that equals one is not the same everywhere
            raise ConfigurationError(f"rule category: {shown(self.category)} is not one of {', '.join(ErrorCategory)}")

    def __str__(self) -> str:
        return f"{self.kind} {self.pattern}"


def short_name(error_type: str) -> str:
    """The class name of a dotted one, without package and outer class: what people call it."""
    return error_type[max(error_type.rfind("."), error_type.rfind("$")) + 1 :]
