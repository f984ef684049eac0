"""Where requests wait while their model has no replica: an HTTP server on loopback that Envoy sends them to.

A waiting request is let go by an answer with `x-ax-hold: released`, on which Envoy tries the replicas; the answer to
that travels through Envoy alone. Bounded in time (the model's holdTimeout), number and bytes; beyond a bound the
client gets 503 with Retry-After. Bodies are read and dropped: Envoy keeps its own copy for the next try.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from aiohttp import web

from ax_gateway.envoy.replies import SERVER, error
from ax_gateway.envoy.words import ATTEMPT_HEADER, FINAL_HEADER, HOLD_HEADER, MODEL_HEADER
from ax_gateway.table import Route, RouteTable

logger = logging.getLogger(__name__)

LAST_ATTEMPT = 3
"""Envoy's route tries this often at most; a later answer of ours reaches the client."""
BEGIN_SECONDS = 10.0
"""How long a request waits for an agent that has just started to learn about models."""
CATCH_UP_SECONDS = 0.05
"""How long a request waits here whose replicas Envoy does not see yet, or has ejected."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait at once at this gateway."""

    requests: int = 1000
    body_bytes: int = 256 * 1024 * 1024


class Hold:
    """Waiting requests by model; `changed` is called when a count did."""

    def __init__(self, bounds: Bounds, changed: Callable[[], None] = lambda: None) -> None:
        self._bounds = bounds
        self._changed = changed
        self._routes: dict[str, Route] = {}
        self._known = asyncio.Event()
        self._ready: dict[str, asyncio.Event] = {}
        self._bytes = 0
        self._runner: web.AppRunner | None = None
        self.held: Counter[str] = Counter()
        """Requests that wait now, by `<namespace>/<name>`."""
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """Ended waits by model and outcome: released, timeout, full, refused, left."""

    def update(self, table: RouteTable) -> None:
        """Know these models; who waits for one that is gone is let go, and gets Envoy's 404 or 503."""
        self._routes = {name: route for route in table.routes for name in route.names}
        self._known.set()
        keys = {route.key for route in table.routes}
        for key in self._ready.keys() - keys:
            self._ready.pop(key).set()

    def set_ready(self, key: str, ready: bool) -> None:
        """Tell that Envoy knows a ready replica of this model, or that there is none; the former lets all go."""
        event = self._ready.setdefault(key, asyncio.Event())
        if ready:
            event.set()
        else:
            event.clear()

    async def start(self, port: int) -> int:
        """Listen on loopback; return the port, which the system chooses for 0."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._wait)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, keepalive_timeout=75)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port, backlog=4096).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Hang up; who waits is tried once more by Envoy."""
        if self._runner:
            await self._runner.cleanup()

    async def _wait(self, request: web.Request) -> web.Response:
        size = 0
        async for piece in request.content.iter_any():
            size += len(piece)
        with suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_SECONDS):
                await self._known.wait()
        route = self._routes.get(request.headers.get(MODEL_HEADER, ""))
        if route is None:
            return _refusal("The model is not served any more.", 5)
        key, event = route.key, self._ready.setdefault(route.key, asyncio.Event())
        if event.is_set():
            return await self._catch_up(request, key)
        if route.model.policy == "HostedOnly":
            message = f"'{key}' is served by a hosted API alone, which this request may not go to or which is closed."
            return self._ended(key, "refused", _refusal(message, 60))
        if route.model.while_unavailable != "Hold" and not route.hosted_meanwhile:
            return self._ended(key, "refused", _refusal(f"No replica of '{key}' is ready: try again later.", 10))
        if self.held.total() >= self._bounds.requests or self._bytes + size > self._bounds.body_bytes:
            return self._ended(key, "full", _refusal(f"Too many requests wait for a replica of '{key}'.", 10))
        return await self._until(event, key, size, route.model.hold_timeout)

    async def _until(self, event: asyncio.Event, key: str, size: int, seconds: float) -> web.Response:
        self.held[key] += 1
        self._bytes += size
        self._changed()
        outcome = "left"
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
            outcome = "released"
            return _released()
        except TimeoutError:
            outcome = "timeout"
            return _refusal(f"No replica of '{key}' got ready within {seconds:g} s: try again later.", 10)
        finally:
            self.outcomes[key, outcome] += 1
            self.held[key] -= 1
            self._bytes -= size
            if not self.held[key]:
                del self.held[key]
            self._changed()

    async def _catch_up(self, request: web.Request, key: str) -> web.Response:
        attempt = request.headers.get(ATTEMPT_HEADER, "1")
        if attempt.isdecimal() and int(attempt) >= LAST_ATTEMPT:
            return self._ended(key, "refused", _refusal(f"Every replica of '{key}' fails: try again later.", 5))
        await asyncio.sleep(CATCH_UP_SECONDS)
        return _released()

    def _ended(self, key: str, outcome: str, response: web.Response) -> web.Response:
        self.outcomes[key, outcome] += 1
        return response


def _released() -> web.Response:
    response = _refusal("No replica of this model could be reached: try again later.", 5)
    response.headers[HOLD_HEADER] = "released"
    del response.headers[FINAL_HEADER]
    return response


def _refusal(message: str, retry_after: int) -> web.Response:
    body = error(message, SERVER, "model_unavailable")
    headers = {"Retry-After": str(retry_after), FINAL_HEADER: "true", HOLD_HEADER: "refused"}
    return web.json_response(body, status=503, headers=headers)
