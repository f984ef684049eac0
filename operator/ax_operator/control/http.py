"""The operator's own HTTP server: /metrics for Prometheus, /healthz and /readyz for the kubelet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from aiohttp import web


class Http:
    """Serves on all addresses until it is closed; an async context manager.

    ailments: what is wrong with the process; anything fails /healthz. ready: whether it works already.
    """

    def __init__(
        self, port: int, metrics: Callable[[], bytes], ailments: Callable[[], list[str]], ready: Callable[[], bool]
    ) -> None:
        self._port = port
        self._metrics = metrics
        self._ailments = ailments
        self._ready = ready
        app = web.Application()
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/healthz", self._get_health)
        app.router.add_get("/readyz", self._get_readiness)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        # On all addresses of both families; a free port could not be the same one on both.
        await web.TCPSite(self._runner, None if self._port else "127.0.0.1", self._port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop serving; may be called twice."""
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._runner.addresses[0][1])

    async def _get_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _get_health(self, _: web.Request) -> web.Response:
        wrong = self._ailments()
        return web.Response(status=500 if wrong else 200, text="\n".join(wrong or ["ok"]) + "\n")

    async def _get_readiness(self, _: web.Request) -> web.Response:
        ready = self._ready()
        return web.Response(status=200 if ready else 503, text="ok\n" if ready else "not every kind is listed yet\n")
