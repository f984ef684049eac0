"""Node pools, and how many of their GPUs a model may still take.

The pools of the world hold what nodes have, and nothing of who uses it: recipes must not change when a pod starts.
What is free is counted apart: less what pods use, ours and others', less what ours wait for, less what was decided
and has no pod yet, shared out so that of several models that find the pool too small, the one that has waited longest
comes first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from ax_engines.pools import pools_from_nodes
from ax_operator.api.names import COMPONENT, COMPONENT_SERVING, GPU_PRODUCT, GPU_RESOURCE, MODEL
from ax_operator.control.cache import Cache, Change
from ax_operator.control.wakes import Key, model_key, node_changed
from ax_operator.kinds import DEPLOYMENT, NODE, POD
from ax_operator.plan.machines import Machines, gpu_request
from ax_operator.plan.pool import Claim, shares
from ax_operator.plan.scaling import Memory

Manifest = dict[str, Any]


class Foreign(Protocol):
    """Pods that are not ours and hold GPUs; `version` grows when they change."""

    @property
    def version(self) -> int: ...
    @property
    def pods(self) -> tuple[Manifest, ...]: ...


class Devices:
    """Counts GPUs; tell it of every change with `note`."""

    def __init__(self, cache: Cache, foreign: Foreign) -> None:
        self._cache = cache
        self._foreign = foreign
        self._counted_at = -1
        self._machines: Machines | None = None
        self._free: dict[str, int] | None = None
        self._short_since: dict[Key, float] = {}
        """Since when each model has found its pool too small. A moment, not how long: that would be as old as each
        model's last look, and whoever looks would find all others ahead of it."""
        self._decided: dict[Key, int] = {}
        self._podless: dict[Key, tuple[str, int]] = {}
        """GPUs, by product, of replicas that were asked for and have no pod yet: models that decide one after the
        other must not take the same GPU, and pods come later."""

    def note(self, change: Change) -> bool:
        """Take over one change; return whether the machines are other ones."""
        nodes = change.kind == NODE and node_changed(change)
        if nodes:
            self._machines = None
        if nodes or (change.kind == POD and _moved(change)):
            self._free = None
        if change.kind in (POD, DEPLOYMENT):
            for each in change.objects:
                if name := (each["metadata"].get("labels") or {}).get(MODEL):
                    self._count_podless(model_key(each["metadata"]["namespace"], name))
        return nodes

    def remember(self, key: Key, memory: Memory, decided: int | None = None) -> None:
        """Keep for how long a model has found its pool too small, and how many replicas it was given."""
        if decided is None:
            self._decided.pop(key, None)
        else:
            self._decided[key] = decided
        self._count_podless(key)
        if memory.short > 0 and memory.last is not None:
            self._short_since[key] = memory.last - memory.short
        else:
            self._short_since.pop(key, None)

    def machines(self) -> Machines:
        """Return the nodes, out of which each placement's pools are made, all of their GPUs free."""
        if self._machines is None:
            self._machines = Machines(tuple(self._cache.select(NODE)))
        return self._machines

    def takers(self) -> tuple[Manifest, ...]:
        """Return the pods that hold GPUs, ours and others'."""
        ours = (pod for pod in self._cache.select(POD) if gpu_request(pod["spec"])[1])
        return (*ours, *self._foreign.pods)

    def free(self, key: Key) -> int | None:
        """GPUs that the model may count as free; None for one without GPUs."""
        use = self._use(key)
        if use is None:
            return None
        product, gpus = use
        promised = sum(gpus for of, gpus in self._podless.values() if of == product)
        left = max(0, self._counted().get(product, 0) - promised)
        claims = [Claim(str(key), left // gpus, gpus, self._short_since.get(key))]
        for other, since in self._short_since.items():
            theirs = self._use(other) if other != key else None
            if theirs and theirs[0] == product:
                claims.append(Claim(str(other), 1, theirs[1], since))
        return shares(claims, left)[str(key)]

    def _count_podless(self, key: Key) -> None:
        use = self._use(key)
        self._podless.pop(key, None)
        if use is None:
            return
        deployments = self._cache.select(DEPLOYMENT, key.namespace, {MODEL: key.name})
        asked = sum(int(each["spec"].get("replicas") or 0) for each in deployments)
        serving = {MODEL: key.name, COMPONENT: COMPONENT_SERVING}
        pods = sum(_lives(pod) for pod in self._cache.select(POD, key.namespace, serving))
        missing = max(asked, self._decided.get(key, 0)) - pods
        if missing > 0:
            self._podless[key] = (use[0], missing * use[1])

    def _use(self, key: Key) -> tuple[str, int] | None:
        """The GPU product of a model's pods, and how many each takes."""
        for deployment in self._cache.select(DEPLOYMENT, key.namespace, {MODEL: key.name}):
            spec = deployment["spec"]["template"]["spec"]
            product = (spec.get("nodeSelector") or {}).get(GPU_PRODUCT)
            if product and (gpus := _gpus(spec)):
                return product, gpus
        return None

    def _counted(self) -> Mapping[str, int]:
        """GPUs by product that nobody uses and none of our pods waits for."""
        if self._free is None or self._counted_at != self._foreign.version:
            self._counted_at = self._foreign.version
            ours = list(self._cache.select(POD))
            free: dict[str, int] = defaultdict(int)
            for pool in pools_from_nodes(list(self._cache.select(NODE)), [*ours, *self._foreign.pods]):
                if pool.gpu_product and pool.resource == GPU_RESOURCE:
                    free[pool.gpu_product] += pool.free_gpus
            for pod in ours:
                product = (pod["spec"].get("nodeSelector") or {}).get(GPU_PRODUCT)
                if product in free and not pod["spec"].get("nodeName") and not pod["metadata"].get("deletionTimestamp"):
                    free[product] = max(0, free[product] - _gpus(pod["spec"]))
            self._free = free
        return self._free


def _moved(change: Change) -> bool:
    """Whether a pod came, went, found its node or ended: it takes or frees devices."""
    return change.old is None or change.new is None or _place(change.old) != _place(change.new)


def _lives(pod: Manifest) -> bool:
    ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return not (ended or pod["metadata"].get("deletionTimestamp"))


def _place(pod: Manifest) -> tuple[Any, ...]:
    return pod["spec"].get("nodeName"), (pod.get("status") or {}).get("phase"), pod["metadata"].get("deletionTimestamp")


def _gpus(spec: Mapping[str, Any]) -> int:
    containers: Iterable[Manifest] = [*(spec.get("initContainers") or ()), *spec.get("containers", ())]
    limits = [(c.get("resources") or {}).get("limits") or {} for c in containers]
    return max((int(each.get(GPU_RESOURCE, 0)) for each in limits), default=0)
