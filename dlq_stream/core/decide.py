"""Whether a failed message is retried, and when, or given up, and why: one decision, returned as a value.

A retry that was never heard of is decided like a failure, so whatever uses up a delivery uses up the allowance.  The
numbers are the worker's: no clock of a producer gets here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dlq_stream.core.backoff import backoff_ms
from dlq_stream.core.model import ErrorCategory
from dlq_stream.core.policy import RetryPolicy


class EscalationReason(StrEnum):
    """Why a message was given up; written to its ``-dlq`` record as ``dlq-escalation-reason``.

    * ``PERMANENT``: classified as an error that no retry cures.
    * ``RETRIES_EXHAUSTED``, ``BUDGET_EXHAUSTED``: the policy's number of retries or its time is used up.
    * ``OPERATOR``: somebody said so.
    * The rest: the retry's target, found unusable at emission: gone, not writable for us, not a legal name, compacted,
      too small for the record, not ours to write, or the brokers refuse this very record.
    """

    PERMANENT = "permanent"
    RETRIES_EXHAUSTED = "retries-exhausted"
    BUDGET_EXHAUSTED = "budget-exhausted"
    OPERATOR = "operator"
    MISSING = "missing"
    NOT_AUTHORISED = "not-authorised"
    INVALID_NAME = "invalid-name"
    COMPACTED = "compacted"
    TOO_LARGE = "too-large"
    FORBIDDEN = "forbidden"
    RECORD_REFUSED = "record-refused"


@dataclass(frozen=True, slots=True)
class Retry:
    """Schedule the next delivery for ``due_ms``, by the worker's clock."""

    due_ms: int


@dataclass(frozen=True, slots=True)
class Escalate:
    """Give the message up."""

    reason: EscalationReason


def decide(
    policy: RetryPolicy,
    category: ErrorCategory,
    *,
    attempt: int,
    attempt_base: int,
    now_ms: int,
    since_ms: int,
    chance: float = 0.0,
    retry_after_ms: int | None = None,
    error_types: Sequence[str] = (),
) -> Retry | Escalate:
    """What follows when delivery number ``attempt`` failed.

    ``attempt_base`` and ``since_ms`` say where the present allowance of retries began: 0 and the first failure, or
    the attempt and time of the latest redrive.  The next delivery is retry ``attempt - attempt_base + 1`` of it.
    ``retry_after_ms``, which the failure's reporter asked for, replaces the backoff but neither the number of retries
    nor the time budget.  ``chance`` is for jitter, see `dlq_stream.core.backoff.chance_of`.
    """
    if category is ErrorCategory.PERMANENT:
        return Escalate(EscalationReason.PERMANENT)
    policy = policy.for_error(error_types, category)
    retry = attempt - attempt_base + 1
    if retry > policy.max_retries:
        return Escalate(EscalationReason.RETRIES_EXHAUSTED)
    wait_ms = backoff_ms(policy, retry, chance) if retry_after_ms is None else retry_after_ms
    due_ms = now_ms + wait_ms
    if policy.budget_ms is not None and due_ms > since_ms + policy.budget_ms:
        return Escalate(EscalationReason.BUDGET_EXHAUSTED)
    return Retry(due_ms)
