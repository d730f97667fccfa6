"""Backoff: the schedule, its cap, its jitter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.backoff import backoff_ms, chance_of
from dlq_stream.core.policy import Jitter, RetryPolicy, duration_ms_max

_policies = st.builds(
    RetryPolicy,
    initial_backoff_ms=st.integers(0, duration_ms_max),
    backoff_multiplier=st.floats(1, 1e308),
    max_backoff_ms=st.integers(0, duration_ms_max),
)
_chances = st.floats(0, 1, exclude_max=True)
_retries = st.integers(1, 10**9)


def test_the_default_schedule() -> None:
    """1, 5 and 25 minutes, then an hour for ever."""
    assert [backoff_ms(RetryPolicy(), retry) for retry in range(1, 7)] == [
        60_000,
        300_000,
        1_500_000,
        3_600_000,
        3_600_000,
        3_600_000,
    ]


@pytest.mark.parametrize("retry", [442, 1000, 10**9])
def test_large_retries_stay_at_the_cap(retry: int) -> None:
    """5 ** 441 is no float any more; that is no reason to fail."""
    assert backoff_ms(RetryPolicy(), retry) == 3_600_000
    assert backoff_ms(RetryPolicy(initial_backoff_ms=0), retry) == 0


def test_a_cap_below_the_initial_backoff_is_every_backoff() -> None:
    """The formula is a minimum, and nothing else."""
    policy = RetryPolicy(initial_backoff_ms=60_000, max_backoff_ms=5_000)
    assert [backoff_ms(policy, retry) for retry in (1, 2, 3)] == [5_000] * 3


@pytest.mark.parametrize("retry", [0, -1])
def test_the_first_retry_is_number_one(retry: int) -> None:
    """There is no retry number 0: that is the original delivery."""
    with pytest.raises(ValueError, match="retry"):
        backoff_ms(RetryPolicy(), retry)


@given(_policies, _retries, _retries)
def test_backoff_never_falls_and_never_exceeds_its_cap(policy: RetryPolicy, one: int, other: int) -> None:
    """Whatever the policy: later retries wait at least as long."""
    low, high = sorted((one, other))
    assert 0 <= backoff_ms(policy, low) <= backoff_ms(policy, high) <= policy.max_backoff_ms


@given(_policies, _retries, _chances, st.sampled_from(["full", "equal"]))
def test_jitter_stays_within_its_bounds(policy: RetryPolicy, retry: int, chance: float, jitter: Jitter) -> None:
    """Full: from nothing to the exact backoff; equal: from half of it."""
    exact = backoff_ms(policy, retry)
    spread = RetryPolicy(
        initial_backoff_ms=policy.initial_backoff_ms,
        backoff_multiplier=policy.backoff_multiplier,
        max_backoff_ms=policy.max_backoff_ms,
        jitter=jitter,
    )
    low = exact // 2 if jitter == "equal" else 0
    assert low <= backoff_ms(spread, retry, chance) <= exact


@given(_policies, _retries, _chances)
def test_without_jitter_chance_means_nothing(policy: RetryPolicy, retry: int, chance: float) -> None:
    """The schedule is exact by default."""
    assert backoff_ms(policy, retry, chance) == backoff_ms(policy, retry)


@pytest.mark.parametrize(("jitter", "expected"), [("full", 15_000), ("equal", 37_500)])
def test_a_quarter_of_chance(jitter: Jitter, expected: int) -> None:
    """A quarter of a minute; half a minute and a quarter of the other half."""
    assert backoff_ms(RetryPolicy(jitter=jitter), 1, 0.25) == expected


@given(st.binary(min_size=16, max_size=16), st.integers(0, 10**9))
def test_chance_is_derived(id_: bytes, attempt: int) -> None:
    """The same for the same message and attempt, and never quite one."""
    assert chance_of(id_, attempt) == chance_of(id_, attempt)
    assert 0 <= chance_of(id_, attempt) < 1


def test_chance_is_spread() -> None:
    """Ten buckets get about a tenth of the ids each, and the next attempt another chance."""
    chances = [chance_of(number.to_bytes(16, "big"), 1) for number in range(5000)]
    buckets = [sum(low / 10 <= chance < (low + 1) / 10 for chance in chances) for low in range(10)]
    assert all(400 < bucket < 600 for bucket in buckets)
    assert chance_of(bytes(16), 1) != chance_of(bytes(16), 2)
