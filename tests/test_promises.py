"""The measure of promised times: bare on an idle machine, and never without a bound."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import promises
from tests.promises import FACTOR_MAX, Crowd, assert_promise


def crowd_of(monkeypatch: pytest.MonkeyPatch, *running: int) -> Crowd:
    """What is seen where so many run or wait, the looking process included."""
    crowd = Crowd()
    for number in running:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", lambda _, n=number: f"9.99 9.99 9.99 {n}/300 4711\n")
            crowd.look()
    return crowd


def test_the_promise_is_bare_on_an_idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The load average of the minutes before does not count, only who wanted to run meanwhile."""
    monkeypatch.setattr(promises, "MEASURED", measured := [])
    cores = os.cpu_count() or 1
    for crowd in (Crowd(), crowd_of(monkeypatch, *[cores + 1] * 5)):
        assert crowd.factor == 1
        assert_promise("ready", 2.99, 3, crowd)
        with pytest.raises(AssertionError, match=r"ready: 3.01 s, promised 3 s$"):
            assert_promise("ready", 3.01, 3, crowd)
        assert_promise("ready", 8.99, 3, crowd, besides=6)
        with pytest.raises(AssertionError, match="promised 9 s"):
            assert_promise("ready", 9.01, 3, crowd, besides=6)
    assert len(measured) == 8


def test_a_busy_machine_has_more_time_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as is its share, and what is besides is not made longer."""
    cores = os.cpu_count() or 1
    crowd = crowd_of(monkeypatch, cores + 1, 3 * cores + 1)
    assert crowd.factor == 2
    monkeypatch.setattr(promises, "MEASURED", measured := [])
    assert_promise("ready", 11.9, 3, crowd, besides=6)
    assert measured == ["ready: 11.90 s, promised 9 s; 12.0 s on a machine with 2.0 times more to do than cores"]
    with pytest.raises(AssertionError):
        assert_promise("ready", 12.1, 3, crowd, besides=6)
    assert crowd_of(monkeypatch, 100 * cores).factor == FACTOR_MAX
