"""The screen shows the numbers, and the keys reach the demo."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.demo import screen as under_test
from dlq_stream.demo.ledger import Figures
from dlq_stream.demo.plan import Plan
from dlq_stream.demo.screen import PlainScreen, Process, View, keys, screen
from dlq_stream.demo.summary import Outcome, human_lines, introduction, json_line
from dlq_stream.demo.verdict import Verdict

FIGURES = Figures(
    produced=1501, processed=1611, failed=113, pending=17, retrying=5, resolved=91, escalated=42,
    lateness_ms_median=23, lateness_ms_max=2_104,
)  # fmt: skip
VIEW = View(
    headline="all is well",
    elapsed_seconds=30.5,
    seconds=60,
    events_planned=3_000,
    is_outage=True,
    figures=FIGURES,
    processes=[Process("worker-1", "pid 4711", 1), Process("worker-2", "down", 0)],
    notice="worker-2 was killed with kill -9",
)


def drawn(view: View) -> str:
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(under_test._picture(view))
    console.file.close()
    return console.export_text()


def test_everything_is_on_it() -> None:
    """Numbers, processes, the outage, the keys."""
    text = drawn(VIEW)
    for shown in ("1501 of 3000", "1611", "113", "17", "5", "91", "42", "23 ms", "2104 ms", "4711", "down", "outage"):
        assert shown in text
    assert "worker-2 was killed with kill -9" in text
    assert "k  kill -9 a worker" in text
    assert "outage" not in drawn(replace(VIEW, is_outage=False))


def test_without_rich_the_other_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """And that way works."""
    monkeypatch.setitem(sys.modules, "rich.live", None)
    with pytest.raises(ConfigurationError, match=r"dlq-stream\[demo\].*--no-tty"), screen(is_terminal=True):
        raise AssertionError("there is no screen")
    with screen(is_terminal=False) as shown:
        assert isinstance(shown, PlainScreen)
        shown.show(VIEW)


async def test_keys_arrive_without_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several at once, too; and the terminal is what it was."""
    import termios

    ours, theirs = os.openpty()
    with os.fdopen(theirs, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        before = termios.tcgetattr(theirs)
        pressed: list[str] = []
        with keys(True, pressed.append):
            os.write(ours, b"kq")
            async with asyncio.timeout(5):
                while len(pressed) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert pressed == ["k", "q"]
        assert termios.tcgetattr(theirs) == before
    os.close(ours)


async def test_no_terminal_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Input from a pipe is left alone."""
    (tmp_path / "in").write_text("q")
    with (tmp_path / "in").open() as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        with keys(True, lambda key: pytest.fail(key)):
            await asyncio.sleep(0)


def test_the_summary_says_what_was_found() -> None:
    """For people and for scripts; a mistake of a process fails the run as well."""
    plan = Plan("demo-x1", "b:9092", seed=11, seconds=60, rate=50, start_ms=0)
    good = Outcome(plan, Verdict(events=3_000), [], False, 1, 1, 2.34, 70.0)
    assert good.word == "good"
    assert "GOOD" in "\n".join(human_lines(good))
    assert '"verdict": "good"' in json_line(good)
    assert '"seed": 11' in json_line(good)
    sick = replace(good, mistakes=["worker-1 ended with exit 2"])
    assert sick.word == "failed"
    assert "worker-1 ended with exit 2" in "\n".join(human_lines(sick))
    bad = replace(good, verdict=Verdict(faults={"lost": [f"e{n}" for n in range(9)], "early": []}))
    assert "9 readings that are neither a result nor a dead letter: e0, e1, e2, e3, e4, ..." in list(human_lines(bad))
    assert '"lost": 9' in json_line(bad)
    nothing = replace(good, verdict=Verdict())
    assert nothing.word == "failed"
    early = replace(nothing, is_ended_early=True)
    assert '"verdict": "none"' in json_line(early)
    assert list(human_lines(early))[-1] == "No reading was written, so nothing is proved."
    assert replace(early, mistakes=["worker-1 ended with exit 2"]).word == "failed"
    assert "1, 2, 4, 4, 4, 4 s (the defaults are 60, 300, 1500 s)" in introduction(plan, "given")
