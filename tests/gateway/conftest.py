"""One gateway for all tests that leave it whole; tests that kill parts of it start their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.gateway.replica import Replica
from tests.gateway.rig import Rig


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    found = Rig(tmp_path_factory.mktemp("gateway"))
    try:
        await found.start()
        yield found
    finally:
        await found.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def own_rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A gateway that a test may break."""
    found = Rig(tmp_path)
    try:
        await found.start()
        yield found
    finally:
        await found.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def replica() -> AsyncIterator[Callable[..., Awaitable[Replica]]]:
    """Start replicas that end with the test."""
    started: list[Replica] = []

    async def start(name: str = "replica") -> Replica:
        started.append(await Replica(name).start())
        return started[-1]

    yield start
    for each in started:
        await each.stop()
