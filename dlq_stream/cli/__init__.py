"""The command line: ``dlq-stream init | worker | status | demo | --version``.

Commands are imported when they are called, so that ``--version`` is quick and a command's missing extra is that
command's problem only.  Exit codes: 0 success (also after SIGTERM or SIGINT), 1 a verdict or check failed, 2 usage,
configuration or a missing prerequisite, 69 brokers unreachable, 70 something unexpected (crash-only).
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

COMMANDS: Final = {
    "init": "Create the app's topics in Kafka, or verify them.",
    "worker": "Run a stream worker until it is told to stop.",
    "status": "Show the cluster-wide numbers per queue.",
    "demo": "Show it all at work: failures, an outage, kill -9, and a verdict.",
}
"""The commands with their one-line help; each is the attribute ``command`` of the module of its name."""


class _Commands(click.Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which one needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command's module; None for a name that is no command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from dlq_stream import __version__

        click.echo(f"dlq-stream {__version__}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Dead-letter and retry system for Kafka.

    Every option is also an environment variable (DLQ_ and its name, as in DLQ_APP_ID) and a key of the settings file
    that --config or DLQ_CONFIG names. An option beats the environment, which beats the file.
    """
