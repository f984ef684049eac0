"""Joins the parts: what is heard wakes the queue, the queue reconciles, and lists find what was not heard.

    heard ─▶ cache ─▶ observer.note ─▶ keys ─▶ queue ─▶ reconciler
    resync: complete lists repair the cache; a change that a watch should have told by now means that it died

Nothing is reconciled before every kind was listed once: what is not known would look as if it were gone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

from ax_operator.api.names import MANAGED_BY, MANAGED_BY_VALUE
from ax_operator.control.cache import Cache, Change, address_of, version_of
from ax_operator.control.metrics import Metrics
from ax_operator.control.observe import OWNED, WATCHED, Fixed, Observer, Signals
from ax_operator.control.reconcile import Cluster, Reconciler
from ax_operator.control.report import Reporter
from ax_operator.control.wakes import EVERYTHING, Key, Wake, hosted_key, keys_of, model_key, own_key, store_key
from ax_operator.control.workqueue import WorkQueue
from ax_operator.kinds import AXENGINE, AXHOSTEDAPI, AXMODEL, Kind
from ax_operator.kube_errors import KubeError
from ax_operator.settings import ProcessSettings

logger = logging.getLogger(__name__)

Manifest = dict[str, Any]
OURS = f"{MANAGED_BY}={MANAGED_BY_VALUE}"
SETTLE_SECONDS = 1.0
"""Nodes and hosted APIs change in bursts; all models are looked at once, this long after the first change."""
LISTING_SECONDS = 2.0
"""Between two attempts to list a kind at the start, while its CRD is not installed or the server is away."""


class ListingCluster(Cluster, Protocol):
    """What of `kube.Kube` is used here."""

    async def list(
        self, kind: Kind, namespace: str | None = None, labels: str | None = None
    ) -> tuple[list[Manifest], str]: ...


def selector_of(kind: Kind) -> str | None:
    """Return the label selector by which a kind is listed and watched."""
    return OURS if kind in OWNED else None


class Operator:
    """The whole operator but for where its news come from."""

    def __init__(
        self,
        kube: ListingCluster,
        fixed: Fixed,
        process: ProcessSettings,
        *,
        signals: Callable[[Cache, Metrics, Wake], Signals],
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._process = process
        self.cache = Cache()
        self.metrics = Metrics()
        self._signals = signals(self.cache, self.metrics, self.wake)
        self._observer = Observer(self.cache, fixed, self._signals)
        self._reporter = Reporter(kube, self.cache, self.metrics, self._reported)
        self._reconciler = Reconciler(kube, self.cache, self._observer, self._reporter, self._noted, clock)
        self.queue: WorkQueue[Key] = WorkQueue(self._work, workers=process.workers, expected=(KubeError,), clock=ticks)
        self._resync: asyncio.Task[None] | None = None
        self.dead_watches: set[Kind] = set()

    # --- life ---

    async def start(self) -> None:
        """List every kind, however long that takes, then begin to work."""
        for kind in WATCHED:
            await self._list_first(kind)
        await self._signals.first()
        self.queue.start()
        for model in self.cache.select(AXMODEL):
            self.wake(model_key(model["metadata"]["namespace"], model["metadata"]["name"]))
        for api in self.cache.select(AXHOSTEDAPI):
            self.wake(hosted_key(api["metadata"]["name"]))
        for kind in (AXENGINE, *OWNED):  # a store may have to be swept after its last engine and model have gone
            for each in self.cache.select(kind):
                self.wake(store_key(each["metadata"]["namespace"]))
        self._resync = asyncio.create_task(self._resyncs(), name="resync")
        logger.info("Started", extra={"models": self.cache.count(AXMODEL), "engines": self.cache.count(AXENGINE)})

    async def stop(self) -> None:
        """Finish what runs and start nothing new."""
        if self._resync:
            self._resync.cancel()
            await asyncio.gather(self._resync, return_exceptions=True)
        await self.queue.stop(self._process.grace_seconds)
        logger.info("Stopped")

    @property
    def ready(self) -> bool:
        """Whether every kind has been listed."""
        return self.cache.synced(WATCHED)

    def ailments(self) -> list[str]:
        """Return what is wrong with this process, each in a few words; empty while it is alive."""
        found = [f"the watch of {kind.plural} is dead" for kind in sorted(self.dead_watches, key=lambda k: k.plural)]
        if self._resync is not None:
            if not self.queue.alive:
                found.append("the queue is dead")
            if self._resync.done():
                found.append(f"the resync is dead: {death(self._resync)}")
        return found

    def render_metrics(self) -> bytes:
        """Return the series in Prometheus' text format; gauges are read now."""
        self.metrics.depth.set(len(self.queue.backlog))
        self.metrics.running.set(self.queue.backlog.running)
        self.metrics.count_models(self.cache.select(AXMODEL))
        return self.metrics.render()

    # --- news ---

    def heard(self, kind: Kind, type_: Literal["ADDED", "MODIFIED", "DELETED"] | None, manifest: Manifest) -> None:
        """Take over what a watch told; does no I/O."""
        self.dead_watches.discard(kind)
        change = self.cache.remove(kind, manifest) if type_ == "DELETED" else self.cache.put(kind, manifest)
        if change:
            self._noted(change)

    def wake(self, key: Key, *, first: bool = False) -> None:
        """Have a key worked on, in its turn or before all others."""
        self.queue.add(key, SETTLE_SECONDS if key == EVERYTHING else 0.0, first=first)

    def _noted(self, change: Change, without: Key | None = None) -> None:
        if change.old is not None and change.new is None:
            self._reporter.forget(change.old["metadata"]["uid"])
        keys = keys_of(change) | self._observer.note(change)
        if change.kind == AXENGINE:
            meta = change.objects[0]["metadata"]
            keys |= self._reconciler.users(meta["namespace"], meta["name"])
        for key in keys - {without}:
            self.wake(key)

    def _reported(self, change: Change) -> None:
        """Take over the answer to a status that we wrote; only a condition that flipped calls for another look."""
        meta = (change.new or {})["metadata"]
        own = own_key(change.kind, meta)
        self._noted(change, without=None if change.respecified or _flipped(change) else own)

    # --- work ---

    async def _work(self, key: Key) -> float | None:
        if key == EVERYTHING:
            for model in self.cache.select(AXMODEL):
                self.wake(model_key(model["metadata"]["namespace"], model["metadata"]["name"]))
            return None
        started, result = time.perf_counter(), "failed"
        try:
            again = await self._reconciler.reconcile(key)
            result = "done"
            return again
        finally:
            self.metrics.reconciles.labels(key.kind, result).inc()
            self.metrics.seconds.labels(key.kind).observe(time.perf_counter() - started)

    # --- lists ---

    async def _list_first(self, kind: Kind) -> None:
        while True:
            try:
                items, version = await self._kube.list(kind, labels=selector_of(kind))
            except KubeError as error:
                logger.warning("Could not list a kind yet", extra={"kind": kind.kind, "error": str(error)})
                await asyncio.sleep(LISTING_SECONDS)
                continue
            for change in self.cache.replace(kind, items, version):
                self._observer.note(change)
            return

    async def _resyncs(self) -> None:
        """List everything now and then, and look at every model again, spread over the time until the next."""
        await asyncio.sleep(self._process.first_resync_seconds)
        for kind in WATCHED:
            await self.resync(kind, starting=True)
        while True:
            await asyncio.sleep(self._process.resync_seconds)
            for kind in WATCHED:
                await self.resync(kind)
            for model in self.cache.select(AXMODEL):
                key = model_key(model["metadata"]["namespace"], model["metadata"]["name"])
                self.queue.add(key, self._process.resync_seconds * random.random())  # noqa: S311

    async def resync(self, kind: Kind, *, starting: bool = False) -> None:
        """List one kind and repair the cache; a watch that has not told in time counts as dead, unless it starts."""
        try:
            items, version = await self._kube.list(kind, labels=selector_of(kind))
        except KubeError as error:
            logger.warning("Could not list a kind", extra={"kind": kind.kind, "error": str(error)})
            return
        if not self._behind(kind, items, version):
            return
        await asyncio.sleep(min(1.0, self._process.watch_lag_seconds) if starting else self._process.watch_lag_seconds)
        missed = self.cache.replace(kind, items, version)
        for change in missed:
            self._noted(change)
        if missed and not starting:
            self.dead_watches.add(kind)
            self.metrics.repairs.labels(kind.kind).inc(len(missed))
            logger.error("Found changes that the watch has missed", extra={"kind": kind.kind, "objects": len(missed)})

    def _behind(self, kind: Kind, items: list[Manifest], version: str) -> bool:
        """Whether the cache lacks anything of a list made at `version`."""
        listed = {address_of(kind, item): item for item in items}
        for address, item in listed.items():
            known = self.cache.get(*address)
            if known is None or version_of(known) < version_of(item):
                return True
        known_of = ((address_of(kind, each), each) for each in self.cache.select(kind))
        return any(address not in listed and version_of(each) <= int(version) for address, each in known_of)


def death(task: asyncio.Task[None]) -> str:
    """Say what ended a task that should never have ended."""
    return "it was cancelled" if task.cancelled() else repr(task.exception())


def _flipped(change: Change) -> bool:
    found = [
        {(c["type"], c["status"]) for c in (o.get("status") or {}).get("conditions") or ()} for o in change.objects
    ]
    return found[0] != found[-1]
