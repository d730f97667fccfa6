"""What a figure is: rows of the table that README shows, each with its bound, and details beneath.

Measuring and judging are apart: a figure's module measures, `at_least` and `at_most` judge, and tests plant values on
both sides of a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured; the default takes about ten minutes in all."""

    events: int = 80_000
    pairs: int = 3
    due: int = 50_000
    per_second: int = 500
    seconds: float = 60.0
    pending: int = 1_000_000
    kills: int = 5


QUICK = Sizes(events=40_000, pairs=1, due=15_000, per_second=100, seconds=6.0, pending=20_000, kills=1)
"""For trying whether it runs; the figures say nothing."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where and how much is measured; ``broker_data`` is the broker's data directory, where it is ours."""

    bootstrap: str
    sizes: Sizes
    broker_data: Path | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; ``holds`` is None where nothing is promised."""

    what: str
    measured: str
    bound: str = "-"
    holds: bool | None = None

    @property
    def verdict(self) -> str:
        """Whether the bound holds, in words."""
        return "" if self.holds is None else "holds" if self.holds else "DOES NOT HOLD"


@dataclass(frozen=True, slots=True)
class Result:
    """All rows of one figure, and details in Markdown."""

    rows: Sequence[Row]
    details: str = ""

    @property
    def holds(self) -> bool:
        """Whether every bound holds."""
        return all(row.holds is not False for row in self.rows)


def at_least(what: str, value: float, bound: float, *, unit: str = "", note: str = "", digits: int = 3) -> Row:
    """A row whose value must not be below its bound."""
    return Row(what, _said(value, unit, note, digits), f">= {_number(bound)}{unit}", value >= bound)


def at_most(what: str, value: float, bound: float, *, unit: str = "", note: str = "", digits: int = 0) -> Row:
    """A row whose value must not be above its bound."""
    return Row(what, _said(value, unit, note, digits), f"<= {_number(bound)}{unit}", value <= bound)


def _said(value: float, unit: str, note: str, digits: int) -> str:
    return f"{value:,.{digits}f}{unit}" + (f" ({note})" if note else "")


def _number(value: float) -> str:
    return f"{value:,g}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first hold numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(rows: Sequence[Row]) -> str:
    """The table of all figures, as README has it."""
    lines = ["| What | Measured | Bound | |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.what} | {row.measured} | {row.bound} | {row.verdict} |" for row in rows]
    return "\n".join(lines)
