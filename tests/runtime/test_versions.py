"""The check of versions at the start of a worker."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.runtime.versions import TESTED, check, installed


def test_what_is_installed_here_is_what_was_tested() -> None:
    """These tests run with it."""
    assert check(allow_untested=False) == []


def test_the_worker_extra_pins_what_was_tested() -> None:
    """One truth in two places."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    pins = [pin.replace(" ", "") for pin in project["project"]["optional-dependencies"]["worker"]]
    for package, version in TESTED.items():
        assert any(pin.split("[")[0].split("=")[0] == package and pin.endswith(f"=={version}") for pin in pins)


def test_another_version_is_refused_by_name() -> None:
    """With the version found, the one tested, and both ways out."""
    found = dict(TESTED) | {"aiokafka": "0.99.0"}
    with pytest.raises(ConfigurationError) as refused:
        check(allow_untested=False, found=found)
    for word in ("aiokafka is 0.99.0", TESTED["aiokafka"], "dlq-stream[worker]", "DLQ_UNTESTED_VERSIONS"):
        assert word in str(refused.value)
    assert "mode-streaming" not in str(refused.value)


def test_a_setting_overrides() -> None:
    """What differs is still said."""
    found = dict(TESTED) | {"mode-streaming": "0.0.1"}
    assert check(allow_untested=True, found=found) == [f"mode-streaming is 0.0.1, tested is {TESTED['mode-streaming']}"]


def test_what_is_not_there_is_said_to_be_not_installed() -> None:
    """No traceback of importlib's."""
    assert installed("no-such-distribution-at-all") == "not installed"
