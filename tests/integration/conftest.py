"""Every test here runs real processes on a real broker; a module's tests share a worker where they can."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.harness import App
from tests.kafka_fixture import LocalKafka

MakeApp = Callable[..., Awaitable[App]]


@pytest_asyncio.fixture
async def make_app(tmp_path: Path) -> AsyncIterator[MakeApp]:
    """Makes an app with its topics on a broker: ``await make_app(kafka, max_retries=1)``; it ends with the test."""
    async with AsyncExitStack() as stack:
        made: list[App] = []

        async def make(kafka: LocalKafka, **settings: object) -> App:
            directory = tmp_path / f"app-{len(made) + 1}"
            directory.mkdir()
            made.append(await stack.enter_async_context(App(kafka, directory, **settings)))
            return await made[-1].init()

        yield make


@pytest.fixture
def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
