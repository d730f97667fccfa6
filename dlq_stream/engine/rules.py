"""What a queue makes of a failure: its category and what follows, looked up once per queue and batch.

Most failures of a batch are first failures of a few kinds.  Where neither jitter nor overrides by error can tell two of
a kind apart, what follows is decided once and remembered.
"""

from __future__ import annotations

from dlq_stream.core.backoff import chance_of
from dlq_stream.core.classification import Classifier, Decision
from dlq_stream.core.decide import Escalate, Retry, decide
from dlq_stream.core.headers import FailureEvent, FailureKind
from dlq_stream.core.model import ErrorCategory
from dlq_stream.core.policy import RetryPolicy
from dlq_stream.tables.messages import Message

BY_REPORTER = "as reported"
"""The deciding rule's name where the event itself said the category."""


class QueueRules:
    """The policy and the classification of one queue, at one instant."""

    __slots__ = ("_classifier", "_exact", "_first", "_now_ms", "booked_as", "policy")

    def __init__(self, policy: RetryPolicy, classifier: Classifier, booked_as: str, now_ms: int) -> None:
        self.policy = policy
        self.booked_as = booked_as
        self._classifier = classifier
        self._now_ms = now_ms
        self._exact = policy.jitter == "none" and not policy.by_error
        self._first: dict[ErrorCategory, Retry | Escalate] = {}

    def decided(self, kind: FailureKind) -> Decision | None:
        """What `classify` says of all failures of a kind; None where their messages have a say."""
        if kind.category is not None:
            return Decision(kind.category, BY_REPORTER)
        return self._classifier.decided(kind.types_and_cause)

    def classify(self, event: FailureEvent) -> Decision:
        """The category of the failure and the rule that decided."""
        kind = event.kind
        return self.decided(kind) or self._classifier.classify(kind.types_and_cause, event.error_message)

    def after_first(self, event: FailureEvent, category: ErrorCategory) -> Retry | Escalate:
        """What follows a failure of a message without a row: a whole allowance of retries, from its attempt on."""
        if not self._exact or event.retry_after_ms is not None:
            return self._decide(event, category, event.kind.attempt, self._now_ms)
        outcome = self._first.get(category)
        if outcome is None:
            outcome = self._first[category] = self._decide(event, category, event.kind.attempt, self._now_ms)
        return outcome

    def after_another(self, event: FailureEvent, category: ErrorCategory, row: Message) -> Retry | Escalate:
        """What follows a failure of the latest delivery of ``row``."""
        return self._decide(event, category, row.attempt_base, row.allowance_from_ms)

    def _decide(
        self, event: FailureEvent, category: ErrorCategory, attempt_base: int, since_ms: int
    ) -> Retry | Escalate:
        return decide(
            self.policy,
            category,
            attempt=event.kind.attempt,
            attempt_base=attempt_base,
            now_ms=self._now_ms,
            since_ms=since_ms,
            chance=0.0 if self._exact else chance_of(event.id, event.kind.attempt + 1),
            retry_after_ms=event.retry_after_ms,
            error_types=event.kind.types_and_cause,
        )
