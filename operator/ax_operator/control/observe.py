"""Out of the cache into the plan's words: what one model sees, what a store sees, and the world they share.

The world is built once and kept until something that it depends on changes; building it for each of a thousand
models would be quadratic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from ax_engines.contract import Progress
from ax_engines.hardware import Gpu, Pool
from ax_engines.models import CatalogueEntry
from ax_engines.pools import pools_from_nodes
from ax_gateway.table import ModelRoute, model_route, route_table
from ax_operator.api.axhostedapi import AXHostedAPISpec
from ax_operator.api.names import GPU_PRODUCT, GPU_RESOURCE, MODEL
from ax_operator.control.cache import Cache, Change
from ax_operator.control.measures import Measured
from ax_operator.control.wakes import Key, model_key, node_changed
from ax_operator.kinds import (
    AXENGINE,
    AXHOSTEDAPI,
    AXMODEL,
    CONFIGMAP,
    DEPLOYMENT,
    JOB,
    NETWORKPOLICY,
    NODE,
    PDB,
    POD,
    PVC,
    SERVICE,
    SERVICEACCOUNT,
)  # fmt: skip
from ax_operator.plan.scaling import Load, Memory
from ax_operator.plan.world import Seen, Settings, World

Manifest = dict[str, Any]

OWNED = (CONFIGMAP, DEPLOYMENT, JOB, NETWORKPOLICY, PDB, POD, PVC, SERVICE, SERVICEACCOUNT)
"""Kinds of what we make; of these only objects with our label are watched."""
WATCHED = (AXMODEL, AXENGINE, AXHOSTEDAPI, NODE, *OWNED)


class Signals(Protocol):
    """What is measured rather than read from the API server."""

    def measured(self, key: Key) -> Measured | None: ...
    def progress(self, namespace: str) -> Mapping[str, Progress]: ...
    def forget(self, key: Key) -> None: ...
    async def first(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """What does not change while the process runs."""

    settings: Settings
    catalogue: Mapping[str, CatalogueEntry]
    gpus: tuple[Gpu, ...] = ()


class Observer:
    """Reads the cache for the plan; tell it of every change with `note`."""

    def __init__(self, cache: Cache, fixed: Fixed, signals: Signals) -> None:
        self._cache = cache
        self._fixed = fixed
        self._signals = signals
        self._routes: dict[Key, ModelRoute] = {}
        self._names: dict[str, str] | None = None
        self._pools: tuple[Pool, ...] | None = None
        self._waited: dict[str, int] | None = None
        self._world: World | None = None
        self.memories: dict[Key, Memory] = defaultdict(Memory)

    def note(self, change: Change) -> set[Key]:
        """Take over one change; return the models to which it gave or took a served name."""
        if change.kind == AXMODEL and change.respecified:
            self._world = None
            return self._renamed(change)
        if change.kind == AXHOSTEDAPI:
            self._world = None
        elif (change.kind == NODE and node_changed(change)) or (change.kind == POD and _moved(change)):
            self._world = self._pools = self._waited = None
        return set()

    def world(self) -> World:
        """Return what all models share."""
        if self._world is None:
            if self._pools is None:
                self._pools = pools_from_nodes(list(self._cache.select(NODE)), list(self._cache.select(POD)))
            self._world = World(
                settings=self._fixed.settings,
                catalogue=self._fixed.catalogue,
                gpus=self._fixed.gpus,
                pools=self._pools,
                hosted=dict(self._hosted()),
                names=self._holders(),
            )
        return self._world

    def model(self, key: Key, secret: Any = None) -> Seen:
        """Return what one model sees: its own objects and the AXEngines of its namespace."""
        mine = [o for kind in OWNED for o in self._cache.select(kind, key.namespace, {MODEL: key.name})]
        engines = self._cache.select(AXENGINE, key.namespace)
        return Seen(
            objects=(*mine, *engines),
            load=self._load(key, mine),
            memory=self.memories[key],
            progress=self._signals.progress(key.namespace),
            secret=secret,
        )

    def store(self, namespace: str) -> Seen:
        """Return what a namespace's store sees: everything of ours there, and each of its models."""
        models = []
        for model in self._cache.select(AXMODEL, namespace):
            if not model["metadata"].get("deletionTimestamp"):
                models.append((model, self.model(model_key(namespace, model["metadata"]["name"]))))
        ours = (o for kind in (AXENGINE, *OWNED) for o in self._cache.select(kind, namespace))
        return Seen(objects=tuple(ours), progress=self._signals.progress(namespace), models=tuple(models))

    def forget(self, key: Key) -> None:
        """Drop what was remembered of a model that is gone."""
        self.memories.pop(key, None)
        self._signals.forget(key)

    def _load(self, key: Key, mine: Iterable[Manifest]) -> Load | None:
        """Join what was measured with the model's replicas and its pool's free GPUs."""
        measured = self._signals.measured(key)
        if measured is None:
            return None
        deployments = [o for o in mine if o["kind"] == DEPLOYMENT.kind]
        asked = sum(int((d.get("spec") or {}).get("replicas") or 0) for d in deployments)
        ready = sum(int((d.get("status") or {}).get("readyReplicas") or 0) for d in deployments)
        return Load(
            running=measured.running,
            waiting=measured.waiting,
            held=measured.held,
            in_flight=measured.in_flight,
            overflowed=measured.overflowed,
            ready=ready,
            starting=max(0, asked - ready),
            pods_known=measured.pods_known,
            pods_answered=measured.pods_answered,
            metrics_age=measured.age,
            free_gpus=self._free_gpus(deployments),
            requests=measured.requests,
        )

    def _free_gpus(self, deployments: list[Manifest]) -> int | None:
        """GPUs of the pool that nobody uses and none of our pods waits for; None for a model without GPUs."""
        for deployment in deployments:
            selector = deployment["spec"]["template"]["spec"].get("nodeSelector") or {}
            for pool in self.world().pools:
                if pool.resource and dict(pool.node_selector).items() <= selector.items():
                    return max(0, pool.free_gpus - self._waiting().get(pool.gpu_product or "", 0))
        return None

    def _waiting(self) -> dict[str, int]:
        """GPUs by product that pods of ours without a node wait for."""
        if self._waited is None:
            self._waited = defaultdict(int)
            for pod in self._cache.select(POD):
                product = (pod["spec"].get("nodeSelector") or {}).get(GPU_PRODUCT)
                if product and not pod["spec"].get("nodeName") and not pod["metadata"].get("deletionTimestamp"):
                    self._waited[product] += _gpus(pod)
        return self._waited

    def _renamed(self, change: Change) -> set[Key]:
        before = self._names
        for each in change.objects:
            self._routes.pop(_key(each), None)
        if change.new is not None:
            try:
                self._routes[_key(change.new)] = model_route(change.new)
            except ValidationError:
                # A spec that is no spec holds no name; the plan says so in the model's own condition.
                self._routes.pop(_key(change.new), None)
        self._names = None
        if before is None:
            return set()
        after = self._holders()
        moved = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        return {key for key, route in self._routes.items() if not moved.isdisjoint(route.served_names)}

    def _holders(self) -> dict[str, str]:
        if self._names is None:
            listed = self._fixed.settings.bare_names
            table = route_table(self._routes.values(), {}, "*" if "*" in listed else frozenset(listed))
            self._names = {name: route.key for route in table.routes for name in route.names}
        return self._names

    def _hosted(self) -> Iterator[tuple[str, AXHostedAPISpec]]:
        for each in self._cache.select(AXHOSTEDAPI):
            try:
                yield each["metadata"]["name"], AXHostedAPISpec.model_validate(each.get("spec") or {})
            except ValidationError:
                # An older CRD let it in. Models that name it say that it does not exist.
                continue


def _key(model: Manifest) -> Key:
    return model_key(model["metadata"]["namespace"], model["metadata"]["name"])


def _moved(change: Change) -> bool:
    """Whether a pod found its node or ended: it takes or frees devices."""
    return change.old is None or change.new is None or _place(change.old) != _place(change.new)


def _place(pod: Manifest) -> tuple[Any, Any]:
    return (pod.get("spec") or {}).get("nodeName"), (pod.get("status") or {}).get("phase")


def _gpus(pod: Manifest) -> int:
    containers = [*(pod["spec"].get("initContainers") or ()), *pod["spec"].get("containers", ())]
    return max(
        (int(((c.get("resources") or {}).get("limits") or {}).get(GPU_RESOURCE, 0)) for c in containers), default=0
    )
