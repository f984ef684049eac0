"""Real HTTP servers that stand for pods, and the signals that ask them, with a clock that a test moves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from ax_operator.control.cache import Cache
from ax_operator.control.metrics import Metrics
from ax_operator.control.questions import Questions
from ax_operator.control.signals import Signals
from ax_operator.control.wakes import Key, model_key
from tests.fakes import FakeCluster

SMOL = model_key("ns", "smol")


class Pods:
    """One HTTP server on a loopback address per pod, all on the same port."""

    def __init__(self) -> None:
        self.gauges: dict[str, dict[str, float] | str] = {}
        self.loads: dict[str, dict] = {}
        self.progress: dict[str, str] = {}
        self.port = 0
        self.changed = asyncio.Event()

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        found = self.gauges.get(request.host.partition(":")[0])
        if found is None:
            return web.Response(status=503)
        if isinstance(found, str):
            return web.Response(text=found)
        lines = [f'{name}{{model="engine",version="1"}} {value}' for name, value in found.items()]
        return web.Response(text="\n".join(["# HELP x y", *lines, "nv_cpu_utilization 0.5", ""]))

    async def load(self, request: web.Request) -> web.StreamResponse:
        host = request.host.partition(":")[0]
        while self.loads[host]["version"] == int(request.query["version"]):
            self.changed.clear()
            await self.changed.wait()
        return web.json_response(self.loads[host])

    async def built(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=self.progress[request.host.partition(":")[0]])


@asynccontextmanager
async def loopback(pods: Pods, *addresses: str) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_get("/metrics", pods.metrics)
    app.router.add_get("/v1/load", pods.load)
    app.router.add_get("/progress", pods.built)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    for address in addresses:
        await web.TCPSite(runner, address, pods.port).start()
        pods.port = pods.port or runner.addresses[0][1]
    try:
        yield
    finally:
        pods.changed.set()
        await runner.cleanup()


def pod(
    name: str, address: str, labels: dict[str, str], version: int = 1, ready: bool = True, **status: Any
) -> dict[str, Any]:
    """Return a pod that runs at an address."""
    conditions = [{"type": "Ready", "status": str(ready)}]
    meta = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": str(version), "labels": labels}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {"containers": []},
        "status": {"podIP": address, "conditions": conditions, "phase": "Running"} | status,
    }


class Rig:
    """Signals with a clock that a test moves, and a list of who was woken."""

    def __init__(self, questions: Questions, gateways: bool = False) -> None:
        self.now = 0.0
        self.cluster = FakeCluster()
        self.cache = Cache()
        self.woken: list[Key] = []
        self.first: list[Key] = []
        self.heard = asyncio.Event()
        self.signals = Signals(
            self.cluster,
            self.cache,
            questions,
            Metrics(),
            self._wake,
            gateway_namespace="ax-system" if gateways else None,
            pods_every=2,
            builds_every=5,
            clock=lambda: self.now,
        )

    def _wake(self, key: Key, *, first: bool = False) -> None:
        self.woken.append(key)
        if first:
            self.first.append(key)
        self.heard.set()

    async def until_woken(self, key: Key) -> None:
        async with asyncio.timeout(10):
            while key not in self.woken:
                self.heard.clear()
                await self.heard.wait()
