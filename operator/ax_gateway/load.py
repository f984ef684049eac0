"""What is in flight per model at this gateway, for the operator's long poll.

`running` counts requests at replicas, `held` those that wait for one, `overflowed` (since the agent's start) those
that went to a hosted API for lack of room. A poll returns when something changed since the version it names.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
"""Between two looks at Envoy's gauges, while somebody polls."""


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """Requests of one model at one gateway."""

    running: int = 0
    held: int = 0
    overflowed: int = 0


Loads = dict[str, ModelLoad]


class Load:
    """The last known loads under a version that grows; `measure` reads them anew."""

    def __init__(self, measure: Callable[[], Awaitable[Loads]]) -> None:
        self._measure = measure
        self._version = 0
        self._loads: Loads = {}
        self._look = asyncio.Event()

    def changed(self) -> None:
        """Look at once instead of after the pause: somebody began or ceased to wait."""
        self._look.set()

    async def poll(self, version: int, seconds: float) -> tuple[int, Loads]:
        """Return (version, loads) as soon as the version is another than the caller's, or after `seconds`."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            await self._refresh()
            left = deadline - asyncio.get_running_loop().time()
            if self._version != version or left <= 0:
                return self._version, self._loads
            self._look.clear()
            try:
                async with asyncio.timeout(min(PAUSE_SECONDS, left)):
                    await self._look.wait()
            except TimeoutError:
                continue

    async def _refresh(self) -> None:
        loads = await self._measure()
        if loads != self._loads or not self._version:
            self._version += 1
            self._loads = loads


def as_json(loads: Loads) -> dict[str, dict[str, int]]:
    """Return loads as `/v1/load` words them."""
    return {key: asdict(load) for key, load in sorted(loads.items())}
