"""What holds for every test: a clean environment, one hypothesis profile, and a loud word about what did not run.

Tests that need a broker always start one of their own, on a free port, even where DLQ_BROKERS names another: they
create, delete and damage things. So every DLQ_* variable is taken out of the environment first, and no developer's
settings reach a test; only the place of the launcher's jars stays.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.kafka_fixture import kafka, kafka_factory, missing_prerequisites
from tests.promises import MEASURED
from tests.undisturbed import logging_as_it_was

__all__ = ["kafka", "kafka_factory"]

IN_CI = os.environ.get("CI", "").lower() in {"true", "1"}
INTEGRATION = Path(__file__).parent / "integration"
KAFKA_FIXTURES = {"kafka", "kafka_factory"}
WITHOUT_KAFKA = pytest.StashKey[list[str]]()

settings.register_profile(
    "dlq_stream",
    deadline=None,  # two busy cores: a slow example is no failure
    derandomize=IN_CI,  # a commit passes or fails, whoever's day it is
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("dlq_stream")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--simulation-seeds", type=int, default=1_000, help="how many seeds tests/simulation runs")


def pytest_configure(config: pytest.Config) -> None:
    for name in [name for name in os.environ if name.startswith("DLQ_") and name != "DLQ_KAFKA_CACHE"]:
        del os.environ[name]
    config.stash[WITHOUT_KAFKA] = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever uses a broker's fixture, kills things or stands among the integration tests is marked `kafka`.

    Before `-m` chooses.
    """
    for item in items:
        if (
            KAFKA_FIXTURES & set(getattr(item, "fixturenames", ()))
            or item.get_closest_marker("crash")
            or INTEGRATION in item.path.parents
        ):
            item.add_marker("kafka")


@pytest.fixture(autouse=True)
def undisturbed_logging() -> Generator[None, None, None]:
    """Whatever a test runs; fixtures that live longer see to it themselves."""
    with logging_as_it_was():
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kafka") is None:
        return
    if missing_prerequisites():
        item.config.stash[WITHOUT_KAFKA].append(item.nodeid)
        if IN_CI:
            pytest.fail("needs Kafka, see the last line", pytrace=False)
        pytest.skip("needs Kafka, see the last line")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    """Promised times as they were measured; the loud line comes last, behind pytest's own summary."""
    yield
    if MEASURED:
        terminalreporter.section("promised times")
        for line in MEASURED:
            terminalreporter.write_line(line)
    count = len(config.stash[WITHOUT_KAFKA])
    if count:
        verb = "NOT RUN, which fails with CI=true" if IN_CI else "SKIPPED"
        line = f"!!! {count} tests that need Kafka were {verb}: {missing_prerequisites()}"
        terminalreporter.write_line(line, red=True, bold=True)
