"""Out of the cache into the plan's words: what one model sees, what a store sees, and the world they share.

The world is built once and kept until something that it depends on changes; building it for each of a thousand
models would be quadratic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pydantic import ValidationError

from ax_engines.hardware import Gpu
from ax_engines.models import CatalogueEntry
from ax_engines.tasks import Progress
from ax_gateway.table import ModelRoute, model_route, route_table
from ax_operator.api.axhostedapi import AXHostedAPISpec
from ax_operator.api.names import MODEL
from ax_operator.control.cache import Cache, Change
from ax_operator.control.devices import Devices, Foreign
from ax_operator.control.measures import Measured
from ax_operator.control.queues import Queues
from ax_operator.control.wakes import Key, model_key
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
from ax_operator.plan.hosted import Told
from ax_operator.plan.scaling import Load, Memory
from ax_operator.plan.world import Seen, Settings, World

Manifest = dict[str, Any]

OWNED = (CONFIGMAP, DEPLOYMENT, JOB, NETWORKPOLICY, PDB, POD, PVC, SERVICE, SERVICEACCOUNT)
"""Kinds of what we make; of these only objects with our label are watched."""
EMPTY = Memory()
WATCHED = (AXMODEL, AXENGINE, AXHOSTEDAPI, NODE, *OWNED)


class Signals(Protocol):
    """What is measured rather than read from the API server."""

    @property
    def foreign(self) -> Foreign: ...
    def measured(self, key: Key) -> Measured | None: ...
    def busy(self, key: Key) -> Mapping[str, float]: ...
    def closed(self) -> frozenset[str]: ...
    def hosted(self, api: str) -> tuple[Told, ...]: ...
    def refused(self) -> str | None: ...
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
        self._devices = Devices(cache, signals.foreign)
        self._queues = Queues(fixed.settings)
        self._world: World | None = None
        self._memories: dict[Key, Memory] = {}

    def note(self, change: Change) -> set[Key]:
        """Take over one change; return the models whose name or turn it gave or took."""
        if change.kind == AXMODEL and change.respecified:
            self._world = None
            return self._renamed(change)
        if change.kind == DEPLOYMENT:
            self._devices.note(change)
            return self._queues.note(change)
        if self._devices.note(change) or change.kind == AXHOSTEDAPI:
            self._world = None
        return set()

    def world(self) -> World:
        """Return what all models share."""
        if self._world is None:
            self._world = World(
                settings=self._fixed.settings,
                catalogue=self._fixed.catalogue,
                gpus=self._fixed.gpus,
                machines=self._devices.machines(),
                hosted=dict(self._hosted()),
                names=self._holders(),
            )
        closed, refused = self._signals.closed(), self._signals.refused()
        if (closed, refused) != (self._world.closed, self._world.refused):
            self._world = replace(self._world, closed=closed, refused=refused)
        return self._world

    def hosted(self, name: str) -> tuple[Told, ...]:
        """Return what each gateway says of a hosted API."""
        return self._signals.hosted(name)

    def model(self, key: Key, secret: Any = None, *, rivals: bool = True) -> Seen:
        """Return what one model sees: its own objects, its namespace's AXEngines, and who rolls before it."""
        mine = [o for kind in OWNED for o in self._cache.select(kind, key.namespace, {MODEL: key.name})]
        engines = self._cache.select(AXENGINE, key.namespace)
        return Seen(
            objects=(*mine, *engines),
            load=self._load(key, mine),
            memory=self._memories.get(key, EMPTY),
            progress=self._signals.progress(key.namespace),
            secret=secret,
            takers=self._takers(mine),
            rivals=tuple(self._rivals(key, mine)) if rivals else (),
        )

    def _takers(self, mine: list[Manifest]) -> tuple[Manifest, ...]:
        waits = any(o["kind"] == POD.kind and not o["spec"].get("nodeName") for o in mine)
        return self._devices.takers() if waits else ()

    def _rivals(self, key: Key, mine: list[Manifest]) -> Iterator[tuple[Manifest, Seen]]:
        """Yield the models that roll before this one, should the chart make it roll, and what each sees."""
        for other in self._queues.before(key, [o for o in mine if o["kind"] == DEPLOYMENT.kind]):
            model = self._cache.get(AXMODEL, other.namespace, other.name)
            if model is not None:
                yield model, self.model(other, rivals=False)

    def store(self, namespace: str) -> Seen:
        """Return what a namespace's store sees: everything of ours there, and each of its models."""
        models = []
        for model in self._cache.select(AXMODEL, namespace):
            if not model["metadata"].get("deletionTimestamp"):
                models.append((model, self.model(model_key(namespace, model["metadata"]["name"]))))
        ours = [o for kind in (AXENGINE, *OWNED) for o in self._cache.select(kind, namespace)]
        progress, takers = self._signals.progress(namespace), self._takers(ours)
        return Seen(objects=tuple(ours), progress=progress, takers=takers, models=tuple(models))

    def busy(self, key: Key) -> Mapping[str, float]:
        """Return the requests that each of a model's pods has, as last told."""
        return self._signals.busy(key)

    def remember(self, key: Key, memory: Memory, decided: int | None = None) -> None:
        """Keep what the model's plan wants to know the next time, and the replicas that it decided."""
        self._memories[key] = memory
        self._devices.remember(key, memory, decided)

    def forget(self, key: Key) -> None:
        """Drop what was remembered of a model that is gone."""
        self.remember(key, EMPTY)
        del self._memories[key]
        self._signals.forget(key)

    def _load(self, key: Key, mine: Iterable[Manifest]) -> Load | None:
        """Join what was measured with the model's replicas and its pool's free GPUs."""
        measured = self._signals.measured(key)
        if measured is None:
            return None
        deployments = [o for o in mine if o["kind"] == DEPLOYMENT.kind]
        asked = self._asked(key, deployments)
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
            free_gpus=self._devices.free(key),
            requests=measured.requests,
        )

    def _asked(self, key: Key, deployments: Iterable[Manifest]) -> int:
        """Replicas that were asked for; while a revision rolls, the other's are no further ones."""
        numbers = [int((d.get("spec") or {}).get("replicas") or 0) for d in deployments]
        model = self._cache.get(AXMODEL, key.namespace, key.name) or {}
        in_place = (model.get("spec") or {}).get("rollout") == "InPlace"
        return sum(numbers) if in_place else max(numbers, default=0)

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
