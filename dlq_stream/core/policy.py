"""What a queue does with its failures: how often, how long apart, where to, and what its errors mean.

A policy is a value that has been checked when it exists: whoever holds one need not ask again.  Where it comes from
(settings today, a topic later) is not known here, so durations are whole milliseconds and errors name these fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, get_args

from dlq_stream.core.destinations import RETRY_TOPIC_TEMPLATE, check_retry_topic_template
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.model import ErrorCategory
from dlq_stream.core.rule import Rule, short_name
from dlq_stream.core.shown import shown

Jitter = Literal["none", "full", "equal"]
EmitTo = Literal["source", "retry"]

retries_max = 1_000_000
"""More retries than this are a mistake; a policy that asks for them is refused."""

duration_ms_max = 10 * 366 * 86_400_000
"""Ten years.  A longer backoff, budget or time-out is a mistake in units; a policy that asks for it is refused."""

rules_max = 1_000
"""More classification rules than this per queue are refused: each unknown error would be compared with all of them."""


rate_min = 0.001
rate_max = 1_000_000.0
"""Limits per second below or beyond this are a mistake; a policy that asks for them is refused."""


@dataclass(frozen=True, slots=True)
class Override:
    """What differs from the queue's policy for some of its errors; None means as the queue."""

    max_retries: int | None = None
    initial_backoff_ms: int | None = None
    backoff_multiplier: float | None = None
    max_backoff_ms: int | None = None
    jitter: Jitter | None = None
    budget_ms: int | None = None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How failures of a queue are retried.  Raises `ConfigurationError` for a value that makes no sense.

    * ``max_retries``: retries before the message is escalated; 0 escalates at the first failure.
    * ``initial_backoff_ms``, ``backoff_multiplier``, ``max_backoff_ms``, ``jitter``: see `dlq_stream.core.backoff`;
      a maximum below the initial backoff is the backoff of every retry.
    * ``budget_ms``: no retry is scheduled later than this after the first failure (or the redrive); None: no limit.
    * ``outcome_timeout_ms``: how long an emitted retry may go without an outcome.
    * ``emit_to``: ``source`` retries in the original topic, ``retry`` in ``retry_topic``, a template with the fields
      ``{topic}`` and ``{group}``.
    * ``write_compacted``: retry into compacted topics too, where a retry makes an old value the latest of its key.
    * ``emit_per_second_max``: at most so many retries of the queue per second, see `dlq_stream.core.pace`; None: no
      limit.
    * ``rules``: classification rules, tried in order and before the default ones.
    * ``by_error``: overrides by error type (class name or dotted name, base classes included) or by category
      (``transient``, ``unknown``); the first of an error's types that is listed counts, then its category.
    """

    max_retries: int = 3
    initial_backoff_ms: int = 60_000
    backoff_multiplier: float = 5.0
    max_backoff_ms: int = 3_600_000
    jitter: Jitter = "none"
    budget_ms: int | None = None
    outcome_timeout_ms: int = 3_600_000
    emit_to: EmitTo = "source"
    retry_topic: str = RETRY_TOPIC_TEMPLATE
    write_compacted: bool = False
    emit_per_second_max: float | None = None
    rules: tuple[Rule, ...] = ()
    by_error: Mapping[str, Override] = field(default_factory=dict)
    _merged: Mapping[str, RetryPolicy] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _whole("max_retries", self.max_retries, 0, retries_max)
        _whole("initial_backoff_ms", self.initial_backoff_ms, 0, duration_ms_max)
        _whole("max_backoff_ms", self.max_backoff_ms, 0, duration_ms_max)
        _whole("outcome_timeout_ms", self.outcome_timeout_ms, 1, duration_ms_max)
        if self.budget_ms is not None:
            _whole("budget_ms", self.budget_ms, 1, duration_ms_max)
        _multiplier(self.backoff_multiplier)
        _one_of("jitter", self.jitter, get_args(Jitter))
        _one_of("emit_to", self.emit_to, get_args(EmitTo))
        check_retry_topic_template(self.retry_topic)
        if self.emit_per_second_max is not None:
            _rate("emit_per_second_max", self.emit_per_second_max)
        if len(self.rules) > rules_max:
            raise ConfigurationError(f"rules: {len(self.rules)} given, at most {rules_max} are allowed")
        object.__setattr__(self, "_merged", self._merge())

    def _merge(self) -> Mapping[str, RetryPolicy]:
        merged = {}
        for error, override in self.by_error.items():
            if not error or error == ErrorCategory.PERMANENT:
                raise ConfigurationError(
                    f"by_error: {shown(error)} cannot be overridden; name an error type, 'transient' or 'unknown' "
                    "(a permanent error is never retried: classify it differently instead)"
                )
            changes = {f.name: getattr(override, f.name) for f in fields(override)}
            try:
                merged[error] = replace(self, by_error={}, **{k: v for k, v in changes.items() if v is not None})
            except ConfigurationError as wrong:
                raise ConfigurationError(f"by_error[{shown(error)}].{wrong}") from None
        return merged

    def for_error(self, error_types: Sequence[str], category: ErrorCategory) -> RetryPolicy:
        """This policy with the overrides that apply to an error of these types, most specific first, and category."""
        if not self._merged:
            return self
        for error_type in error_types:
            found = self._merged.get(error_type) or self._merged.get(short_name(error_type))
            if found is not None:
                return found
        return self._merged.get(category, self)


@dataclass(frozen=True, slots=True)
class Policies:
    """The policy of every queue: its own where one is given, else the default."""

    default: RetryPolicy = field(default_factory=RetryPolicy)
    by_queue: Mapping[str, RetryPolicy] = field(default_factory=dict)

    def for_queue(self, queue: str) -> RetryPolicy:
        """The policy that decides about failures of ``queue``."""
        return self.by_queue.get(queue, self.default)


def _whole(name: str, value: int, low: int, high: int) -> None:
    # A bool is an int to Python, and settings files are typed by hand.
    if type(value) is not int or not low <= value <= high:
        raise ConfigurationError(f"{name}: {shown(value)} is not a whole number from {low} to {high}")


def _multiplier(value: float) -> None:
    if type(value) not in (int, float) or not math.isfinite(value) or value < 1:
        raise ConfigurationError(f"backoff_multiplier: {shown(value)} is not a finite number of at least 1")


def _rate(name: str, value: float) -> None:
    if type(value) not in (int, float) or not rate_min <= value <= rate_max:  # a NaN is in no range
        raise ConfigurationError(f"{name}: {shown(value)} is not a number from {rate_min:g} to {rate_max:g}")


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{name}: {shown(value)} is not one of {', '.join(allowed)}")
