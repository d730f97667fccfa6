"""What the app's topics should be like, and when an existing one will do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.settings import Settings
from dlq_stream.tables import TABLES
from dlq_stream.topics import AppTopics, Expectation, plan
from dlq_stream.topics.plan import DAY_MS, intake_retention_ms

MIB = 1_048_576
KIB = 1024


def planned(copies: int = 3, **settings: object) -> dict[str, dict[str, str]]:
    return {topic.name: topic.configs for topic in plan(Settings(app_id="a", **settings), copies)}


def test_names() -> None:
    """Every topic begins with the app id; each table has a changelog under Faust's own pattern."""
    topics = AppTopics("a")
    assert topics.all[:4] == ("a-failures", "a-commands", "a-quarantine", "a-policies")
    assert topics.changelogs == tuple(f"a-{table.name}-changelog" for table in TABLES)
    assert [topic.name for topic in plan(Settings(app_id="a"), 1)] == list(topics.all)


def test_the_longest_app_id_makes_topic_names() -> None:
    """The bound on app ids leaves room for every suffix."""
    assert max(map(len, AppTopics("a" * 180).all)) <= 249


def test_sizes_follow_the_largest_record() -> None:
    """App topics accept 64 KiB more than the largest record, the quarantine 128 KiB more."""
    configs = planned(record_bytes_max=MIB)
    assert {name: configs[name]["max.message.bytes"] for name in configs} == {
        name: str(MIB + (128 if name == "a-quarantine" else 64) * KIB) for name in AppTopics("a").all
    }


def test_failures_are_kept_for_less_than_closed_messages() -> None:
    """min(7 days, retention_days / 2), in segments that are small enough for it to be true."""
    assert planned()["a-failures"]["retention.ms"] == str(7 * DAY_MS)
    short = planned(retention_days=1)
    assert short["a-failures"]["retention.ms"] == short["a-commands"]["retention.ms"] == str(DAY_MS // 2)
    assert short["a-failures"]["segment.ms"] == str(DAY_MS // 8)
    assert short["a-quarantine"]["retention.ms"] == str(DAY_MS)


@given(st.floats(min_value=1e-9, max_value=36_500))
def test_intake_retention_is_at_most_half(days: float) -> None:
    """However short the retention, failures are gone (by Kafka's promise) before the rows that know them."""
    settings = Settings(retention_days=days)
    assert 1 <= intake_retention_ms(settings) <= max(1, settings.retention_ms // 2)


def test_changelogs_and_policies_are_compacted_and_all_topics_carry_the_brokers_time() -> None:
    """cleanup.policy and message.timestamp.type of every topic."""
    for name, configs in planned().items():
        assert configs["cleanup.policy"] == ("compact" if name.endswith(("-changelog", "-policies")) else "delete")
        assert configs["message.timestamp.type"] == "LogAppendTime"
        assert configs.get("retention.bytes", "-1") == "-1"


@pytest.mark.parametrize(
    ("copies", "wanted", "insync"), [(1, 2, 1), (2, 2, 1), (3, 2, 2), (5, 2, 2), (3, 9, 2), (0, 2, 1)]
)
def test_one_broker_may_always_be_down(copies: int, wanted: int, insync: int) -> None:
    """min.insync.replicas is 2 where there are three copies, and never as many as there are copies but for one."""
    configs = planned(copies, min_insync_replicas=wanted)
    assert {config["min.insync.replicas"] for config in configs.values()} == {str(insync)}


@pytest.mark.parametrize(
    ("expected", "actual", "holds"),
    [
        (Expectation("x", "delete"), "delete", True),
        (Expectation("x", "compact"), "compact,delete", False),
        (Expectation("x", "compact"), "delete", False),
        (Expectation("x", "5", "at least"), "5", True),
        (Expectation("x", "5", "at least"), "10", True),
        (Expectation("x", "5", "at least"), "4", False),
        (Expectation("x", "5", "at least"), "-1", True),
        (Expectation("x", "5", "at most"), "-1", False),
        (Expectation("x", "5", "at most"), "5", True),
        (Expectation("x", "5", "at most"), "6", False),
        (Expectation("x", "5", "at most"), "many", False),
        (Expectation("x", "5", "at least"), None, False),
    ],
)
def test_expectations(expected: Expectation, actual: str | None, holds: bool) -> None:
    """Exactly, at least, at most; -1 is no limit and so more than every number."""
    assert expected.holds(actual) is holds


def test_expectations_read_well() -> None:
    """In error messages."""
    assert str(Expectation("x", "5", "at most")) == "at most 5"
    assert str(Expectation("x", "delete")) == "delete"
