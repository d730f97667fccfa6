"""What a settings file says per queue, and how it becomes a retry policy.

    [queues."heat-processing"]
    max_retries = 5
    emit_to = "retry"
    rules = [
      { type = "SensorBusy", category = "transient" },
      { text = "calibration", category = "permanent" },
      { regex = "^E[0-9]{4}", category = "permanent" },
    ]

    [queues."heat-processing".by_error.ConnectionResetError]    # an error type, "transient" or "unknown"
    initial_backoff_seconds = 5

What a queue leaves out, it takes from the top level of the file (or the environment, or the option, or the default).
Rules are asked in order, the queue's before the top level's, and the built-in ones last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.model import ErrorCategory
from dlq_stream.core.policy import Override, Policies, RetryPolicy
from dlq_stream.core.rule import Rule


class _Part(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid", frozen=True)


class RuleSettings(_Part):
    """One rule of classification: exactly one of ``type``, ``text`` and ``regex``, and the category it decides."""

    type: str | None = Field(None, min_length=1)
    """Class name or dotted name of the error or of any of its base classes."""

    text: str | None = Field(None, min_length=1)
    """Part of the error message, in any case."""

    regex: str | None = Field(None, min_length=1)
    """Regular expression (RE2 syntax) found in the error message."""

    category: ErrorCategory
    """What the error is then: transient, permanent or unknown."""

    @field_validator("category", mode="before")
    @classmethod
    def _lower_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> RuleSettings:
        if sum(pattern is not None for pattern in (self.type, self.text, self.regex)) != 1:
            raise ValueError("a rule has exactly one of type, text and regex")
        return self

    def rule(self) -> Rule:
        """The rule as classification wants it."""
        if self.type is not None:
            return Rule("type", self.type, self.category)
        if self.text is not None:
            return Rule("text", self.text, self.category)
        assert self.regex is not None
        return Rule("regex", self.regex, self.category)


class BackoffSettings(_Part):
    """How often and when to retry; what is left out is inherited."""

    max_retries: int | None = Field(None, ge=0, le=10_000)
    """Retries before giving up; 0 escalates at once."""

    initial_backoff_seconds: float | None = Field(None, ge=0, le=31_536_000, allow_inf_nan=False)
    """Seconds before the first retry."""

    backoff_multiplier: float | None = Field(None, ge=1, le=1000, allow_inf_nan=False)
    """Factor from one wait to the next."""

    max_backoff_seconds: float | None = Field(None, ge=0, le=31_536_000, allow_inf_nan=False)
    """Longest wait in seconds."""

    jitter: Literal["none", "full", "equal"] | None = None
    """Spread of the waits."""

    budget_seconds: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Seconds from the first failure after which no further retry is scheduled."""

    def override(self) -> Override:
        """What is set here, as a policy wants it."""
        return Override(**_in_milliseconds(self.model_dump(include=set(BackoffSettings.model_fields))))


class QueueSettings(BackoffSettings):
    """Retry settings of one queue; a queue is the original topic unless the failure event names another."""

    outcome_timeout_seconds: float | None = Field(None, gt=0, le=31_536_000, allow_inf_nan=False)
    """Seconds to wait for a retry's outcome."""

    emit_to: Literal["source", "retry"] | None = None
    """Where retries go."""

    retry_topic: str | None = Field(None, min_length=1, max_length=249)
    """Name of the retry topic; {topic} and {group} are replaced."""

    write_compacted: bool | None = None
    """Also retry to compacted topics."""

    emit_per_second_max: float | None = Field(None, ge=0.001, le=1_000_000, allow_inf_nan=False)
    """Most retries of the queue per second, by all workers together."""

    rules: tuple[RuleSettings, ...] = ()
    """Classification rules, asked before the top level's and the built-in ones."""

    by_error: dict[str, BackoffSettings] = {}
    """Exceptions for one error type (class name or dotted name) or one category (transient, unknown)."""

    def policy(self, default: RetryPolicy) -> RetryPolicy:
        """The queue's policy: what is set here, the rest from ``default``."""
        scalars = set(QueueSettings.model_fields) - {"rules", "by_error"}
        changes = _in_milliseconds(self.model_dump(include=scalars, exclude_none=True))
        if self.rules:
            changes["rules"] = tuple(rule.rule() for rule in self.rules) + default.rules
        if self.by_error:
            own = {error: part.override() for error, part in self.by_error.items()}
            changes["by_error"] = own | {error: part for error, part in default.by_error.items() if error not in own}
        return replace(default, **changes)


def policies_of(
    defaults: Mapping[str, Any],
    rules: Sequence[RuleSettings],
    by_error: Mapping[str, BackoffSettings],
    queues: Mapping[str, QueueSettings],
) -> Policies:
    """All policies.  Raises ConfigurationError that names the queue whose values do not fit together."""
    default = RetryPolicy(
        **_in_milliseconds(defaults),
        rules=tuple(rule.rule() for rule in rules),
        by_error={error: part.override() for error, part in by_error.items()},
    )
    policies = {}
    for queue, settings in queues.items():
        try:
            policies[queue] = settings.policy(default)
        except ConfigurationError as error:
            raise ConfigurationError(f'queues."{queue}".{error}') from error
    return Policies(default, policies)


_MS_MAX = 2.0**62
"""More than any policy takes; what is beyond it could be beyond what a float counts, in milliseconds."""


def _in_milliseconds(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with ``*_seconds`` as whole ``*_ms``; nothing above zero becomes zero, and nothing is too large here."""
    converted = {}
    for name, value in values.items():
        if name.endswith("_seconds"):
            milliseconds = None if value is None else max(round(min(value * 1000, _MS_MAX)), 1 if value > 0 else 0)
            converted[name.removesuffix("_seconds") + "_ms"] = milliseconds
        else:
            converted[name] = value
    return converted
