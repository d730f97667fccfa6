"""``dlq-stream init``: create the app's topics, or verify them, and look at source topics."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from dlq_stream.cli.options import help_of, settings_options
from dlq_stream.cli.run import run, warn
from dlq_stream.settings import Settings
from dlq_stream.settings.groups import ConnectionSettings, InitSettings, LogSettings, RetrySettings, TopicSettings


@click.command("init")
@click.option(
    "--source",
    "init_source",
    multiple=True,
    metavar="TOPIC...",
    help=help_of("init_source", InitSettings.model_fields["init_source"]),
)
@click.option(
    "--print-acls",
    "init_print_acls",
    is_flag=True,
    default=None,
    help=help_of("init_print_acls", InitSettings.model_fields["init_print_acls"]),
)
@click.argument("more_sources", nargs=-1, metavar="")
@settings_options(ConnectionSettings, TopicSettings, RetrySettings, LogSettings)
def command(init_source: tuple[str, ...], more_sources: tuple[str, ...], **options: Any) -> None:
    """Create the app's topics in Kafka, or verify them.

    Nothing that exists is changed. A topic that does not fit is an error that names topic, setting, value and fix. May
    be run again at any time, and completes what an interrupted run left.
    """
    if more_sources and not init_source:
        raise click.UsageError(f"unexpected {' '.join(more_sources)!r}; source topics follow --source")
    sources = ",".join([*init_source, *more_sources])
    run(options | {"init_source": sources or None}, _init, quiet=True)


def _init(settings: Settings) -> int:
    if settings.init_print_acls:
        from dlq_stream.cli.acls import script
        from dlq_stream.topics.acls import rights_of

        click.echo("\n".join(script(settings, rights_of(settings, settings.init_source))))
        return 0
    from dlq_stream.topics import create_or_verify

    done = asyncio.run(create_or_verify(settings, settings.init_source))
    for topic in done.created:
        click.echo(f"created   {topic}")
    for topic in done.verified:
        click.echo(f"verified  {topic}")
    if done.markers_written:
        click.echo(f"marked    {done.markers_written} changelog partitions")
    for warning in done.warnings:
        warn(warning)
    for source in done.sources:
        groups = ", ".join(source.groups) or "none has committed offsets on it yet"
        seen_by = "all of them see its retries" if not source.retry_topics and source.groups else ""
        click.echo(f"source    {source.topic}: {source.partitions} partitions; consumer groups: {groups}")
        if seen_by:
            click.echo(f"          {seen_by}, unless they filter or emit_to is retry for this queue")
        for topic in source.retry_topics:
            click.echo(f"          retries go to {topic}{' (created)' if topic in source.created else ''}")
        for warning in source.warnings:
            warn(f"source {source.topic}: {warning}")
    return 0
