"""The rights of each role as `init --print-acls` shows them: a shell script, whose comments are a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dlq_stream.cli.layout import aligned
from dlq_stream.settings import Settings
from dlq_stream.topics.acls import AGENT_GROUP, ROLES, Right


def script(settings: Settings, rights: Sequence[Right]) -> Iterator[str]:
    """The lines of a shell script: a table in its comments, names to fill in, and the commands that grant it all."""
    yield f"# Rights of the app {settings.app_id}: what each role may do, and no more."
    for role, who in ROLES.items():
        yield f"#   {role:9} {who}"
    yield "#"
    rows = [("ROLE", "OPERATIONS", "RESOURCE", "NAME", ""), *map(_cells, rights)]
    yield from (f"# {line}" for line in aligned(rows, right=()))
    yield "#"
    yield "# A name that ends in * is a prefix. Fill in the users, and what is in angle brackets, then run it."
    yield ""
    yield f"BROKERS={settings.brokers}"
    yield "ADMIN=admin.properties  # how Kafka's own tools are let in"
    for role in ROLES:
        yield f"{role.upper()}=User:dlq-{role}"
    yield f"AGENT_GROUP='{AGENT_GROUP}'"
    yield "allow() {"
    yield '  kafka-acls.sh --bootstrap-server "$BROKERS" --command-config "$ADMIN" --add --allow-principal "$@"'
    yield "}"
    yield ""
    for right in rights:
        yield _command(right)


def _cells(right: Right) -> tuple[str, ...]:
    return right.role, ", ".join(right.operations), right.kind, right.name, right.why


def _command(right: Right) -> str:
    """``allow "$WORKER" --operation Read --topic 'dlq-stream-' --resource-pattern-type prefixed``."""
    operations = " ".join(f"--operation {operation}" for operation in right.operations)
    name = '"$AGENT_GROUP"' if right.name == AGENT_GROUP else f"'{right.literal}'"
    resource = "--cluster" if right.kind == "cluster" else f"--{right.kind} {name}"
    pattern = " --resource-pattern-type prefixed" if right.is_prefix else ""
    return f'allow "${right.role.upper()}" {operations} {resource}{pattern}'
