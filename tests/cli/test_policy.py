"""``dlq-stream policy``: what it writes, what it refuses, and what it shows, on a real broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dlq_stream.cli import main
from dlq_stream.settings import QueueSettings
from dlq_stream.settings.published import encode
from dlq_stream.topics import AppTopics
from tests.kafka_clients import Outgoing, create_topics, list_topics, produce, read_topic
from tests.kafka_fixture import LocalKafka, unique_name
from tests.undisturbed import logging_as_it_was

HEAT = "heat-processing"


@pytest.fixture(scope="module")
def environment(kafka: LocalKafka) -> dict[str, str]:
    """One app for all; each test has a queue of its own."""
    found = {"DLQ_BROKERS": kafka.bootstrap, "DLQ_APP_ID": unique_name("app"), "DLQ_PARTITIONS": "2"}
    with logging_as_it_was():
        assert CliRunner().invoke(main, ["init"], env=found).exit_code == 0
    return found


class Desk:
    """Where an operator sits."""

    def __init__(self, kafka: LocalKafka, environment: Mapping[str, str]) -> None:
        self.bootstrap = kafka.bootstrap
        self.environment = environment
        self.topic = AppTopics(environment["DLQ_APP_ID"]).policies

    def run(self, *arguments: str, answer: str | None = None, **variables: str) -> Result:
        return CliRunner().invoke(main, arguments, input=answer, env={**self.environment, **variables})

    def policy(self, *arguments: str, **how: Any) -> str:
        done = self.run("policy", *arguments, **how)
        assert done.exit_code == 0, done.output
        return done.stdout

    def refused(self, *arguments: str, **how: Any) -> str:
        before = len(self.records())
        done = self.run("policy", *arguments, **how)
        assert done.exit_code == 2, done.output
        assert len(self.records()) == before, "nothing is written"
        return done.stderr

    def records(self, queue: str | None = None) -> list[Any]:
        found = asyncio.run(read_topic(self.bootstrap, self.topic))
        ours = [each for each in found if queue is None or each.key == queue.encode()]
        return [json.loads(each.value) if each.value else None for each in ours]

    def seen(self, queue: str, **variables: str) -> dict[str, Any]:
        told = json.loads(self.policy("get", queue, "--json", **variables))
        (found,) = told["queues"]
        return dict(found)


@pytest.fixture
def desk(kafka: LocalKafka, environment: Mapping[str, str]) -> Desk:
    return Desk(kafka, environment)


def test_set_changes_what_is_given_and_keeps_the_rest(desk: Desk) -> None:
    """Field by field, until it is unset; a reset leaves a tombstone, and then there is nothing to reset."""
    queue = unique_name("queue")
    said = desk.policy("set", queue, "--max-retries", "10", "--jitter", "full")
    assert "max_retries: 3 (default) -> 10 (published)" in said
    assert "published 1 policy" in said
    desk.policy("set", queue, "--initial-backoff-seconds", "0.5", "--no-write-compacted", "--unset", "jitter")
    assert desk.records(queue) == [
        {"format": 1, "policy": {"max_retries": 10, "jitter": "full"}},
        {"format": 1, "policy": {"max_retries": 10, "initial_backoff_seconds": 0.5, "write_compacted": False}},
    ]
    seen = desk.seen(queue, DLQ_MAX_RETRIES="7", DLQ_BACKOFF_MULTIPLIER="2")["figures"]
    assert seen["max_retries"] == {"value": 10, "from": "published"}
    assert seen["backoff_multiplier"] == {"value": 2.0, "from": "settings"}
    assert seen["jitter"] == {"value": "none", "from": "default"}
    assert "nothing to change" in desk.policy("set", queue, "--max-retries", "10")
    assert len(desk.records(queue)) == 2
    assert "max_retries: 10 (published) -> 3 (default)" in desk.policy("set", queue, "--reset")
    assert desk.records(queue)[2:] == [None]
    assert desk.seen(queue)["figures"]["max_retries"] == {"value": 3, "from": "default"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--max-retries", "-1"],
            f"queues.\"{HEAT}\".max_retries = '-1' (from option --max-retries): input should be greater than or equal "
            "to 0; allowed: whole number, 0 to 10000",
        ),
        (["--retry-topic", "{nothing}"], "uses {nothing}; the fields are {topic} and {group}"),
        (["--budget-seconds", "soon"], "budget_seconds = 'soon'"),
    ],
)
def test_a_bad_value_is_refused_and_nothing_written(desk: Desk, arguments: list[str], words: str) -> None:
    """Field, value, where it came from and what is allowed: the words are those of a settings file."""
    assert words in desk.refused("set", HEAT, *arguments)


def test_a_name_that_no_failure_could_have_is_refused(desk: Desk) -> None:
    """It would never have an effect."""
    assert "characters that cannot be printed" in desk.refused("set", "heat\n", "--max-retries", "1")


def test_apply_shows_asks_and_writes_what_the_file_says(desk: Desk, tmp_path: Path) -> None:
    """Exactly the tables of the file; an empty one publishes nothing for its queue, and others keep what they have."""
    one, two, three = (unique_name(name) for name in ("one", "two", "three"))
    desk.policy("set", two, "--max-retries", "9")
    desk.policy("set", three, "--max-retries", "9")
    file = tmp_path / "policies.toml"
    file.write_text(f"""
        [queues."{one}"]
        max_retries = 5
        rules = [{{ type = "SensorBusy", category = "transient" }}, {{ regex = "^E[0-9]+", category = "permanent" }}]
        [queues."{one}".by_error.ConnectionResetError]
        initial_backoff_seconds = 5
        [queues."{two}"]
    """)
    before = len(desk.records())
    shown = desk.policy("apply", str(file), "--dry-run")
    assert [line.strip() for line in shown.splitlines()] == [
        f"{one}:",
        "max_retries: 3 (default) -> 5 (published)",
        "rules: 0 published -> 2 published",
        "by_error.ConnectionResetError: nothing published -> initial_backoff_seconds 5",
        f"{two}:",
        "max_retries: 9 (published) -> 3 (default)",
        "nothing was published",
    ]
    assert "nothing was published" in desk.policy("apply", str(file), answer="n\n")
    assert "--yes publishes without asking" in desk.refused("apply", str(file))
    assert len(desk.records()) == before
    assert "published 2 policies" in desk.policy("apply", str(file), answer="y\n")
    assert "nothing to change" in desk.policy("apply", str(file), "--yes")
    assert (desk.records(two)[-1], desk.records(three)[-1]["policy"]) == (None, {"max_retries": 9})
    seen = desk.seen(one)
    assert [rule["value"]["category"] for rule in seen["rules"]] == ["transient", "permanent"]
    assert seen["by_error"]["ConnectionResetError"]["value"] == {"initial_backoff_seconds": 5.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("brokers = 'a:1'", "'brokers' is no table"),
        ("queues = 3", "queues must hold tables"),
        ("[queues.a]\nmax_retires = 3", "did you mean 'max_retries'?"),
        ("[queues.a]\nmax_retries = 3\n[queues.b]\njitter = 'wild'", "queues.b.jitter = 'wild' (from "),
        ('[queues.a]\nrules = [{ regex = "(", category = "permanent" }]', "rule regex '(' is not understood by RE2"),
        ("[queues.a", "not valid TOML"),
    ],
)
def test_a_file_with_a_mistake_changes_nothing(desk: Desk, tmp_path: Path, text: str, words: str) -> None:
    """Not even for the queues before the mistake."""
    file = tmp_path / "policies.toml"
    file.write_text(text)
    assert words in desk.refused("apply", str(file), "--yes")


def test_what_somebody_else_published_meanwhile_is_not_written_over(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who said yes has seen other values; and what he does not change would be put back."""
    queue, beside = unique_name("queue"), unique_name("queue")
    file = tmp_path / "policies.toml"
    file.write_text(f'[queues."{queue}"]\nmax_retries = 1\n')
    others = {queue: 2, beside: 3}

    def confirm(text: str) -> bool:
        records = [Outgoing(desk.topic, *reversed(encode(q, QueueSettings(max_retries=n)))) for q, n in others.items()]
        asyncio.run(produce(desk.bootstrap, records))
        return True

    monkeypatch.setattr("click.confirm", confirm)
    done = desk.run("policy", "apply", str(file))
    assert done.exit_code == 2, done.output
    assert f"somebody else published a policy for {queue} meanwhile; nothing was published" in done.stderr
    assert desk.records(queue) == [{"format": 1, "policy": {"max_retries": 2}}]
    others.pop(queue)
    desk.policy("apply", str(file))
    assert desk.records(queue)[-1] == {"format": 1, "policy": {"max_retries": 1}}


def test_get_tells_the_layers_apart(desk: Desk, tmp_path: Path) -> None:
    """Published, the queue's table, the top level, the default; and what holds for every other queue."""
    queue = unique_name("queue")
    desk.policy("set", queue, "--max-retries", "10", "--emit-to", "source")
    file = tmp_path / "s.toml"
    file.write_text(f"""
        backoff_multiplier = 3
        rules = [{{ text = "all", category = "unknown" }}]
        [queues."{queue}"]
        max_retries = 5
        jitter = "equal"
        rules = [{{ type = "SensorBusy", category = "transient" }}]
        [queues.ovens]
        write_compacted = true
    """)
    seen = desk.seen(queue, DLQ_CONFIG=str(file))
    layers = {name: (figure["value"], figure["from"]) for name, figure in seen["figures"].items()}
    assert layers["max_retries"] == (10, "published")
    assert layers["jitter"] == ("equal", "queue's settings")
    assert layers["backoff_multiplier"] == (3.0, "settings")
    assert layers["budget_seconds"] == (None, "default")
    assert [rule["from"] for rule in seen["rules"]] == ["queue's settings", "settings"]
    text = desk.policy("get", DLQ_CONFIG=str(file))
    blocks = [line for line in text.splitlines() if not line.startswith(" ")]
    assert {f"{queue}:", "ovens:"} <= set(blocks)
    assert blocks[-1] == "every other queue:"
    assert any(line.split() == ["budget_seconds", "unlimited", "default"] for line in text.splitlines())
    assert json.loads(desk.policy("get", "--json"))["others"]["figures"]["max_retries"]["from"] == "default"


def test_what_is_not_understood_is_shown_and_can_be_replaced(desk: Desk) -> None:
    """By whoever wrote it: the queue goes by the settings meanwhile."""
    queue = unique_name("queue")
    newer = Outgoing(desk.topic, b'{"format": 2, "policy": {"max_retries": 1}}', queue.encode())
    asyncio.run(produce(desk.bootstrap, [newer]))
    done = desk.run("policy", "get", queue)
    assert done.exit_code == 0
    assert "published in format 2, this version of dlq-stream reads 1" in done.stderr
    assert desk.seen(queue)["figures"]["max_retries"]["from"] == "default"
    assert "format 2" in desk.seen(queue)["problem"]
    desk.policy("set", queue, "--max-retries", "4")
    assert desk.seen(queue)["problem"] is None


def test_a_policy_that_needs_a_retry_topic_has_it_made(desk: Desk) -> None:
    """As ``init --source`` does, which goes by what is published; where the queue is no topic it says what to do."""
    source, queue = unique_name("source"), unique_name("queue")
    asyncio.run(create_topics(desk.bootstrap, source, partitions=3))
    assert f"created   {source}-retry" in desk.policy("set", source, "--emit-to", "retry")
    assert asyncio.run(list_topics(desk.bootstrap))[f"{source}-retry"] == 3
    done = desk.run("policy", "set", queue, "--emit-to", "retry")
    assert done.exit_code == 0
    assert f"no topic is named {queue}, so which retry topics ({{topic}}-retry)" in done.stderr
    desk.policy("set", queue, "--retry-topic", "{topic}-anew", "--skip-topics")
    assert not desk.run("policy", "set", queue, "--max-retries", "1").stderr, "where retries go stays"
    assert f"retries go to {source}-retry" in desk.run("init", "--source", source).stdout
    assert "-retry" not in desk.run("init", "--source", source, DLQ_APP_ID=unique_name("other")).stdout


def test_where_retry_topics_cannot_be_made_nothing_is_published(desk: Desk) -> None:
    """Else messages would be escalated for want of them; whoever has them made by somebody else says so."""
    source = unique_name("source")
    asyncio.run(create_topics(desk.bootstrap, source, partitions=1))
    arguments = ["set", source, "--emit-to", "retry", "--retry-topic", f"{desk.environment['DLQ_APP_ID']}-x"]
    said = desk.refused(*arguments)
    assert "belongs to this application" in said
    assert "nothing was published: have the retry topics made first, then use --skip-topics" in said
    assert "published 1 policy" in desk.policy(*arguments, "--skip-topics")


def test_an_app_of_an_earlier_version_lacks_the_topic(desk: Desk) -> None:
    """Code 2, and which command adds it."""
    for arguments in (["get"], ["set", HEAT, "--max-retries", "1"]):
        done = desk.run("policy", *arguments, DLQ_APP_ID=unique_name("none"))
        assert done.exit_code == 2
        assert "-policies does not exist" in done.stderr
        assert "run `dlq-stream init`" in done.stderr
