"""Published policies: what records say, and how they go on top of the settings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.classification import Classifier, no_regex_engine
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.policy import Policies, RetryPolicy
from dlq_stream.settings import QueueSettings, Settings
from dlq_stream.settings import published as module
from dlq_stream.settings.published import PublishedPolicies, checked, decode, encode
from dlq_stream.settings.queues import BackoffSettings, RuleSettings

HEAT = "heat-processing"

FILE = Settings(
    max_backoff_seconds=100,
    rules=[{"text": "all", "category": "unknown"}],
    queues={
        HEAT: {
            "max_retries": 5,
            "initial_backoff_seconds": 2,
            "rules": [{"type": "SensorBusy", "category": "transient"}],
            "by_error": {"A": {"max_retries": 1}, "B": {"max_retries": 2}},
        }
    },
)


def record(value: object) -> bytes:
    return json.dumps(value).encode()


def taken(*records: tuple[bytes | None, bytes | None], base: Policies | None = None) -> PublishedPolicies:
    published = PublishedPolicies(base or FILE.policies())
    for key, value in records:
        published.take(key, value)
    return published


def seconds(**bounds: float) -> st.SearchStrategy[float | None]:
    return st.none() | st.floats(**bounds, max_value=31_536_000, allow_nan=False)


policies = st.builds(
    QueueSettings,
    max_retries=st.none() | st.integers(0, 10_000),
    initial_backoff_seconds=seconds(min_value=0),
    backoff_multiplier=st.none() | st.floats(1, 1000),
    max_backoff_seconds=seconds(min_value=0),
    jitter=st.sampled_from((None, "none", "full", "equal")),
    outcome_timeout_seconds=seconds(min_value=0.001),
    emit_to=st.sampled_from((None, "source", "retry")),
    write_compacted=st.none() | st.booleans(),
    emit_per_second_max=st.none() | st.floats(0.001, 1_000_000),
    rules=st.lists(
        st.builds(RuleSettings, text=st.text(min_size=1), category=st.sampled_from(("transient", "permanent"))),
        max_size=3,
    ).map(tuple),
    by_error=st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.builds(BackoffSettings, max_retries=st.none() | st.integers(0, 9)),
        max_size=2,
    ),
)


@given(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=50), policies)
def test_a_record_says_what_was_published(queue: str, policy: QueueSettings) -> None:
    """Encoded and decoded, any policy is the same; only what is set is written."""
    key, value = encode(queue, policy)
    assert (key.decode(), decode(queue, value)) == (queue, policy)
    written = json.loads(value)
    assert written["format"] == 1
    assert None not in written["policy"].values()


def test_the_record_is_a_contract() -> None:
    """Names and units are the settings file's: what is written today has to be understood later, and elsewhere."""
    rules = [{"type": "SensorBusy", "category": "transient"}]
    policy = QueueSettings(max_retries=10, initial_backoff_seconds=0.5, emit_to="retry", rules=rules)
    assert encode(HEAT, policy) == (
        b"heat-processing",
        b'{"format":1,"policy":{"max_retries":10,"initial_backoff_seconds":0.5,"emit_to":"retry",'
        b'"rules":[{"type":"SensorBusy","category":"transient"}]}}',
    )


def test_published_beats_the_queues_table_beats_the_top_level() -> None:
    """Field by field: one figure that is published loses nothing that the file says, its rules least of all."""
    rules = [{"text": "calibration", "category": "permanent"}]
    own = QueueSettings(max_retries=10, rules=rules, by_error={"A": {"max_retries": 7}})
    policies = taken(encode(HEAT, own)).policies
    policy, file = policies.for_queue(HEAT), FILE.policies().for_queue(HEAT)
    assert (policy.max_retries, policy.initial_backoff_ms, policy.max_backoff_ms) == (10, 2_000, 100_000)
    assert [rule.pattern for rule in policy.rules] == ["calibration", "SensorBusy", "all"]
    assert {error: part.max_retries for error, part in policy.by_error.items()} == {"A": 7, "B": 2}
    assert file.max_retries == 5
    assert policies.for_queue("elsewhere") == FILE.policies().default


def test_a_queue_that_no_file_names_can_have_a_policy() -> None:
    """What is left out comes from the top level."""
    policy = taken(encode("new", QueueSettings(max_retries=0))).policies.for_queue("new")
    assert (policy.max_retries, policy.max_backoff_ms) == (0, 100_000)


def test_a_tombstone_returns_the_queue_to_the_settings() -> None:
    """And the latest record of a queue counts."""
    key, value = encode(HEAT, QueueSettings(max_retries=10))
    other = encode(HEAT, QueueSettings(jitter="full"))
    assert taken((key, value), other).policies.for_queue(HEAT).max_retries == 5
    gone = taken((key, value), (key, None))
    assert (gone.policies, gone.queues, gone.problems) == (FILE.policies(), {}, {})


def test_what_was_handed_out_does_not_change() -> None:
    """A transaction decides by one value, whatever is read meanwhile."""
    published = taken(encode(HEAT, QueueSettings(max_retries=10)))
    before = published.policies
    published.take(*encode(HEAT, QueueSettings(max_retries=11)))
    assert (before.for_queue(HEAT).max_retries, published.policies.for_queue(HEAT).max_retries) == (10, 11)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"", "not a published policy"),
        (b"\xff", "not a published policy"),
        (b"[]", "not a published policy"),
        (b'{"policy": {}}', ".format: not a published policy: Field required"),
        (b'{"format": true, "policy": {}}', ".format"),
        (b'{"format": 1, "policy": 3}', ".policy"),
        (record({"format": 2, "policies": {}}), "published in format 2, this version of dlq-stream reads 1: upgrade"),
        (record({"format": 1, "policy": {"max_retires": 3}}), "is not a setting; did you mean 'max_retries'?"),
        (
            record({"format": 1, "policy": {"max_retries": -1}}),
            'queues."heat-processing".max_retries = -1 (published): input should be greater than or equal to 0; '
            "allowed: whole number, 0 to 10000",
        ),
        (record({"format": 1, "policy": {"retry_topic": "{nothing}"}}), "retry_topic: '{nothing}' uses {nothing}"),
        (b'{"format": 1, "policy": {"initial_backoff_seconds": NaN}}', "initial_backoff_seconds = nan"),
        (record({"format": 1, "policy": {"budget_seconds": 1e306}}), "is not a whole number from 1 to"),
        (record({"format": 1, "policy": {"by_error": {"A": {"budget_seconds": 1e306}}}}), "is not a whole number"),
        (b'{"format": 1, "policy": {}' + b" " * 300_000 + b"}", "at most 262144 are allowed"),
        (b'{"format": 1, "policy": ' + b"[" * 100_000, "not a published policy"),
    ],
)
def test_what_is_not_understood_counts_as_nothing(value: bytes, words: str) -> None:
    """The queue goes by the settings, not by an earlier record: whoever starts later cannot read that any more."""
    key, good = encode(HEAT, QueueSettings(max_retries=10))
    published = taken((key, good), (key, value), encode("other", QueueSettings(max_retries=1)))
    assert published.policies.for_queue(HEAT) == FILE.policies().for_queue(HEAT)
    assert published.policies.for_queue("other").max_retries == 1
    assert words in published.problems[HEAT]
    assert HEAT not in published.queues
    published.take(key, good)
    assert published.problems == {}
    assert published.policies.for_queue(HEAT).max_retries == 10


@given(st.none() | st.binary(max_size=300), st.none() | st.binary(max_size=300))
def test_no_record_stops_a_worker(key: bytes | None, value: bytes | None) -> None:
    """Whatever the bytes, `take` raises nothing, and other queues are untouched."""
    good = encode(HEAT, QueueSettings(max_retries=10))
    assert taken(good, (key, value)).policies.for_queue(HEAT).max_retries == (5 if key == good[0] else 10)


def test_whatever_a_check_raises_stops_no_worker() -> None:
    """All workers read the record at every start: it would end them all."""

    def check(policy: RetryPolicy) -> None:
        raise RecursionError("deep")

    published = PublishedPolicies(Policies(), check)
    published.take(*encode(HEAT, QueueSettings(max_retries=10)))
    assert (published.policies, published.queues) == (Policies(), {})
    assert published.problems == {HEAT: 'queues."heat-processing": RecursionError: deep'}


def test_what_is_said_of_a_record_is_bounded() -> None:
    """Thousands of mistakes fit into a record; the log, and memory, hold no megabyte of them."""
    wrong = record({"format": 1, "policy": {f"f{number}": 1 for number in range(15_000)}})
    (problem,) = taken((b"q", wrong)).problems.values()
    assert problem.startswith("15000 settings are wrong:")
    assert len(problem) <= module.problem_chars_max + len(" ...")


def test_a_key_that_reads_like_a_queue_leaves_that_ones_policy_alone() -> None:
    """What is shown of bytes that are no name may be the name of a queue."""
    good = encode(repr(b"\xff"), QueueSettings(max_retries=10))
    assert taken(good, (b"\xff", b"{")).policies.for_queue(good[0].decode()).max_retries == 10


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"a\0b", b"x" * 250, b"line\nbreak"])
def test_a_key_that_no_failure_could_name_is_said(key: bytes | None) -> None:
    """It changes nothing, and is told."""
    published = taken((key, encode(HEAT, QueueSettings(max_retries=10))[1]))
    assert published.policies == FILE.policies()
    assert len(published.problems) == 1


def test_a_policy_that_cannot_be_used_here_counts_as_nothing() -> None:
    """A regular expression that the engine does not understand must not be found out in mid-batch."""
    published = PublishedPolicies(Policies(), lambda policy: Classifier(policy.rules, no_regex_engine))
    rule = RuleSettings(regex="(", category="permanent")
    published.take(*encode(HEAT, QueueSettings(rules=(rule,))))
    assert published.policies.for_queue(HEAT) == RetryPolicy()
    assert "rule regex '('" in published.problems[HEAT]


def test_policies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a queue goes by the settings, which is said; a queue that goes makes room."""
    monkeypatch.setattr(module, "policies_max", 2)
    records = [encode(f"q{number}", QueueSettings(max_retries=9)) for number in range(3)]
    published = taken(*records)
    assert (sorted(published.queues), list(published.problems)) == (["q0", "q1"], ["q2"])
    published.take(records[0][0], None)
    published.take(*records[2])
    assert (sorted(published.queues), published.problems) == (["q1", "q2"], {})


@pytest.mark.parametrize(
    ("queue", "fields", "words"),
    [
        ("a\nb", {}, "characters that cannot be printed"),
        ("", {}, "empty"),
        ("a" * 250, {}, "queue: "),
        ("a", {"rules": [{"text": "x" * 990 + str(n), "category": "permanent"} for n in range(300)]}, "at most 262144"),
    ],
)
def test_what_would_not_be_understood_is_not_encoded(queue: str, fields: dict[str, Any], words: str) -> None:
    """Whoever publishes hears it at once."""
    with pytest.raises(ConfigurationError, match=words):
        encode(queue, checked(queue, fields))


def test_every_wrong_value_is_said() -> None:
    """With where it came from, in the words that a settings file gets."""
    with pytest.raises(ConfigurationError) as caught:
        checked("q", {"jitter": "wild", "budget_seconds": 0}, lambda field: f"from option --{field}")
    first, *others = str(caught.value).splitlines()
    assert first == "2 settings are wrong:"
    assert sorted(line.strip().partition(":")[0] for line in others) == [
        "queues.q.budget_seconds = 0 (from option --budget_seconds)",
        "queues.q.jitter = 'wild' (from option --jitter)",
    ]
