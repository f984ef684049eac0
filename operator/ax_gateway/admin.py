"""Questions to Envoy's admin API, which listens on a Unix socket that only this pod sees."""

from __future__ import annotations

import json

import aiohttp


class EnvoyAway(Exception):  # noqa: N818
    """Envoy's admin API gave no answer; the message says why."""


class Admin:
    """Envoy's admin API; an async context manager."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Admin:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(self._socket), timeout=aiohttp.ClientTimeout(total=10)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    async def is_serving(self, listener: str) -> bool:
        """Whether Envoy is live and has this listener: it also calls itself live when it has none."""
        try:
            if await self._request("GET", "/ready") != "LIVE\n":
                return False
            names = (line.partition("::")[0] for line in (await self._request("GET", "/listeners")).splitlines())
        except EnvoyAway:
            return False
        return listener in names

    async def gauges(self, pattern: str) -> dict[str, int]:
        """Return the gauges whose names match a regular expression."""
        text = await self._request("GET", "/stats", {"filter": pattern, "type": "Gauges", "usedonly": ""})
        pairs = (line.rpartition(": ") for line in text.splitlines())
        return {name: int(value) for name, _, value in pairs if value.isdecimal()}

    async def prometheus(self, pattern: str = "") -> str:
        """Return the statistics, or those whose names match a regular expression, in Prometheus' text format."""
        return await self._request("GET", "/stats/prometheus", {"usedonly": "", "filter": pattern})

    async def uptime(self) -> float:
        """Return how many seconds this Envoy has run."""
        found = json.loads(await self._request("GET", "/server_info"))
        return float(str(found["uptime_current_epoch"]).removesuffix("s"))

    async def drain(self) -> None:
        """Take no new connections, ask clients of the open ones to leave, and fail `/ready`."""
        await self._request("POST", "/healthcheck/fail")
        await self._request("POST", "/drain_listeners", {"graceful": "", "skip_exit": ""})

    async def _request(self, verb: str, path: str, query: dict[str, str] | None = None) -> str:
        if self._session is None:
            raise RuntimeError("Admin is used outside of its `async with`")
        words = "&".join(f"{key}={value}" if value else key for key, value in (query or {}).items())
        url = f"http://envoy{path}" + (f"?{words}" if words else "")
        try:
            async with self._session.request(verb, url) as response:
                text = await response.text()
                if response.status not in (200, 503):
                    raise EnvoyAway(f"{verb} {path}: HTTP {response.status}: {text[:200]}")
                return text
        except (TimeoutError, aiohttp.ClientError, OSError) as problem:
            raise EnvoyAway(f"{verb} {path}: {problem or type(problem).__name__}") from problem
