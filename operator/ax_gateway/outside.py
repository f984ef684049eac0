"""Where hosted APIs are: names become addresses, again and again, and bad addresses close an API."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable

from ax_gateway.hosted import HostedAPI, Network, Refused, allowed_addresses

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 30.0
BEHIND_PROXY = "192.0.2.1"
"""Stands for a name that only the proxy resolves; nobody connects to it (RFC 5737)."""


class Addresses:
    """The addresses of the hosted APIs that are wanted; `changed` is called when they are others.

    proxy: name and port of a proxy on the way there. It may resolve names that nobody else does.
    """

    def __init__(
        self, excepted: Iterable[Network], changed: Callable[[], None], proxy: tuple[str, int] | None = None
    ) -> None:
        self._excepted = tuple(excepted)
        self._changed = changed
        self._proxy = proxy
        self._wanted: dict[str, HostedAPI] = {}
        self._look = asyncio.Event()
        self.found: dict[str, tuple[str, ...]] = {}
        """By the API's name; a name that does not resolve any more keeps its last addresses."""
        self.refused: dict[str, str] = {}
        """Why an API has no addresses, by its name."""
        self.proxy: tuple[str, int] | None = None
        """The proxy's address and port, once it is known."""

    def want(self, apis: Iterable[HostedAPI]) -> None:
        """Follow these APIs and no others."""
        wanted = {api.name: api for api in apis}
        if wanted != self._wanted:
            moved = {name for name, api in wanted.items() if self._wanted.get(name, api).host != api.host}
            self.found = {name: at for name, at in self.found.items() if name in wanted.keys() - moved}
            self.refused = {name: why for name, why in self.refused.items() if name in wanted.keys() - moved}
            self._wanted = wanted
            self._look.set()

    async def follow(self) -> None:
        """Resolve for ever."""
        while True:
            self._look.clear()
            before = (dict(self.found), dict(self.refused), self.proxy)
            await self._find_proxy()
            await asyncio.gather(*(self._resolve(api) for api in self._wanted.values()))
            if (self.found, self.refused, self.proxy) != before:
                self._changed()
            try:
                async with asyncio.timeout(AGAIN_SECONDS):
                    await self._look.wait()
            except TimeoutError:
                continue

    async def _find_proxy(self) -> None:
        if self._proxy:
            name, port = self._proxy
            try:
                self.proxy = ((await _addresses(name, port))[0], port)
            except OSError as problem:
                logger.warning("Could not resolve the proxy", extra={"proxy": name, "reason": problem.strerror})

    async def _resolve(self, api: HostedAPI) -> None:
        if self._proxy and not self.proxy:
            self._say(api.name, f"the proxy {self._proxy[0]} does not resolve")
            return
        try:
            self.found[api.name] = allowed_addresses(await _addresses(api.host, api.port), self._excepted)
            self.refused.pop(api.name, None)
        except Refused as problem:
            self.found.pop(api.name, None)
            self._say(api.name, str(problem))
        except OSError as problem:
            if self.proxy:
                self.found.setdefault(api.name, (BEHIND_PROXY,))
                self.refused.pop(api.name, None)
            elif api.name not in self.found:
                self._say(api.name, f"{api.host} does not resolve: {problem.strerror}")

    def _say(self, name: str, reason: str) -> None:
        if self.refused.get(name) != reason:
            self.refused[name] = reason
            logger.warning("Closed a hosted API", extra={"api": name, "reason": reason})


async def _addresses(name: str, port: int) -> list[str]:
    """Return the addresses of a name, at least one; raises OSError where there is none."""
    listed = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]) for each in listed]
