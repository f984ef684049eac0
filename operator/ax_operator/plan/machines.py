"""The machines as one model may use them: pools by placement, and where there is room.

A model's pools are those that its `placement.nodeSelector` and `placement.tolerations` reach. They are made from
nodes alone, with nothing taken: a recipe that followed what is free would rebuild whenever a pod came or went. How
much is free is only asked when a pod finds no node, for the message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ax_engines.hardware import PRODUCT_LABEL, Pool
from ax_engines.pools import Room, pools_from_nodes, rooms
from ax_operator.api.placement import Placement

Json = dict[str, Any]
_DEVICES = "nvidia.com/"
_SHOWN = 6
"""Nodes that a message names."""


class Reach(NamedTuple):
    """Which nodes a placement lets a pod use; hashable, so that equal ones share their pools."""

    node_selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[tuple[tuple[str, str], ...], ...] = ()
    runtime_class: str | None = None

    @classmethod
    def of(cls, placement: Placement) -> Reach:
        """Return the reach of a model's placement."""
        told = (t.model_dump(mode="json", by_alias=True, exclude_none=True) for t in placement.tolerations or ())
        return cls(
            tuple(sorted((placement.node_selector or {}).items())),
            tuple(tuple(sorted(t.items())) for t in told),
            placement.runtime_class_name,
        )

    def manifests(self) -> list[Json]:
        """Return the tolerations as a pod has them."""
        return [dict(t) for t in self.tolerations]


@dataclass(frozen=True, eq=False, slots=True)
class Machines:
    """The cluster's nodes; each reach's pools are computed once for all models that share it."""

    nodes: tuple[Json, ...] = ()
    _known: dict[Reach, tuple[Pool, ...]] = field(default_factory=dict, repr=False)

    def pools(self, reach: Reach) -> tuple[Pool, ...]:
        """Return the pools that a pod of this reach can use, as if nothing ran on them."""
        reach = reach._replace(runtime_class=None)
        found = self._known.get(reach)
        if found is None:
            found = pools_from_nodes(self.nodes, (), dict(reach.node_selector), reach.manifests())
            self._known[reach] = found
        return found


def gpu_request(pod_spec: Json) -> tuple[str, int]:
    """Return the GPU resource that a pod asks for and how many; none and 0 for one without.

    Containers that run one after the other share their devices, so the largest request counts.
    """
    best = ("", 0)
    for container in (*(pod_spec.get("initContainers") or ()), *(pod_spec.get("containers") or ())):
        for name, count in ((container.get("resources") or {}).get("limits") or {}).items():
            if name.startswith(_DEVICES) and int(count) > best[1]:
                best = (name, int(count))
    return best


def product_of(pod_spec: Json) -> str | None:
    """Return the GPU product for which a pod was made, as its pool calls it; None for CPUs."""
    resource, _ = gpu_request(pod_spec)
    product = (pod_spec.get("nodeSelector") or {}).get(PRODUCT_LABEL)
    if not product or not resource:
        return None
    kind = resource.removeprefix(_DEVICES)
    return f"{product}-MIG-{kind.removeprefix('mig-')}" if kind.startswith("mig-") else str(product)


def want_of_room(pod: Json, machines: Machines, takers: tuple[Json, ...], said: str) -> str:
    """Return what a pod without a node needs, what is free, what would help, and the scheduler's own words."""
    spec = pod.get("spec") or {}
    resource, need = gpu_request(spec)
    if not need:
        return said
    selector = spec.get("nodeSelector") or {}
    found = rooms(machines.nodes, takers, selector, spec.get("tolerations") or (), resource)
    what = f"{need} {'GPU' if need == 1 else 'GPUs'} of {product_of(spec) or resource} on one node"
    return f"needs {what}; {_free(found)}; {_help(found, need)} (the scheduler says: {said})"


def _free(found: tuple[Room, ...]) -> str:
    if not found:
        return "no node offers them"
    shown = sorted(found, key=lambda room: (-room.free, room.node))[:_SHOWN]
    listed = ", ".join(f"{room.free} of {room.gpus} on {room.node}" for room in shown)
    more = f" and no more on {len(found) - _SHOWN} others" if len(found) > _SHOWN else ""
    return f"free are {listed}{more}"


def _help(found: tuple[Room, ...], need: int) -> str:
    other = "name other GPUs in placement.gpu"
    if not found:
        return f"add such a node, widen placement.nodeSelector and placement.tolerations, or {other}"
    if max(room.gpus for room in found) < need:
        return f"add a node with as many, lower engine.parallelism, or {other}"
    if max(room.free for room in found) >= need:
        return "GPUs are free: see the scheduler's reason"
    if sum(room.free for room in found) >= need:
        return f"enough are free but not on one node: scale down a model on one of them, add a node, or {other}"
    return f"scale down a model on these nodes, add a node, set rollout: InPlace for a roll, or {other}"
