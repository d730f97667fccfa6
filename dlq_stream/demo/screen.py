"""What a person sees while the demo runs, and the two keys: a table by rich on a terminal, plain lines elsewhere.

rich is imported when a screen is made: it belongs to an extra, and ``--no-tty`` works without it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.demo.ledger import Figures

LINE_EVERY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process as the screen shows it."""

    name: str
    standing: str
    restarts: int


@dataclass(frozen=True, slots=True)
class View:
    """One picture: where the run stands, its numbers, its processes, and the last thing that happened."""

    headline: str
    elapsed_seconds: float
    seconds: float
    events_planned: int
    is_outage: bool
    figures: Figures
    processes: Sequence[Process]
    notice: str


class Screen(Protocol):
    """Shows a view every now and then."""

    def show(self, view: View) -> None:
        """Show this one."""
        ...


class PlainScreen:
    """A line every few seconds, on stderr: stdout is for the summary."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._next = 0.0
        self._notice = ""

    def show(self, view: View) -> None:
        """Write a line when it is time for one, or when something happened."""
        if view.elapsed_seconds < self._next and view.notice == self._notice:
            return
        self._next = view.elapsed_seconds + LINE_EVERY_SECONDS
        numbers = view.figures
        said = f"; {view.notice}" if view.notice != self._notice else ""
        self._notice = view.notice
        print(
            f"[{view.elapsed_seconds:5.1f} s] {numbers.produced} readings, {numbers.processed} processed, "
            f"{numbers.failed} failed, {numbers.pending} pending, {numbers.retrying} retrying, "
            f"{numbers.resolved} resolved, {numbers.escalated} escalated{said}",
            file=self._out,
            flush=True,
        )


class RichScreen:
    """A table that is redrawn in place."""

    def __init__(self, live: Any) -> None:
        self._live = live

    def show(self, view: View) -> None:
        """Draw this view."""
        self._live.update(_picture(view), refresh=True)


@contextmanager
def screen(is_terminal: bool) -> Iterator[Screen]:
    """A screen for as long as the run lasts.  Raises ConfigurationError on a terminal without rich."""
    if not is_terminal:
        yield PlainScreen()
        return
    try:
        from rich.live import Live
    except ImportError:
        raise ConfigurationError(
            "the demo's screen needs rich: pip install 'dlq-stream[demo]', or run it with --no-tty"
        ) from None
    with Live(auto_refresh=False, transient=True) as live:
        yield RichScreen(live)


def _picture(view: View) -> Any:
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    numbers = view.figures
    table = Table.grid(padding=(0, 3), expand=True)
    for _ in range(2):
        table.add_column(justify="left")
        table.add_column(justify="right", style="bold")
    table.add_row("readings", f"{numbers.produced} of {view.events_planned}", "pending", f"{numbers.pending}")
    table.add_row("processed", f"{numbers.processed}", "retrying", f"{numbers.retrying}")
    table.add_row("failed", f"{numbers.failed}", "resolved", f"[green]{numbers.resolved}[/]")
    table.add_row("", "", "escalated", f"[yellow]{numbers.escalated}[/]")
    lateness = Text(f"retries are {numbers.lateness_ms_median} ms late in the median, ", end="")
    lateness.append(f"{numbers.lateness_ms_max} ms at most")
    processes = Table.grid(padding=(0, 3))
    for each in view.processes:
        standing = f"[red]{each.standing}[/]" if each.standing == "down" else each.standing
        processes.add_row(each.name, standing, f"restarts: {each.restarts}" if each.restarts else "")
    backend = (
        Text("sensor backend: outage", style="red") if view.is_outage else Text("sensor backend: up", style="green")
    )
    bar = ProgressBar(total=view.seconds, completed=min(view.elapsed_seconds, view.seconds))
    keys = Text("k  kill -9 a worker     q  end early", style="dim")
    body = Group(bar, "", table, lateness, "", backend, processes, "", Text(view.notice), keys)
    return Panel(body, title=f"dlq-stream demo: {view.headline}", padding=(1, 2))


@contextmanager
def keys(is_terminal: bool, pressed: Callable[[str], None]) -> Iterator[None]:
    """Call ``pressed`` for each key, without waiting for Enter; the terminal is put right again at the end."""
    if not is_terminal or not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    loop = asyncio.get_running_loop()

    def read() -> None:
        typed = os.read(terminal, 64).decode("ascii", "ignore")
        if not typed:  # hung up
            loop.remove_reader(terminal)
        for key in typed:
            pressed(key)

    try:
        tty.setcbreak(terminal)
        loop.add_reader(terminal, read)
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
