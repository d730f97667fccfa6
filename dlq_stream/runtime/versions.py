"""Refuses to run on versions of Faust and its clients that this package was not tested with.

The overrides beside this module depend on about twenty private names; another version may start and then lose records.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from dlq_stream.core.errors import ConfigurationError

TESTED: Mapping[str, str] = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0", "mode-streaming": "0.7.1"}
"""The versions that the tests run with, as pinned by the ``worker`` extra."""


def installed(package: str) -> str:
    """The installed version of a distribution, or ``not installed``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def check(*, allow_untested: bool, found: Mapping[str, str] | None = None) -> list[str]:
    """Differences from `TESTED`, as sentences; raises `ConfigurationError` unless ``allow_untested``."""
    have = {package: installed(package) for package in TESTED} if found is None else found
    differences = [
        f"{package} is {have[package]}, tested is {tested}"
        for package, tested in TESTED.items()
        if have[package] != tested
    ]
    if differences and not allow_untested:
        raise ConfigurationError(
            f"not tested with these versions: {'; '.join(differences)}. Install the worker extra "
            f"(pip install 'dlq-stream[worker]'), or set untested_versions=true (DLQ_UNTESTED_VERSIONS=1) to run anyway"
        )
    return differences
