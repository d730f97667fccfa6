"""What README says is compared with what the code says."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from dlq_stream.core import headers
from dlq_stream.core.lifecycle import diagram
from dlq_stream.settings import Settings

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


def test_every_header_named_is_one_of_the_contract() -> None:
    """The table of headers names no header that the code does not know."""
    table = README[README.index("| Header |") : README.index("Retries and `-dlq` records carry")]
    named = set(re.findall(r"`(dlq-[a-z-]+)`", table))
    assert named
    assert named <= set(headers.OWN_HEADERS)


def test_python_examples_are_valid_python() -> None:
    """They compile, top-level await included."""
    for example in blocks("python"):
        compile(example, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
