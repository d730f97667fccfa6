"""The decision: retry when, or give up why."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.decide import Escalate, EscalationReason, Retry, decide
from dlq_stream.core.model import ErrorCategory
from dlq_stream.core.policy import Override, RetryPolicy

NOW = 1_700_000_000_000
UNKNOWN = ErrorCategory.UNKNOWN


def decided(policy: RetryPolicy | None = None, category: ErrorCategory = UNKNOWN, **given: Any) -> Retry | Escalate:
    known = {"attempt": 0, "attempt_base": 0, "now_ms": NOW, "since_ms": NOW}
    return decide(policy or RetryPolicy(), category, **(known | given))


def test_a_message_that_never_succeeds() -> None:
    """Retries after 1, 5 and 25 minutes; the fourth failure ends it."""
    assert [decided(attempt=attempt) for attempt in range(4)] == [
        Retry(NOW + 60_000),
        Retry(NOW + 300_000),
        Retry(NOW + 1_500_000),
        Escalate(EscalationReason.RETRIES_EXHAUSTED),
    ]


def test_a_redrive_starts_a_fresh_allowance() -> None:
    """Attempts go on, the count of retries starts again at the base: the redrive itself is the first."""
    assert [decided(attempt=attempt, attempt_base=7) for attempt in range(8, 11)] == [
        Retry(NOW + 300_000),
        Retry(NOW + 1_500_000),
        Escalate(EscalationReason.RETRIES_EXHAUSTED),
    ]


def test_a_permanent_error_is_given_up_at_once() -> None:
    """Whatever the policy and the reporter say."""
    given_up = decided(RetryPolicy(max_retries=9), ErrorCategory.PERMANENT, retry_after_ms=1)
    assert given_up == Escalate(EscalationReason.PERMANENT)


@pytest.mark.parametrize("category", [UNKNOWN, ErrorCategory.TRANSIENT])
def test_what_is_not_permanent_is_retried(category: ErrorCategory) -> None:
    """Unknown errors are given the benefit of the doubt."""
    assert decided(category=category) == Retry(NOW + 60_000)


def test_a_policy_without_retries() -> None:
    """0 retries escalate at the first failure."""
    assert decided(RetryPolicy(max_retries=0)) == Escalate(EscalationReason.RETRIES_EXHAUSTED)


def test_retry_after_replaces_the_backoff() -> None:
    """Above the cap, too, and down to nothing; jitter does not touch it."""
    policy = RetryPolicy(jitter="full")
    assert decided(policy, retry_after_ms=7_200_000, chance=0.5) == Retry(NOW + 7_200_000)
    assert decided(policy, retry_after_ms=0, chance=0.5) == Retry(NOW)


def test_retry_after_does_not_replace_the_number_of_retries() -> None:
    """A reporter cannot ask for more than the policy allows."""
    assert decided(attempt=3, retry_after_ms=1) == Escalate(EscalationReason.RETRIES_EXHAUSTED)


@pytest.mark.parametrize(
    ("since_ms", "expected"),
    [
        (NOW - 40_000, Retry(NOW + 60_000)),
        (NOW - 40_001, Escalate(EscalationReason.BUDGET_EXHAUSTED)),
    ],
)
def test_the_time_budget_counts_up_to_the_retry(since_ms: int, expected: Retry | Escalate) -> None:
    """A retry that would be due after the budget's end is not made."""
    assert decided(RetryPolicy(budget_ms=100_000), since_ms=since_ms) == expected


def test_the_budget_holds_for_retry_after() -> None:
    """A reporter cannot ask for more time, either."""
    found = decided(RetryPolicy(budget_ms=100_000), retry_after_ms=100_001)
    assert found == Escalate(EscalationReason.BUDGET_EXHAUSTED)


def test_jitter_takes_the_chance_given() -> None:
    """Half a minute, by half a chance."""
    assert decided(RetryPolicy(jitter="full"), chance=0.5) == Retry(NOW + 30_000)


def test_overrides_by_error_apply() -> None:
    """The error's own number of retries and backoff decide."""
    policy = RetryPolicy(by_error={"Busy": Override(max_retries=5, initial_backoff_ms=10, backoff_multiplier=1)})
    assert decided(policy, attempt=4, error_types=["app.Busy"]) == Retry(NOW + 10)
    assert decided(policy, attempt=4) == Escalate(EscalationReason.RETRIES_EXHAUSTED)


@given(
    attempt=st.integers(0, 50),
    base=st.integers(0, 50),
    max_retries=st.integers(0, 60),
    category=st.sampled_from(ErrorCategory),
    now_ms=st.integers(0, 2**41),
    retry_after_ms=st.none() | st.integers(0, 10**9),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_never_early_and_never_more_than_allowed(
    attempt: int,
    base: int,
    max_retries: int,
    category: ErrorCategory,
    now_ms: int,
    retry_after_ms: int | None,
    chance: float,
) -> None:
    """A retry is due no earlier than now, and only while the allowance lasts."""
    base = min(base, attempt)
    policy = RetryPolicy(max_retries=max_retries, jitter="equal")
    found = decided(
        policy,
        category,
        attempt=attempt,
        attempt_base=base,
        now_ms=now_ms,
        retry_after_ms=retry_after_ms,
        chance=chance,
    )
    allowed = category is not ErrorCategory.PERMANENT and attempt - base < max_retries
    assert isinstance(found, Retry) == allowed
    assert not isinstance(found, Retry) or found.due_ms >= now_ms
