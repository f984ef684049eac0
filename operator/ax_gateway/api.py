"""The agent's own HTTP API, inside the cluster: probes, metrics, load for the operator, drain for the kubelet."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from aiohttp import web

from ax_gateway.admin import Admin, EnvoyAway
from ax_gateway.envoy.words import LISTENER
from ax_gateway.load import Load, as_json
from ax_gateway.metrics import of_envoy

logger = logging.getLogger(__name__)

LONGEST_POLL_SECONDS = 60.0


class Facts(Protocol):
    """What the API tells of the agent."""

    @property
    def complete(self) -> bool: ...
    @property
    def secured(self) -> bool: ...
    @property
    def rejected(self) -> dict[str, str]: ...
    def hosted(self) -> dict[str, dict[str, float | str]]: ...
    def metrics(self) -> str: ...


class Api:
    """Serves /healthz, /readyz, /metrics, /v1/load and /drain."""

    def __init__(self, facts: Facts, admin: Admin, load: Load, drain_seconds: float) -> None:
        self._facts = facts
        self._admin = admin
        self._load = load
        self._drain_seconds = drain_seconds
        self._runner: web.AppRunner | None = None

    async def start(self, address: str, port: int) -> int:
        """Listen; return the port, which the system chooses for 0."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/v1/load", self._loads),
                web.get("/drain", self._drain),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, address, port).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Hang up."""
        if self._runner:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        """Ready when Envoy has the listener: it also calls itself live without one."""
        if not self._facts.secured:
            return web.Response(status=503, text="Envoy has no certificate for clients yet\n")
        if await self._admin.is_serving(LISTENER):
            return web.Response(text="ok\n")
        return web.Response(status=503, text="Envoy has no listener for clients yet\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        try:
            envoy = of_envoy(await self._admin.prometheus())
        except EnvoyAway as problem:
            logger.warning("Left out Envoy's metrics", extra={"reason": str(problem)})
            envoy = ""
        return web.Response(text=envoy + self._facts.metrics(), content_type="text/plain")

    async def _loads(self, request: web.Request) -> web.Response:
        try:
            version = int(request.query.get("version", "0"))
            wait = min(LONGEST_POLL_SECONDS, max(0.0, float(request.query.get("wait", "0"))))
        except ValueError:
            return web.json_response({"error": "version and wait must be numbers"}, status=400)
        version, loads = await self._load.poll(version, wait)
        body = {
            "version": version,
            "complete": self._facts.complete,
            "rejected": self._facts.rejected,
            "hosted": self._facts.hosted(),
            "models": as_json(loads),
        }
        return web.json_response(body)

    async def _drain(self, _: web.Request) -> web.Response:
        """Send clients elsewhere and answer when the last stream has ended; the kubelet waits for it."""
        await self._admin.drain()
        deadline = asyncio.get_running_loop().time() + self._drain_seconds
        active = r"^http\.clients\.downstream_rq_active$"
        while asyncio.get_running_loop().time() < deadline:
            if not any((await self._admin.gauges(active)).values()):
                return web.Response(text="drained\n")
            await asyncio.sleep(0.25)
        return web.Response(text="streams were still open\n")
