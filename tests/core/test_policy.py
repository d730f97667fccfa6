"""Policies: checked when they exist, overridden per error, looked up per queue."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.model import ErrorCategory
from dlq_stream.core.policy import Override, Policies, RetryPolicy, duration_ms_max, retries_max, rules_max
from dlq_stream.core.rule import Rule

TRANSIENT, PERMANENT, UNKNOWN = ErrorCategory.TRANSIENT, ErrorCategory.PERMANENT, ErrorCategory.UNKNOWN


def test_defaults() -> None:
    """The defaults that settings and documentation promise."""
    policy = RetryPolicy()
    assert (policy.max_retries, policy.initial_backoff_ms, policy.backoff_multiplier) == (3, 60_000, 5)
    assert (policy.max_backoff_ms, policy.outcome_timeout_ms) == (3_600_000, 3_600_000)
    assert (policy.jitter, policy.budget_ms, policy.emit_to) == ("none", None, "source")
    assert (policy.retry_topic, policy.write_compacted, policy.rules) == ("{topic}-retry", False, ())
    assert policy.emit_per_second_max is None


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("max_retries", -1, "0 to 1000000"),
        ("max_retries", retries_max + 1, "0 to 1000000"),
        ("max_retries", True, "whole number"),
        ("max_retries", 3.0, "whole number"),
        ("initial_backoff_ms", -1, "from 0"),
        ("initial_backoff_ms", duration_ms_max + 1, "from 0"),
        ("max_backoff_ms", -1, "from 0"),
        ("max_backoff_ms", "1", "from 0"),
        ("outcome_timeout_ms", 0, "from 1"),
        ("budget_ms", 0, "from 1"),
        ("budget_ms", False, "from 1"),
        ("backoff_multiplier", 0.5, "at least 1"),
        ("backoff_multiplier", math.inf, "finite"),
        ("backoff_multiplier", math.nan, "finite"),
        ("backoff_multiplier", True, "at least 1"),
        ("backoff_multiplier", "5", "at least 1"),
        ("emit_per_second_max", 0, "0.001 to 1e+06"),
        ("emit_per_second_max", math.nan, "0.001 to 1e+06"),
        ("emit_per_second_max", True, "0.001 to 1e+06"),
        ("emit_per_second_max", "5", "0.001 to 1e+06"),
        ("jitter", "some", "none, full, equal"),
        ("emit_to", "sink", "source, retry"),
        ("retry_topic", "{topic", "template"),
        ("retry_topic", "{topic.__class__}", "fields are {topic} and {group}"),
        ("retry_topic", "{topic!r}", "plain"),
        ("retry_topic", "{topic:>9}", "plain"),
        ("retry_topic", "{}", "fields are"),
        ("retry_topic", "{app}-retry", "fields are"),
        ("retry_topic", "{topic} retry", "topic name"),
        ("retry_topic", "{topic}-{{x}}", "topic name"),
        ("retry_topic", "", "topic name"),
    ],
)
def test_what_makes_no_sense_is_refused(field: str, value: Any, allowed: str) -> None:
    """The error names the field, the value and what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        RetryPolicy(**{field: value})
    text = str(caught.value)
    assert text.startswith(f"{field}: ")
    assert repr(value) in text
    assert allowed in text


def test_too_many_rules_are_refused() -> None:
    """Every unknown error would be compared with all of them."""
    with pytest.raises(ConfigurationError, match="rules: 1001"):
        RetryPolicy(rules=(Rule("type", "E", UNKNOWN),) * (rules_max + 1))


POLICY = RetryPolicy(
    by_error={
        "unknown": Override(max_retries=1),
        "transient": Override(max_retries=10),
        "TimeoutError": Override(initial_backoff_ms=5, jitter="full"),
        "app.Busy": Override(backoff_multiplier=1, max_backoff_ms=7, budget_ms=9),
    }
)


@pytest.mark.parametrize(
    ("types", "category", "changed"),
    [
        (["app.Busy", "TimeoutError"], TRANSIENT, {"backoff_multiplier": 1, "max_backoff_ms": 7, "budget_ms": 9}),
        (["asyncio.TimeoutError", "app.Busy"], TRANSIENT, {"initial_backoff_ms": 5, "jitter": "full"}),
        (["Other$TimeoutError"], UNKNOWN, {"initial_backoff_ms": 5, "jitter": "full"}),
        (["other.Busy"], TRANSIENT, {"max_retries": 10}),
        ([], UNKNOWN, {"max_retries": 1}),
        (["X"], PERMANENT, {}),
    ],
)
def test_overrides_by_error(types: list[str], category: ErrorCategory, changed: dict[str, Any]) -> None:
    """The most specific type that is listed counts, then the category; the rest stays the queue's."""
    found = POLICY.for_error(types, category)
    for field in ("max_retries", "initial_backoff_ms", "backoff_multiplier", "max_backoff_ms", "jitter", "budget_ms"):
        assert getattr(found, field) == changed.get(field, getattr(POLICY, field))


def test_without_overrides_the_policy_is_itself() -> None:
    """The usual case costs nothing."""
    policy = RetryPolicy()
    assert policy.for_error(["TimeoutError"], TRANSIENT) is policy


@pytest.mark.parametrize("error", ["", "permanent"])
def test_what_cannot_be_overridden(error: str) -> None:
    """A permanent error is never retried, so an override would be a promise not kept."""
    with pytest.raises(ConfigurationError, match=r"by_error: .* cannot be overridden"):
        RetryPolicy(by_error={error: Override(max_retries=1)})


def test_an_override_that_makes_no_sense_is_refused() -> None:
    """The error leads to the field."""
    with pytest.raises(ConfigurationError, match=r"by_error\['X'\]\.max_retries: -1 is not a whole number"):
        RetryPolicy(by_error={"X": Override(max_retries=-1)})


def test_policies_by_queue() -> None:
    """A queue's own policy, or the default."""
    own = RetryPolicy(max_retries=0)
    policies = Policies(by_queue={"heat": own})
    assert policies.for_queue("heat") is own
    assert policies.for_queue("other") is policies.default
    assert policies.default == RetryPolicy()
