"""What the worker may write to, judged by name alone; what the brokers know of a topic is `Destination`'s part.

Whoever may write a failure event names the topic that its retries go to.  Without these rules he could write anywhere
through the worker, into Kafka's own topics or into our state.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from string import Formatter

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.shown import shown

DEAD_LETTER_SUFFIX = "-dlq"
RETRY_SUFFIX = "-retry"

RETRY_TOPIC_TEMPLATE = f"{{topic}}{RETRY_SUFFIX}"
"""Where retries go unless policy names another topic; see `retry_topic`."""

topic_chars_max = 249
"""Kafka's own limit on the length of a topic name; a longer one is not legal."""

verdicts_cached_max = 4_096
"""So many verdicts on names are remembered; at the bound the least recently used is worked out again."""

_LEGAL = re.compile(rf"[a-zA-Z0-9._-]{{1,{topic_chars_max}}}")
_TEMPLATE_FIELDS = frozenset(("topic", "group"))


def is_legal_topic(topic: str) -> bool:
    """Whether Kafka takes this name for a topic (``org.apache.kafka.common.internals.Topic``)."""
    return _LEGAL.fullmatch(topic) is not None and topic not in (".", "..")


def dead_letter_topic(topic: str) -> str:
    """Where what is given up goes: ``{topic}-dlq``."""
    return topic + DEAD_LETTER_SUFFIX


def retry_topic(template: str, topic: str, group: str) -> str:
    """A policy's template filled in; it was checked with the policy."""
    return template.format(topic=topic, group=group)


def refusal_of_name(topic: str, *, app_id: str, allowed: Sequence[str]) -> str | None:
    """Why failures of the original topic ``topic`` are not taken, as a sentence for people; None where they are.

    ``allowed`` are `fnmatch` patterns for original topics; their ``-dlq`` and retry topics follow.
    """
    return _refusal_of_original(topic, app_id, tuple(allowed))


def refusal_of_retry_topic(topic: str, original: str, *, app_id: str, allowed: Sequence[str]) -> str | None:
    """Why a retry topic that an event asks for is not written to; None where it is.

    It must be allowed in its own right or be named after its original topic (``{original}-...``): an event's author
    vouches for nothing.  A policy's retry topic is the operator's word and needs `refusal_of_target` only.
    """
    return _refusal_of_retry(topic, original, app_id, tuple(allowed))


def refusal_of_target(topic: str, *, app_id: str) -> str | None:
    """Why nothing is ever written to ``topic``, whoever says so; None where it may be."""
    if not is_legal_topic(topic):
        return f"{shown(topic)} is not a legal topic name"
    if topic.startswith("__"):
        return f"{shown(topic)} belongs to Kafka itself (its name starts with __)"
    if topic.startswith(f"{app_id}-"):
        return f"{shown(topic)} belongs to this application (its name starts with {app_id}-)"
    return None


def check_retry_topic_template(template: str) -> None:
    """Raise `ConfigurationError` unless the template makes a topic name with no fields but `topic` and `group`."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as wrong:
        raise ConfigurationError(f"retry_topic: {shown(template)} is not a template: {wrong}") from None
    for _, name, spec, conversion in parts:
        # Anything but a bare field could reach into the values' attributes or not be a name at all.
        if name is not None and (name not in _TEMPLATE_FIELDS or spec or conversion):
            raise ConfigurationError(
                f"retry_topic: {shown(template)} uses {{{name}}}; the fields are {{topic}} and {{group}}, plain"
            )
    if not is_legal_topic(template.format(topic="t", group="g")):
        raise ConfigurationError(
            f"retry_topic: {shown(template)} does not make a topic name; letters, digits, '.', '_' and '-' do"
        )


@lru_cache(verdicts_cached_max)
def _refusal_of_original(topic: str, app_id: str, allowed: tuple[str, ...]) -> str | None:
    refusal = refusal_of_target(topic, app_id=app_id)
    if refusal is not None:
        return refusal
    if topic.endswith((DEAD_LETTER_SUFFIX, RETRY_SUFFIX)):
        return f"{shown(topic)} is itself a dead-letter or retry topic; report its failures under the original topic"
    if not _is_allowed(topic, allowed):
        return f"{shown(topic)} matches none of the allowed topics ({', '.join(allowed)})"
    return None


@lru_cache(verdicts_cached_max)
def _refusal_of_retry(topic: str, original: str, app_id: str, allowed: tuple[str, ...]) -> str | None:
    refusal = refusal_of_target(topic, app_id=app_id)
    if refusal is not None:
        return refusal
    if topic.endswith(DEAD_LETTER_SUFFIX):
        return f"{shown(topic)} is a dead-letter topic; what is written there is never read again"
    if not topic.startswith(f"{original}-") and not _is_allowed(topic, allowed):
        return f"{shown(topic)} is neither named {original}-... nor one of the allowed topics ({', '.join(allowed)})"
    return None


def _is_allowed(topic: str, allowed: tuple[str, ...]) -> bool:
    return any(fnmatchcase(topic, pattern) for pattern in allowed)
