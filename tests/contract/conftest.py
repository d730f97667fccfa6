"""The fixture that runs the contract suite on every implementation."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.contract.harness import IMPLEMENTATIONS, Harness, Subject


@pytest_asyncio.fixture(params=IMPLEMENTATIONS)
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    """A harness of the implementation under test."""
    make: Any = request.param
    made: Harness = make(request)
    yield made
    await made.close()


@pytest_asyncio.fixture
async def subject(harness: Harness) -> Subject:
    """A new partition of the implementation under test."""
    return await harness.make()
