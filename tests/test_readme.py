"""What README says is compared with what the code says."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from dlq_stream.cli.acls import script
from dlq_stream.core import headers
from dlq_stream.core.lifecycle import diagram
from dlq_stream.settings import Settings
from dlq_stream.topics.acls import rights_of
from tests.engine.said import all_that_is_said
from tests.memory import FakeRecord, Sent

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks in one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_diagram_is_the_lifecycle_table() -> None:
    """Printed from the table, to the letter."""
    assert blocks("mermaid") == [diagram().rstrip() + "\n"]


def test_the_settings_example_loads() -> None:
    """Every key of the example exists and its values are allowed; its comments tell the defaults."""
    (example,) = blocks("toml")
    values = tomllib.loads(example)
    settings = Settings(**values)
    assert settings.policies().for_queue("heat-processing").max_retries == 5
    plain = {name: value for name, value in values.items() if name != "queues"}
    assert plain == {name: getattr(Settings(), name) for name in plain}


def wire_contract() -> str:
    """What is said to those who write clients of their own."""
    return README[README.index("### From any language") : README.index("## Policy")]


def documented(letter: str) -> set[str]:
    """The headers that the table marks with a letter."""
    rows = re.findall(r"^\| (`dlq-.*?) \|.*\| ([A-Z ]+) \|$", wire_contract(), re.MULTILINE)
    return {name for names, letters in rows if letter in letters for name in re.findall(r"`(dlq-[a-z-]+)`", names)}


def names_of(record: FakeRecord | Sent) -> set[str]:
    return {name for name, _ in record.headers if name in headers.OWN_HEADERS}


def test_every_header_of_the_contract_is_documented() -> None:
    """By its whole name, and no other is but the one that stands for all others."""
    named = set(re.findall(r"`(dlq-[a-z-]+)`", wire_contract()))
    assert named - {"dlq-version", headers.MASKED} == set(headers.OWN_HEADERS)


def test_the_table_says_what_failure_events_may_hold() -> None:
    """All but what only workers write; they read `dlq-forwarded`, too."""
    workers = {headers.FIRST_FAILED_AT, headers.DUE_AT, headers.ESCALATION_REASON, headers.UNDECODABLE}
    assert documented("E") == headers.OWN_HEADERS - headers.QUARANTINE_HEADERS - workers


def test_the_table_says_what_retries_and_dead_letters_hold() -> None:
    """Of a failure that says all there is to say."""
    failure, retry, letter = all_that_is_said()
    assert documented("E") <= names_of(failure)
    assert (documented("R"), documented("D")) == (names_of(retry), names_of(letter))


def test_python_examples_are_valid_python() -> None:
    """They compile, top-level await included."""
    for example in blocks("python"):
        compile(example, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_rights_are_those_that_init_prints() -> None:
    """The table that `init --print-acls` prints, line by line."""
    settings = Settings()
    printed = list(script(settings, rights_of(settings, ("heat-processing",))))
    begin = next(number for number, line in enumerate(printed) if line.startswith("# ROLE"))
    table = printed[begin : printed.index("#", begin)]
    assert "".join(f"{line.removeprefix('# ')}\n" for line in table) in blocks("text")
