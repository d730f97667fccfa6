"""Destinations: names that the worker never writes to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.destinations import (
    dead_letter_topic,
    is_legal_topic,
    refusal_of_name,
    refusal_of_retry_topic,
    refusal_of_target,
    retry_topic,
)

APP = "dlq-stream"


@pytest.mark.parametrize("topic", ["heat", "heat-processing", "a.b_c-D9", "_x", "...", "x" * 249])
def test_names_that_kafka_takes(topic: str) -> None:
    """Letters, digits, dot, underscore and dash, up to 249 of them."""
    assert is_legal_topic(topic)
    assert refusal_of_name(topic, app_id=APP, allowed=["*"]) is None


@pytest.mark.parametrize("topic", ["", ".", "..", "x" * 250, "a b", "a/b", "ü", "a\n", "a\0", "٣", "a:b", "\ud800"])
def test_names_that_kafka_does_not_take(topic: str) -> None:
    """They are refused before anybody asks a broker."""
    assert not is_legal_topic(topic)
    assert "not a legal topic name" in str(refusal_of_name(topic, app_id=APP, allowed=["*"]))


@pytest.mark.parametrize(
    ("topic", "why"),
    [
        ("__consumer_offsets", "belongs to Kafka"),
        ("__", "belongs to Kafka"),
        ("dlq-stream-failures", "belongs to this application"),
        ("dlq-stream-", "belongs to this application"),
        ("heat-dlq", "dead-letter or retry topic"),
        ("heat-retry", "dead-letter or retry topic"),
        ("payments", "none of the allowed topics (heat-*, [ab]?)"),
        ("Heat-x", "none of the allowed topics"),
        ("abc", "none of the allowed topics"),
    ],
)
def test_originals_that_are_refused(topic: str, why: str) -> None:
    """Kafka's topics, ours, those that we made, and those that are not allowed."""
    refusal = refusal_of_name(topic, app_id=APP, allowed=["heat-*", "[ab]?"])
    assert why in str(refusal)
    assert topic in str(refusal)


@pytest.mark.parametrize("topic", ["heat-", "heat-processing", "a1", "bb"])
def test_originals_that_are_allowed(topic: str) -> None:
    """The list holds fnmatch patterns; case matters."""
    assert refusal_of_name(topic, app_id=APP, allowed=["heat-*", "[ab]?"]) is None


def test_nothing_is_allowed_by_an_empty_list() -> None:
    """No pattern, no topic."""
    assert refusal_of_name("heat", app_id=APP, allowed=[]) is not None


def test_another_apps_topics_are_nobody_elses_business() -> None:
    """Only the own prefix is reserved."""
    assert refusal_of_name("dlq-streams", app_id=APP, allowed=["*"]) is None
    assert refusal_of_name("other-failures", app_id=APP, allowed=["*"]) is None


@pytest.mark.parametrize(
    ("topic", "why"),
    [
        ("heat-retry", None),
        ("heat-group-retry", None),
        ("cold-x", None),
        ("payments", "neither named heat-... nor one of the allowed topics"),
        ("heater", "neither named"),
        ("heat-dlq", "never read again"),
        ("__consumer_offsets", "belongs to Kafka"),
        ("dlq-stream-commands", "belongs to this application"),
        ("a b", "not a legal topic name"),
    ],
)
def test_retry_topics_that_an_event_asks_for(topic: str, why: str | None) -> None:
    """Named after the original or allowed in its own right; never ours, Kafka's or a dead-letter topic."""
    refusal = refusal_of_retry_topic(topic, "heat", app_id=APP, allowed=["heat", "cold-*"])
    assert refusal is None if why is None else why in str(refusal)


@pytest.mark.parametrize(("topic", "refused"), [("heat-dlq", False), ("__x", True), ("dlq-stream-x", True), ("", True)])
def test_targets(topic: str, refused: bool) -> None:
    """What holds for every write, whoever named the topic."""
    assert (refusal_of_target(topic, app_id=APP) is not None) is refused


@given(st.text(), st.text(), st.text(), st.lists(st.text()))
def test_any_name_is_judged(topic: str, original: str, app_id: str, allowed: list[str]) -> None:
    """No name makes a rule fail, and what is allowed is legal."""
    if refusal_of_name(topic, app_id=app_id, allowed=allowed) is None:
        assert is_legal_topic(topic)
    if refusal_of_retry_topic(topic, original, app_id=app_id, allowed=allowed) is None:
        assert is_legal_topic(topic)


def test_derived_names() -> None:
    """The names that follow from an original."""
    assert dead_letter_topic("heat") == "heat-dlq"
    assert retry_topic("{topic}-retry", "heat", "g") == "heat-retry"
    assert retry_topic("{group}.{topic}", "heat", "g") == "g.heat"
    assert retry_topic("all-retries", "heat", "g") == "all-retries"
    assert retry_topic("{topic}-{group}", "heat", "{topic}") == "heat-{topic}"
