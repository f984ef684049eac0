"""What tests of the shell start with: an operator in a fake cluster that runs, and pods that answer."""

from collections.abc import AsyncIterator

import pytest

from tests.control.house import House
from tests.control.pods import Pods


@pytest.fixture
async def house() -> AsyncIterator[House]:
    found = House()
    await found.start()
    yield found
    await found.operator.stop()


@pytest.fixture
async def pods() -> Pods:
    return Pods()
