"""The gateway before a pod, for `serving.py`: the real Envoy and its agent, with everything on loopback."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.gateway.replica import Replica
from tests.gateway.rig import Rig


@contextmanager
def envoy_before(folder: Path, model: str, port: int) -> Iterator[tuple[int, dict[str, int]]]:
    """Run a gateway that routes `model` to this port; tell its own port and its processes."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    folder.mkdir()

    async def start() -> Rig:
        rig = Rig(folder)
        await rig.start()
        replica = Replica()
        replica.port = port
        namespace, _, name = model.partition("/")
        await rig.serve(name, replica, namespace=namespace)
        return rig

    try:
        rig = asyncio.run_coroutine_threadsafe(start(), loop).result(120)
        try:
            assert rig.envoy
            assert rig.agent
            yield rig.port, {"envoy": rig.envoy.pid, "agent": rig.agent.pid}
        finally:
            asyncio.run_coroutine_threadsafe(rig.stop(), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
