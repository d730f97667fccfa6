"""Where the retries of a message go, and whether its name alone forbids that."""

from __future__ import annotations

from dlq_stream.core.destinations import refusal_of_name, refusal_of_retry_topic, refusal_of_target, retry_topic
from dlq_stream.core.policy import RetryPolicy
from dlq_stream.engine.context import Engine
from dlq_stream.tables.messages import Message


def target_of(row: Message, policy: RetryPolicy) -> str:
    """The topic that retries are written to: the message's own retry topic, the queue's, or where it came from."""
    if row.retry_topic:
        return row.retry_topic
    if policy.emit_to == "retry":
        return retry_topic(policy.retry_topic, row.origin_topic, row.group)
    return row.origin_topic


def refusal_of(row: Message, target: str, engine: Engine) -> str | None:
    """Why the names forbid writing to ``target``; None where they do not.

    Intake asked the same; but settings change between a message's failure and its retry.
    """
    refusal = refusal_of_name(row.origin_topic, app_id=engine.app_id, allowed=engine.allowed_topics)
    if refusal is not None or target == row.origin_topic:
        return refusal
    if row.retry_topic:
        return refusal_of_retry_topic(target, row.origin_topic, app_id=engine.app_id, allowed=engine.allowed_topics)
    return refusal_of_target(target, app_id=engine.app_id)
