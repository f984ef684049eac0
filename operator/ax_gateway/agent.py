"""The gateway's agent: watches the cluster, configures the Envoy beside it, holds requests, reports load.

Nothing is sent to Envoy before every watch has listed its objects, because an incomplete world means removals. Where
the API server cannot be reached at start, the last world on the pod's volume is served until it can.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

from ax_gateway import xds
from ax_gateway.admin import Admin, EnvoyAway
from ax_gateway.api import Api
from ax_gateway.bookkeeping import Bookkeeper, Books
from ax_gateway.certificates import follow_certificate, trusted_certificates
from ax_gateway.envoy.gates import Outside
from ax_gateway.envoy.listener import Front
from ax_gateway.envoy.routes import Patience
from ax_gateway.envoy.words import on_prem_cluster, stat_name
from ax_gateway.hold import Bounds, Hold
from ax_gateway.load import Load, Loads, ModelLoad
from ax_gateway.metrics import exposition
from ax_gateway.outside import Addresses
from ax_gateway.settings import Settings
from ax_gateway.snapshot import Certificate, Shape, Snapshots, Surroundings, WayOut
from ax_gateway.table import Circumstances, Route, RouteTable, route_table
from ax_gateway.world import World
from ax_operator.api.names import MODEL, USABLE_BY, USABLE_BY_GATEWAY
from ax_operator.kinds import AXHOSTEDAPI, AXMODEL, ENDPOINTSLICE, SECRET, Kind
from ax_operator.kube import Kube

logger = logging.getLogger(__name__)

WATCHES: tuple[tuple[Kind, str | None], ...] = (
    (AXMODEL, None),
    (AXHOSTEDAPI, None),
    (ENDPOINTSLICE, MODEL),
    (SECRET, f"{USABLE_BY}={USABLE_BY_GATEWAY}"),
)
PACE_SECONDS = 0.05
"""The first change goes out at once, then at most one snapshot per this long."""
SAVE_SECONDS = 1.0
RUNNING = r"^cluster\.onprem_.*\.upstream_rq_active$"


class Agent:
    """Joins world, snapshots, Envoy and holding; `run` ends only when a part of it fails."""

    def __init__(self, settings: Settings, cluster: Books) -> None:
        self._settings = settings
        self._cluster = cluster
        self._world = World(settings.hosted_plain_http)
        self._table = RouteTable()
        self._snapshot: xds.Snapshot | None = None
        self._taken: dict[str, str] = {}
        self._clusters: dict[str, Route] = {}
        self._changed = asyncio.Event()
        self._certificate: Certificate | None = None
        self._addresses = Addresses(settings.excepted_networks, self._changed.set, settings.proxy_address)
        self._closed_now: dict[str, str] = {}
        self._problems: dict[str, str] = {}
        self._trusted = ""
        self._saving: asyncio.Task[None] | None = None
        self._admin = Admin(settings.admin_socket)
        self._xds = xds.Server(self._on_applied)
        self._books = Bookkeeper(
            cluster, self._admin, settings.namespace, settings.node, settings.state_dir, self._changed.set
        )
        self._load = Load(self._measure)
        self._hold = Hold(Bounds(settings.held_requests, settings.held_bytes), self._load.changed)
        self.api_port = 0

    @property
    def complete(self) -> bool:
        """Whether the world is the cluster's, not the last one from disk."""
        return self._world.complete

    @property
    def secured(self) -> bool:
        """Whether Envoy has what TLS needs: it opens the listener, and hangs up on everybody, without it too."""
        return self._settings.tls == "insecure" or xds.SECRET in self._xds.taken

    @property
    def rejected(self) -> dict[str, str]:
        """What Envoy refused, by type."""
        return self._xds.rejected

    def hosted(self) -> dict[str, dict[str, float | str]]:
        """Return the state of each hosted API, and why it is closed if it is."""
        found = self._books.hosted()
        for name, reason in (self._closed_now | self._problems).items():
            found.setdefault(name, {})["closed"] = reason
        return found

    def metrics(self) -> str:
        """Return the agent's own metrics as Prometheus' text."""
        return exposition(self._table, self._hold, self._xds, self._books, self.complete)

    async def run(self) -> None:
        """Serve until cancelled."""
        settings = self._settings
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._trusted = trusted_certificates(settings.ca_bundle)
        if settings.tls == "insecure":
            logger.warning("Clients are served without TLS, as the settings say")
        async with self._admin, asyncio.TaskGroup() as tasks:
            api = Api(self, self._admin, self._load, settings.drain_seconds)
            try:
                hold_port = await self._hold.start(settings.hold_port)
                self.api_port = await api.start(settings.address, settings.api_port)
                await self._xds.start(settings.socket)
                for kind, labels in WATCHES:
                    tasks.create_task(self._follow(kind, labels), name=f"watch {kind.plural}")
                tasks.create_task(self._addresses.follow(), name="addresses")
                if settings.accounts == "on":
                    tasks.create_task(self._books.follow_ledger(), name="ledger")
                    tasks.create_task(self._books.follow_counters(), name="counters")
                if settings.tls == "required":
                    tasks.create_task(follow_certificate(settings.tls_folder, self._on_certificate), name="certificate")
                await self._keep_up(hold_port)
            finally:
                await self._xds.stop()
                await self._hold.stop()
                await api.stop()

    async def _follow(self, kind: Kind, labels: str | None) -> None:
        namespace = self._settings.namespace if kind is SECRET else None
        async for event in self._cluster.watch(kind, namespace, labels):
            if self._world.change(kind.kind, event):
                self._changed.set()
        raise RuntimeError(f"the watch of {kind.plural} ended")

    def _on_certificate(self, found: Certificate) -> None:
        self._certificate = found
        self._changed.set()

    async def _keep_up(self, hold_port: int) -> None:
        snapshots = Snapshots(self._shape(hold_port))
        last = await self._last_world()
        if last:
            self._show(last, snapshots)
        while True:
            self._changed.clear()
            if self._world.complete:
                last = None
                self._show(self._world, snapshots)
                self._save_soon()
            elif last:
                self._show(last, snapshots)
            await asyncio.sleep(PACE_SECONDS)
            await self._changed.wait()

    def _shape(self, hold_port: int) -> Shape:
        settings = self._settings
        return Shape(
            address=settings.address,
            port=settings.port,
            hold_port=hold_port,
            front=Front(
                tls=settings.tls == "required",
                keys=settings.client_keys == "required",
                accounts=settings.accounts == "on",
                access_log=settings.access_log == "stdout",
            ),
            held=settings.held_requests,
            patience=Patience(settings.first_byte_seconds, settings.idle_seconds),
            outside=Outside(settings.hosted_first_byte_seconds, settings.idle_seconds, settings.replicas),
        )

    async def _last_world(self) -> World | None:
        """Wait for the cluster's world; out of patience return the one on disk, if there is one."""
        try:
            async with asyncio.timeout(self._settings.patience):
                while not self._world.complete:
                    await self._changed.wait()
                    self._changed.clear()
                return None
        except TimeoutError:
            last = World(self._settings.hosted_plain_http)
            found = last.load(self._path)
            logger.warning(
                "Got no answer from the API server",
                extra={"seconds": self._settings.patience, "serving": "the last world" if found else "nothing yet"},
            )
            return last if found else None

    def _show(self, world: World, snapshots: Snapshots) -> None:
        """Make this world the truth for Envoy and for who waits."""
        self._addresses.want(world.apis.values())
        ways_out = tuple(
            WayOut(api, self._addresses.found.get(name, ()), world.hosted_key(api))
            for name, api in sorted(world.apis.items())
        )
        self._closed_now, self._problems = self._closed(ways_out), dict(world.problems)
        now = Circumstances(self._settings.replicas, self._closed_now, self._books.accounts.service_seconds)
        bare = self._settings.bare_namespaces
        self._table = route_table(world.models.values(), world.replicas, bare, world.apis, now)
        self._clusters = {on_prem_cluster(route.key): route for route in self._table.routes}
        self._taken = {name: version for name, version in self._taken.items() if name in self._clusters}
        self._hold.update(self._table)
        clients = tuple(client for _, client in sorted(world.clients.items()))
        self._books.know(self._table, world.apis.values(), clients, self._settings.replicas)
        around = Surroundings(
            self._certificate, ways_out, clients, self._books.verdicts, self._addresses.proxy, self._trusted
        )
        self._snapshot = snapshots.build(self._table, around)
        for name, route in self._clusters.items():
            self._hold.set_ready(route.key, self._is_live(name, route))
        self._xds.update(self._snapshot)

    def _closed(self, ways_out: tuple[WayOut, ...]) -> dict[str, str]:
        """Return why hosted APIs must not be used now."""
        closed = self._addresses.refused | self._books.closed
        if self._settings.accounts == "off":
            budgets = (way.api.name for way in ways_out if way.api.daily_budget is not None)
            closed |= dict.fromkeys(budgets, "it has a budget, but the gateway's accounts are off")
        for way in ways_out:
            if way.api.secret and way.key is None:
                closed[way.api.name] = f"Secret {way.api.secret[0]!r} has no {way.api.secret[1]!r}"
            elif not way.addresses:
                closed.setdefault(way.api.name, "its name has not been resolved yet")
        return closed

    def _on_applied(self, kind: str, name: str, version: str) -> None:
        if kind != xds.ENDPOINTS:
            return
        self._taken[name] = version
        route = self._clusters.get(name)
        if route and self._is_live(name, route):
            self._hold.set_ready(route.key, True)

    def _is_live(self, cluster: str, route: Route) -> bool:
        """Whether Envoy itself knows of the replicas: a request let go before that would come back."""
        if not route.endpoints or self._snapshot is None:
            return False
        return self._taken.get(cluster) == self._snapshot[xds.ENDPOINTS][cluster].version

    def _save_soon(self) -> None:
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save())

    async def _save(self) -> None:
        await asyncio.sleep(SAVE_SECONDS)
        try:
            self._world.save(self._path)
        except OSError as problem:
            logger.error("Could not save the world", extra={"path": str(self._path), "reason": str(problem)})

    @property
    def _path(self) -> Path:
        return self._settings.state_dir / "world.json"

    async def _measure(self) -> Loads:
        held, overflowed = self._hold.held, self._books.accounts.overflowed()
        try:
            active = await self._admin.gauges(RUNNING)
        except EnvoyAway as problem:
            logger.warning("Left out what runs", extra={"reason": str(problem)})
            active = {}
        loads: Loads = {}
        for name, route in self._clusters.items():
            at_cluster = active.get(f"cluster.{stat_name(name)}.upstream_rq_active", 0)
            waiting = held[route.key]
            loads[route.key] = ModelLoad(max(0, at_cluster - waiting), waiting, overflowed[route.key])
        return loads


async def serve(settings: Settings) -> None:
    """Run an agent against the cluster that this pod, or $KUBECONFIG, points to, until SIGTERM."""
    task = asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)  # type: ignore[union-attr]
    async with Kube(manager=f"ax-gateway-{settings.node}") as cluster:
        try:
            await Agent(settings, cluster).run()
        except asyncio.CancelledError:
            logger.info("Stopped the agent")
