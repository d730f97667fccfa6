"""``dlq-stream demo``: the whole story in a minute, with a verdict computed from Kafka alone."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import click

from dlq_stream.cli.options import settings_options
from dlq_stream.cli.run import need_extras, run
from dlq_stream.settings import Settings
from dlq_stream.settings.groups import ConnectionSettings, DemoSettings
from dlq_stream.settings.model import SECURITY_NAMES
from dlq_stream.settings.sources import CONFIG, PREFIX


@click.command("demo")
@settings_options(DemoSettings, ConnectionSettings, leave_out=("app_id",))
def command(**options: Any) -> None:
    """Show it all at work: failures, an outage, kill -9, and a verdict.

    Starts Kafka on this machine unless brokers are set; on brokers that were given, the demo's topics and groups are
    deleted afterwards. Ends with code 1 when the verdict fails.
    """
    run(options, _demo, quiet=True)


def _demo(settings: Settings) -> int:
    is_terminal = settings.demo_tty and sys.stdout.isatty()
    need_extras("demo", *(["worker", "demo"] if is_terminal else ["worker"]))
    from dlq_stream.demo.run import Options, demonstrate

    given = settings.connection if "brokers" in settings.model_fields_set else None
    # Its processes read from the environment, and from nothing else, how the brokers let them in.
    for name in (CONFIG, *SECURITY_NAMES.values()):
        os.environ.pop(f"{PREFIX}{name.upper()}", None)
    os.environ.update(settings.security_variables() if given else {})

    return asyncio.run(
        demonstrate(
            Options(
                brokers=given,
                seconds=settings.demo_seconds,
                rate=settings.demo_rate,
                is_terminal=is_terminal,
                seed=settings.demo_seed,
                wait_seconds=settings.wait_seconds,
            )
        )
    )
