"""The rights of each role: what is listed, and that the printed commands grant just that."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from dlq_stream.settings import Settings, load
from dlq_stream.topics import AppTopics
from dlq_stream.topics.acls import AGENT_GROUP, SOURCE, Right, rights_of

TOOL = """#!{python}
import json, sys
with open({calls!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""
"""What stands for ``kafka-acls.sh``, which takes a JVM's start for each call."""


def test_all_topics_of_the_app_are_covered() -> None:
    """Whatever tables there are: init and workers get them by their prefix, and operators may read them."""
    settings = Settings(app_id="heat-dlq-app")
    for role, operation in (("init", "Create"), ("worker", "Write"), ("operator", "Read")):
        prefixes = [
            right.literal
            for right in rights_of(settings)
            if right.role == role and operation in right.operations and right.is_prefix
        ]
        assert all(topic.startswith(tuple(prefixes)) for topic in AppTopics(settings.app_id).all)


def test_retry_topics_are_named_by_policy() -> None:
    """One topic where the template names the source, a prefix where it names the group, none where none is used."""

    def names(template: str | None) -> set[str]:
        given = {} if template is None else {"emit_to": "retry", "retry_topic": template}
        rights = rights_of(Settings(**given), ["heat"])
        return {right.name for right in rights if "retry" in right.name}

    assert names(None) == set()
    assert names("{topic}-retry") == {"heat-retry"}
    assert names("{topic}-retry-{group}") == {"heat-retry-*"}


def test_the_brokers_default_is_asked_for_only_where_it_counts() -> None:
    """With a replication factor of one's own, init needs no right on the cluster."""
    ours, others = ({(right.role, right.kind) for right in rights_of(Settings(replication_factor=n))} for n in (-1, 3))
    assert ("init", "cluster") in ours - others


def test_what_is_not_known_is_left_to_be_filled_in() -> None:
    """A source that nobody named, and the agents' group."""
    names = {right.name for right in rights_of(Settings())}
    assert {SOURCE, f"{SOURCE}-dlq", AGENT_GROUP} <= names


def test_the_printed_commands_grant_what_is_listed(tmp_path: Path) -> None:
    """The output is a script: run by a shell, it calls ``kafka-acls.sh`` for exactly the rights of the list."""
    calls = tmp_path / "calls"
    tool = tmp_path / "kafka-acls.sh"
    tool.write_text(
        f'#!{sys.executable}\nimport json, sys\nopen({str(calls)!r}, "a").write(json.dumps(sys.argv) + "\\n")\n'
    )
    tool.chmod(0o755)
    command = [sys.executable, "-m", "dlq_stream.cli", "init", "--print-acls", "--brokers", "b:1"]
    printed = subprocess.run([*command, "--source", "heat", "orders"], capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-eu"], input=printed.stdout, text=True, check=True, env=environment)
    listed = rights_of(load({}), ["heat", "orders"])
    assert [json.loads(line)[1:] for line in calls.read_text().splitlines()] == [
        expected_call(right) for right in listed
    ]
    for right in listed:
        assert f"# {right.role} " in printed.stdout


def expected_call(right: Right) -> list[str]:
    """What Kafka's tool has to be told."""
    common = "--bootstrap-server b:1 --command-config admin.properties --add --allow-principal"
    operations = [word for operation in right.operations for word in ("--operation", operation)]
    resource = ["--cluster"] if right.kind == "cluster" else [f"--{right.kind}", right.literal]
    pattern = ["--resource-pattern-type", "prefixed"] if right.is_prefix else []
    return [*shlex.split(common), f"User:dlq-{right.role}", *operations, *resource, *pattern]
