"""Retry settings per queue, and the policies they become."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.model import ErrorCategory
from dlq_stream.core.policy import Override, Policies, RetryPolicy
from dlq_stream.core.rule import Rule
from dlq_stream.settings import QueueSettings, load
from dlq_stream.settings.groups import RetrySettings
from dlq_stream.settings.queues import BackoffSettings

TRANSIENT, PERMANENT = ErrorCategory.TRANSIENT, ErrorCategory.PERMANENT


def policies(tmp_path: Path, text: str, **options: object) -> Policies:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return load({"config": str(path), **options}).policies()


def test_the_default_policy_is_cores() -> None:
    """Without settings, the policy is the one that core has."""
    assert load().policies() == Policies(RetryPolicy(), {})


def test_a_queue_inherits_what_it_leaves_out(tmp_path: Path) -> None:
    """A queue's own values count, the rest comes from the top level, wherever that was set."""
    found = policies(
        tmp_path,
        """
        max_backoff_seconds = 100
        [queues."heat-processing"]
        max_retries = 5
        initial_backoff_seconds = 0.25
        emit_to = "retry"
        retry_topic = "{topic}.{group}.retry"
        write_compacted = true
        budget_seconds = 10
        outcome_timeout_seconds = 2
        jitter = "full"
        """,
        backoff_multiplier="2",
    )
    assert found.default == RetryPolicy(backoff_multiplier=2, max_backoff_ms=100_000)
    assert found.for_queue("elsewhere") == found.default
    assert found.for_queue("heat-processing") == RetryPolicy(
        max_retries=5,
        initial_backoff_ms=250,
        backoff_multiplier=2,
        max_backoff_ms=100_000,
        jitter="full",
        budget_ms=10_000,
        outcome_timeout_ms=2_000,
        emit_to="retry",
        retry_topic="{topic}.{group}.retry",
        write_compacted=True,
    )


def test_a_queues_rules_come_first(tmp_path: Path) -> None:
    """Rules keep their order, the queue's before the top level's."""
    found = policies(
        tmp_path,
        """
        rules = [{ text = "all", category = "permanent" }]
        [queues.a]
        rules = [
          { type = "SensorBusy", category = "TRANSIENT" },
          { regex = "^E[0-9]+", category = "permanent" },
        ]
        """,
    )
    general = Rule("text", "all", PERMANENT)
    assert found.default.rules == (general,)
    assert found.for_queue("a").rules == (
        Rule("type", "SensorBusy", TRANSIENT),
        Rule("regex", "^E[0-9]+", PERMANENT),
        general,
    )


def test_exceptions_by_error(tmp_path: Path) -> None:
    """A queue's exception for an error replaces the top level's for the same one; others are inherited."""
    found = policies(
        tmp_path,
        """
        [by_error.transient]
        max_retries = 9
        [by_error.ConnectionResetError]
        initial_backoff_seconds = 1
        [queues.a.by_error.transient]
        max_retries = 2
        """,
    )
    assert found.default.for_error(["TimeoutError"], TRANSIENT).max_retries == 9
    own = found.for_queue("a")
    assert own.by_error == {
        "transient": Override(max_retries=2),
        "ConnectionResetError": Override(initial_backoff_ms=1000),
    }
    assert own.for_error(["TimeoutError"], TRANSIENT).max_retries == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[queues.a]\nrules = [{ type = "A", text = "b", category = "transient" }]', "queues.a.rules[0]"),
        ('[queues.a]\nrules = [{ category = "transient" }]', "exactly one of type, text and regex"),
        ('[queues.a]\nrules = [{ type = "A" }]', "queues.a.rules[0].category"),
        ('[queues.a]\nrules = [{ type = "A", category = "so-so" }]', "'transient', 'permanent' or 'unknown'"),
        ('[queues.a]\nretry_topic = "{nothing}"', 'queues."a".retry_topic'),
        ("[queues.a.by_error.permanent]\nmax_retries = 1", 'queues."a".by_error'),
        ("[queues.a]\nmax_retries = -1", "queues.a.max_retries = -1"),
    ],
)
def test_what_makes_no_policy_is_refused_by_place(tmp_path: Path, text: str, told: str) -> None:
    """The error names the queue, the part of it, and the file."""
    with pytest.raises(ConfigurationError) as caught:
        policies(tmp_path, text)
    assert told in str(caught.value)
    assert "settings.toml" in str(caught.value)


def test_queues_and_the_top_level_speak_of_the_same_things() -> None:
    """Whatever has a default for all queues can be set for one, within the same bounds, and the other way round."""
    own = {name: field for name, field in QueueSettings.model_fields.items() if name not in ("rules", "by_error")}
    assert own.keys() == RetrySettings.model_fields.keys()
    assert BackoffSettings.model_fields.keys() <= RetrySettings.model_fields.keys()
    for name, field in own.items():
        assert field.metadata == RetrySettings.model_fields[name].metadata, name
