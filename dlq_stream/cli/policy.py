"""``dlq-stream policy get | set | apply``: how queues retry, shown and changed while workers run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dlq_stream.cli.options import QUEUE_PREFIX, line_option, queue_options, settings_options
from dlq_stream.cli.policy_view import NOTHING, as_lines, as_object, changes
from dlq_stream.cli.run import run, warn
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.settings import QueueSettings, Settings
from dlq_stream.settings.groups import ConnectionSettings, LogSettings
from dlq_stream.settings.sources import option_of, read_file

if TYPE_CHECKING:
    from dlq_stream.settings.published import Check, PublishedPolicies

GROUPS: Final = (ConnectionSettings, LogSettings)

EFFECT: Final = "workers go by it from now on; instants that are set already, such as the next retry's, stay"


@click.group("policy")
def command() -> None:
    """Show and change how queues retry, while workers run.

    A published policy (set, apply) beats the queue's table in the settings file, field by field, and that beats the
    file's top level. It is written to the topic <app id>-policies, which every worker follows, and stays until it is
    changed or reset. Where the commands show what the settings say, it is what --config and DLQ_CONFIG name here.
    """


skip_topics = line_option(
    "--skip-topics", is_flag=True, help="Neither look at nor create the retry topics that this takes: they are there."
)

# ------------------------------------------------------------------------------------------------------------------ get


@command.command("get")
@click.argument("queue", required=False)
@line_option("--json", "as_json", is_flag=True, help="Print one JSON object, with stable names.")
@settings_options(*GROUPS)
def get(queue: str | None, as_json: bool, **options: Any) -> None:
    """Show the policy of QUEUE, or of every queue that has one of its own: each value, and where it comes from."""
    run(options, partial(_get, queue=queue, as_json=as_json), quiet=True)


def _get(settings: Settings, queue: str | None, as_json: bool) -> int:
    from dlq_stream.topics import read_policies

    published = asyncio.run(read_policies(settings, _check()))
    named = {*published.queues, *settings.queues, *published.problems}
    queues = sorted(named) if queue is None else [queue]
    if as_json:
        told: dict[str, Any] = {
            "app_id": settings.app_id,
            "queues": [as_object(settings, published, name) for name in queues],
        }
        if queue is None:
            told["others"] = as_object(settings, published, "") | {"queue": None}
        click.echo(json.dumps(told, indent=2))
        return 0
    for name in queues:
        click.echo("\n".join(as_lines(settings, name, published.queues.get(name, NOTHING), f"{name}:")))
    if queue is None:
        click.echo("\n".join(as_lines(settings, "", NOTHING, "every other queue:" if queues else "every queue:")))
    for name in queues:
        if name in published.problems:
            warn(f"what is published is not understood and counts as nothing: {published.problems[name]}")
    return 0


# ------------------------------------------------------------------------------------------------------------------ set


@command.command("set")
@click.argument("queue")
@line_option(
    "--unset",
    multiple=True,
    metavar="FIELD",
    type=click.Choice(list(QueueSettings.model_fields)),
    help="Publish nothing for this field any more, so that the settings count; may be repeated.",
)
@line_option("--reset", is_flag=True, help="Publish nothing for this queue any more.")
@skip_topics
@queue_options
@settings_options(*GROUPS)
def set_(queue: str, unset: tuple[str, ...], reset: bool, skip_topics: bool, **options: Any) -> None:
    """Publish a policy for QUEUE, or change the one that is published: what is not given stays as it is."""
    ours = [name for name in options if name.startswith(QUEUE_PREFIX)]
    said = {name.removeprefix(QUEUE_PREFIX): options.pop(name) for name in ours}
    given = {name: value for name, value in said.items() if value is not None}
    if reset and (given or unset):
        raise click.UsageError("--reset takes everything back that is published; it goes with no other field")
    if twice := sorted(given.keys() & set(unset)):
        raise click.UsageError(f"{option_of(twice[0])} is given, and --unset {twice[0]}, too")
    if not (reset or given or unset):
        raise click.UsageError(f"nothing to set; `dlq-stream policy get {queue}` shows what there is")
    how: dict[str, Any] = {"queue": queue, "given": given, "unset": unset, "reset": reset, "topics": not skip_topics}
    run(options, partial(_set, **how), quiet=True)


def _set(
    settings: Settings, queue: str, given: Mapping[str, Any], unset: tuple[str, ...], reset: bool, topics: bool
) -> int:
    from dlq_stream.settings.published import checked
    from dlq_stream.topics import read_policies

    published = asyncio.run(read_policies(settings, _check()))
    if queue in published.problems and not reset:
        warn(f"what was published is not understood, and is replaced: {published.problems[queue]}")
    before = published.queues.get(queue, NOTHING)
    kept = {} if reset else before.model_dump(exclude_defaults=True)
    fields = {**{name: value for name, value in kept.items() if name not in unset}, **given}
    after = checked(queue, fields, lambda name: f"from option {option_of(name)}" if name in given else "published")
    return _publish(settings, published, {queue: after}, lambda: True, topics=topics)


# ---------------------------------------------------------------------------------------------------------------- apply


@command.command("apply")
@click.argument("file", type=click.Path(path_type=Path))
@line_option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@line_option("--yes", is_flag=True, help="Do not ask.")
@skip_topics
@settings_options(*GROUPS)
def apply(file: Path, dry_run: bool, yes: bool, skip_topics: bool, **options: Any) -> None:
    """Publish the policies in FILE: TOML with tables [queues."<name>"], as in the settings file.

    What is published for each of these queues is then exactly its table; an empty one publishes nothing for it. Queues
    that FILE does not name keep what they have.
    """
    run(options, partial(_apply, file=file, dry_run=dry_run, yes=yes, topics=not skip_topics), quiet=True)


def _apply(settings: Settings, file: Path, dry_run: bool, yes: bool, topics: bool) -> int:
    from dlq_stream.topics import read_policies

    wanted = _tables(file)
    published = asyncio.run(read_policies(settings, _check()))

    def agreed() -> bool:
        try:
            return not dry_run and (yes or click.confirm("Publish this?"))
        except click.Abort:  # there is nobody to ask
            raise ConfigurationError("nothing was published: nobody answered; --yes publishes without asking") from None

    return _publish(settings, published, wanted, agreed, topics=topics)


def _tables(file: Path) -> dict[str, QueueSettings]:
    """The queues' tables of a file.  Raises ConfigurationError, also for whatever else there is in it."""
    from dlq_stream.settings.published import checked

    content = read_file(file, "policy file", "FILE")
    others = sorted(content.keys() - {"queues"})
    if others:
        raise ConfigurationError(
            f'{file}: {others[0]!r} is no table [queues."<name>"]; a policy file has nothing else, '
            f"what holds for all queues belongs into the workers' settings file"
        )
    tables = content.get("queues", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigurationError(f'{file}: queues must hold tables: [queues."<name>"]')
    return {queue: checked(queue, table, lambda name: f"from {file}") for queue, table in tables.items()}


# -------------------------------------------------------------------------------------------------------------- publish


def _publish(
    settings: Settings,
    published: PublishedPolicies,
    wanted: Mapping[str, QueueSettings],
    agreed: Callable[[], bool],
    *,
    topics: bool,
) -> int:
    """Show what changes, and write it if that is ``agreed``; the retry topics that it takes are made before."""
    from dlq_stream.topics import write_policies

    records, elsewhere, seen = {}, [], {}
    for queue, policy in wanted.items():
        before, retried_to = published.queues.get(queue, NOTHING), _retried_to(published, queue)
        if policy == before and queue not in published.problems:
            continue
        seen[queue] = published.queues.get(queue), published.problems.get(queue)
        key, value = _taken(published, queue, policy)
        records[key] = value
        if _retried_to(published, queue) != retried_to:
            elsewhere.append(queue)
        click.echo(f"{queue}:")
        for line in changes(settings, queue, before, policy):
            click.echo(f"  {line}")
    if not records:
        click.echo("nothing to change: this is what is published")
        return 0
    if not agreed():
        click.echo("nothing was published")
        return 0
    if topics and elsewhere:
        _create_retry_topics(settings, published, elsewhere)
    _check_unchanged(settings, seen)
    asyncio.run(write_policies(settings, records))
    click.echo(f"published {len(records)} {'policy' if len(records) == 1 else 'policies'}: {EFFECT}")
    return 0


def _check_unchanged(settings: Settings, seen: Mapping[str, tuple[QueueSettings | None, str | None]]) -> None:
    """Refuse to write over what nobody has seen: a record is a queue's whole policy, and a question may stand long.

    Kafka writes no record on a condition, so of two who write in the same instant the later one still wins.
    """
    from dlq_stream.topics import read_policies

    now = asyncio.run(read_policies(settings, _check()))
    for queue, before in seen.items():
        if (now.queues.get(queue), now.problems.get(queue)) != before:
            raise ConfigurationError(
                f"somebody else published a policy for {queue} meanwhile; nothing was published: look at it with "
                f"`dlq-stream policy get {queue}`, and run this again"
            )


def _taken(published: PublishedPolicies, queue: str, policy: QueueSettings) -> tuple[bytes, bytes | None]:
    """The record for a policy, once it was taken as a worker will take it.  Raises ConfigurationError."""
    from dlq_stream.settings.published import encode, encode_key

    key, value = (encode_key(queue), None) if policy == NOTHING else encode(queue, policy)
    published.take(key, value)
    if queue in published.problems:
        raise ConfigurationError(published.problems[queue])
    return key, value


def _retried_to(published: PublishedPolicies, queue: str) -> tuple[str, str]:
    policy = published.policies.for_queue(queue)
    return policy.emit_to, policy.retry_topic


def _create_retry_topics(settings: Settings, published: PublishedPolicies, queues: list[str]) -> None:
    """A policy that sends retries to a topic which does not exist would escalate them: see to that first."""
    from dlq_stream.topics import create_retry_topics

    try:
        reports, not_topics = asyncio.run(create_retry_topics(settings, published.policies, queues))
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error}\nnothing was published: have the retry topics made first, then use --skip-topics"
        ) from error
    for report in reports:
        for topic in report.created:
            click.echo(f"created   {topic}")
        for warning in report.warnings:
            warn(f"source {report.topic}: {warning}")
    for queue in not_topics:
        warn(
            f"no topic is named {queue}, so which retry topics ({published.policies.for_queue(queue).retry_topic}) its "
            f"messages need cannot be told from here: create them; messages whose retry topic is missing are escalated"
        )


def _check() -> Check:
    """What a worker asks of a policy: that its regular expressions are understood."""
    from dlq_stream.core.classification import Classifier, no_regex_engine

    try:
        from dlq_stream.worker.regex import compile_regex
    except ImportError:
        compile_regex = no_regex_engine
    return lambda policy: Classifier(policy.rules, compile_regex)
