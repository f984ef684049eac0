"""The agent's bookkeeper: reads Envoy's counters, keeps the ledger, and says which clients and APIs have had enough.

Post-paid: what was in flight when a bound was reached is still served, and counted. A budget whose ledger cannot be
read or written is treated as spent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from ax_gateway.accounts import Accounts, Meter, Purchase, Spent
from ax_gateway.admin import Admin, EnvoyAway
from ax_gateway.envoy.routes import Verdicts
from ax_gateway.hosted import HostedAPI
from ax_gateway.keys import Client
from ax_gateway.ledger import SELECTOR, Ledger, rows_from_json, rows_to_json
from ax_gateway.table import RouteTable
from ax_gateway.world import Change
from ax_operator.kinds import CONFIGMAP, Kind
from ax_operator.kube_errors import KubeError

logger = logging.getLogger(__name__)

READ_SECONDS = 2.0
WRITE_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A ledger that could not be written for this long closes what has a budget."""
OURS = "^ax\\."


class Books(Protocol):
    """What the bookkeeper needs of `ax_operator.kube.Kube`."""

    def watch(self, kind: Kind, namespace: str | None = None, labels: str | None = None) -> AsyncIterator[Change]: ...
    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]: ...


class Bookkeeper:
    """`follow_ledger` and `follow_counters` run for ever; `changed` is called when a verdict is another one."""

    def __init__(
        self, books: Books, admin: Admin, namespace: str, node: str, folder: Path, changed: Callable[[], None]
    ) -> None:
        self._books = books
        self._admin = admin
        self._namespace = namespace
        self._path = folder / "accounts.json"
        self._changed = changed
        self._meter = Meter()
        self._envoy_started = 0.0
        self._written = 0.0
        self._listed = False
        self._known = asyncio.Event()
        self._table = RouteTable()
        self._apis: dict[str, HostedAPI] = {}
        self._clients: tuple[Client, ...] = ()
        self._gateways = 1
        self.accounts = Accounts()
        self.ledger = Ledger(node)
        self.bought: dict[Purchase, Spent] = {}
        """What this gateway bought since the agent's start."""
        self.verdicts = Verdicts()
        self.closed: dict[str, str] = {}
        """Why APIs with a budget must not be used now."""

    @property
    def apis(self) -> tuple[str, ...]:
        """The names of the hosted APIs, sorted."""
        return tuple(sorted(self._apis))

    def hosted(self) -> dict[str, dict[str, float | str]]:
        """Return what `/v1/load` tells of each hosted API: its state, and KRW spent today by all gateways."""
        states = self.accounts.api_state
        return {
            name: {"state": states.get(name, "unknown"), "spentToday": round(self.ledger.spent_on(name), 2)}
            for name in self.apis
        }

    def know(self, table: RouteTable, apis: Iterable[HostedAPI], clients: tuple[Client, ...], gateways: int) -> None:
        """Judge by these objects from now on."""
        self._table, self._apis = table, {api.name: api for api in apis}
        self._clients, self._gateways = clients, gateways
        self._known.set()
        self._judge()

    async def follow_ledger(self) -> None:
        """Read what other gateways spend."""
        async for event in self._books.watch(CONFIGMAP, self._namespace, SELECTOR):
            self.ledger.turn(time.time())
            if event.type == "SYNCED":
                self._listed = True
            elif event.type != "DELETED":
                try:
                    self.ledger.observe(event.object)
                except ValueError as problem:
                    self._listed = False
                    logger.error("Found a ledger that cannot be read", extra={"reason": str(problem)})
            self._judge()

    async def follow_counters(self) -> None:
        """Read Envoy's counters, judge, and write the ledger, for ever: once prices and models are known."""
        self._resume()
        await self._known.wait()
        self._written = time.monotonic()
        next_write = 0.0
        while True:
            try:
                await self._read()
            except EnvoyAway as problem:
                logger.debug("Could not read Envoy's counters", extra={"reason": str(problem)})
            self._judge()
            if time.monotonic() >= next_write:
                next_write = time.monotonic() + WRITE_SECONDS
                await self._write()
            await asyncio.sleep(READ_SECONDS)

    async def _read(self) -> None:
        self.ledger.turn(time.time())
        started = time.time() - await self._admin.uptime()
        if abs(started - self._envoy_started) > 10:
            self._meter, self._envoy_started = Meter(), started
        deltas = self._meter.read(await self._admin.prometheus(OURS))
        if not deltas:
            return
        by_name = {name: route for route in self._table.routes for name in (*route.names, route.key)}
        bought = self.accounts.take(deltas, by_name, self._apis, time.monotonic())
        self.ledger.add(bought)
        for key, spent in bought.items():
            self.bought[key] = self.bought.get(key, Spent()) + spent
        self._keep()

    async def _write(self) -> None:
        if not any(api.daily_budget is not None for api in self._apis.values()) and not self.ledger.mine:
            self._written = time.monotonic()
            return
        try:
            await self._books.apply(self.ledger.manifest(self._namespace))
            self._written = time.monotonic()
        except KubeError as problem:
            logger.warning("Could not write the ledger", extra={"reason": str(problem)})

    def _judge(self) -> None:
        """Decide anew who has had enough; tell when that is somebody else than before."""
        stale = self._written and time.monotonic() - self._written > STALE_SECONDS
        readable = self._listed and not stale
        closed = {}
        for api in self._apis.values():
            if api.daily_budget is None:
                continue
            if not readable:
                closed[api.name] = "its budget's ledger cannot be read or written"
            elif self.ledger.spent_on(api.name) >= api.daily_budget:
                closed[api.name] = f"its budget of {api.daily_budget:g} KRW is spent until midnight in Seoul"
        now = time.monotonic()
        blocked, on_prem = set(), set()
        for client in self._clients:
            policy = client.policy
            if policy.tokens_per_minute is not None:
                share = policy.tokens_per_minute / max(1, self._gateways)
                if self.accounts.used(client.name, now) >= share:
                    blocked.add(client.tag)
            if policy.daily_krw is not None and (not readable or self.ledger.spent_by(client.name) >= policy.daily_krw):
                on_prem.add(client.tag)
        verdicts = Verdicts(frozenset(blocked), frozenset(on_prem))
        if (verdicts, closed) != (self.verdicts, self.closed):
            logger.info(
                "Judged clients and hosted APIs anew",
                extra={"blocked": len(blocked), "on_prem": len(on_prem), "closed": ",".join(sorted(closed)) or "-"},
            )
            self.verdicts, self.closed = verdicts, closed
            self._changed()

    def _keep(self) -> None:
        """Keep what was counted, so that a restarted agent counts nothing twice."""
        seen = [[name, labels, value] for (name, labels), value in self._meter.seen.items()]
        kept = {
            "started": self._envoy_started,
            "seen": seen,
            "day": self.ledger.day,
            "rows": rows_to_json(self.ledger.mine),
        }
        draft = self._path.with_suffix(".new")
        draft.write_text(json.dumps(kept, separators=(",", ":")))
        draft.replace(self._path)

    def _resume(self) -> None:
        try:
            kept = json.loads(self._path.read_bytes())
            seen = {
                (name, tuple((key, text) for key, text in labels)): int(value) for name, labels, value in kept["seen"]
            }
            self._meter, self._envoy_started = Meter(seen), float(kept["started"])
            self.ledger.turn(time.time())
            self.ledger.resume(kept["day"], rows_from_json(kept["rows"]))
        except FileNotFoundError:
            logger.info("Began new accounts", extra={"path": str(self._path)})
        except (OSError, ValueError, KeyError, TypeError) as problem:
            logger.warning("Began new accounts", extra={"path": str(self._path), "reason": str(problem)})
