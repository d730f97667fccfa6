"""The command line: ``dlq-stream init | worker | policy | status | doctor | list | show | retry ... | demo``.

Commands are imported when they are called, so that ``--version`` is quick and a command's missing extra is that
command's problem only.

Exit codes: 0 success, also after SIGTERM or SIGINT; 1 a verdict or check failed, orders were not all applied (also when
told to stop before), whoever read the output had enough, or brokers answered with an error that no other code is for; 2
usage, configuration or a missing prerequisite; 69 brokers unreachable; 70 something unexpected (crash-only).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any, Final

import click

COMMANDS: Final = {
    "init": "Create the app's topics in Kafka, or verify them.",
    "worker": "Run a stream worker until it is told to stop.",
    "policy": "Show and change how queues retry, while workers run.",
    "status": "Show the cluster-wide numbers per queue.",
    "list": "List messages: next due first, by queue, status, error and age.",
    "show": "Show one message: state, attempts, headers and payload.",
    "retry": "Emit pending messages now.",
    "reschedule": "Emit pending messages at another time.",
    "resolve": "Close open or escalated messages: nothing more is to be done.",
    "escalate": "Give open messages up, into their -dlq topics.",
    "redrive": "Send escalated messages round again, with retries afresh.",
    "purge": "Forget resolved or escalated messages.",
    "quarantine": "List, show or retry what could not be understood.",
    "doctor": "Look for what is wrong, and say what mends it.",
    "demo": "Show it all at work: failures, an outage, kill -9, a verdict.",
}
"""The commands with their one-line help; each is the attribute ``command`` of the module of its name, but for a few."""

_ELSEWHERE: Final = {
    "list": "listing",  # a module called list would be this package's `list`
    **dict.fromkeys(("retry", "reschedule", "resolve", "escalate", "redrive", "purge"), "orders"),
}
"""These few: each is in the mapping ``commands`` of another module, by its name."""


class _Commands(click.Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which one needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command's module; None for a name that is no command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"{__name__}.{_ELSEWHERE.get(cmd_name, cmd_name)}")
        command: click.Command = module.commands[cmd_name] if cmd_name in _ELSEWHERE else module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; SIGTERM or SIGINT end any of them in order and with code 0, from its import on."""
        with _sigterm_like_sigint():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                click.echo("told to stop before this was done", err=True)
                ctx.exit(0)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@contextmanager
def _sigterm_like_sigint() -> Iterator[None]:
    """Let SIGTERM do what SIGINT does: interrupt; within `asyncio.run`, cancel the main task, which closes its clients.

    SIGINT does so even where it was ignored, as it is for background jobs of a script.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)


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
    that --config or DLQ_CONFIG names (app_id); what only one command has carries its name there (--json of status is
    DLQ_STATUS_JSON and status_json). An option beats the environment, which beats the file. What names messages, and
    what is done to them or to a queue, is said on the command line only: a forgotten variable must not widen an order.
    """
