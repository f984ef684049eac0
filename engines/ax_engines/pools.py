"""Node pools out of nodes and pods: which GPUs there are, how many on one node, how many are free. Pure.

Reads the labels of NVIDIA's GPU feature discovery and the kubelet's allocatable resources. Nodes that take no pods
now (cordoned, not ready) stay in their pool, so that a recipe does not change while a node restarts, but count
nothing as free.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ax_engines.contract import slug
from ax_engines.hardware import CPU_POOL, GPU_RESOURCE, PRODUCT_LABEL, Pool

Json = Mapping[str, Any]
Taint = tuple[str, str, str]

MIG_RESOURCE = re.compile(r"nvidia\.com/mig-(.+)")
# Set by Kubernetes itself while a node is not usable; they say nothing about who may use the node.
_STATE_TAINTS = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class _Devices:
    """The GPUs of one kind on one node."""

    node: str
    product: str
    resource: str
    mig: str | None
    shared: bool
    count: int
    free: int
    sm: int | None
    memory_mib: int
    selector: tuple[tuple[str, str], ...]
    taints: tuple[Taint, ...]


def pools_from_nodes(
    nodes: Sequence[Json],
    pods: Sequence[Json],
    node_selector: Mapping[str, str] | None = None,
    tolerations: Sequence[Json] = (),
) -> tuple[Pool, ...]:
    """Return the pools that a pod with this selector and these tolerations can use, the CPU pool first.

    Taints with the key of the GPU resource count as tolerated: pods for that pool get the toleration, since they
    request the resource. Nodes with other taints that are not tolerated are left out.
    """
    used = _used(pods)
    groups: dict[tuple[str, str, tuple[Taint, ...]], list[_Devices]] = defaultdict(list)
    cpu_nodes = []
    for node in _selected(nodes, node_selector):
        if all(_tolerated(taint, tolerations) for taint in _taints(node)):
            cpu_nodes.append(node)
        for devices in _usable(node, tolerations, used):
            groups[devices.product, devices.resource, devices.taints].append(devices)
    named: set[str] = {CPU_POOL}
    return _cpu_pool(cpu_nodes), *(_pool(groups[key], named) for key in sorted(groups))


@dataclass(frozen=True, slots=True)
class Room:
    """What one node offers of a resource, and how much of that pods left over."""

    node: str
    gpus: int
    free: int


def rooms(
    nodes: Sequence[Json],
    pods: Sequence[Json],
    node_selector: Mapping[str, str] | None,
    tolerations: Sequence[Json],
    resource: str,
) -> tuple[Room, ...]:
    """Return the nodes with this GPU resource that a pod with this selector and these tolerations may use, by name."""
    used = _used(pods)
    found = (d for node in _selected(nodes, node_selector) for d in _usable(node, tolerations, used))
    return tuple(Room(d.node, d.count, d.free) for d in found if d.resource == resource)


def _selected(nodes: Sequence[Json], node_selector: Mapping[str, str] | None) -> Iterator[Json]:
    wanted = (node_selector or {}).items()
    for node in sorted(nodes, key=lambda n: str(n["metadata"]["name"])):
        if wanted <= (node["metadata"].get("labels") or {}).items():
            yield node


def _usable(node: Json, tolerations: Sequence[Json], used: Mapping[tuple[str, str], int]) -> Iterator[_Devices]:
    taints = _taints(node)
    for devices in _devices(node, taints, used):
        if all(t[0] == devices.resource or _tolerated(t, tolerations) for t in taints):
            yield devices


def _used(pods: Iterable[Json]) -> dict[tuple[str, str], int]:
    """Return (node, resource) -> devices taken by pods that have not ended."""
    used: dict[tuple[str, str], int] = defaultdict(int)
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if not node or pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            continue
        running = [c for c in pod["spec"].get("initContainers", []) if c.get("restartPolicy") == "Always"]
        starting = [c for c in pod["spec"].get("initContainers", []) if c.get("restartPolicy") != "Always"]
        for resource in {r for c in _containers(pod) for r in _limits(c) if r.startswith("nvidia.com/")}:
            steady = sum(int(_limits(c).get(resource, 0)) for c in [*running, *pod["spec"].get("containers", [])])
            first = max((int(_limits(c).get(resource, 0)) for c in starting), default=0)
            used[node, resource] += max(steady, first)
    return used


def _containers(pod: Json) -> list[Json]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"].get("containers", [])]


def _limits(container: Json) -> Mapping[str, str]:
    resources = container.get("resources") or {}
    return {**(resources.get("requests") or {}), **(resources.get("limits") or {})}


def _taints(node: Json) -> tuple[Taint, ...]:
    """Return the taints that keep pods away for who they are; PreferNoSchedule keeps nobody away."""
    found = node.get("spec", {}).get("taints") or ()
    kept = (t for t in found if t["effect"] != "PreferNoSchedule" and not t["key"].startswith(_STATE_TAINTS))
    return tuple(sorted((t["key"], t.get("value") or "", t["effect"]) for t in kept))


def _tolerated(taint: Taint, tolerations: Sequence[Json]) -> bool:
    key, value, effect = taint
    return any(
        t.get("key") in (None, "", key)
        and (t.get("operator") == "Exists" or (bool(t.get("key")) and (t.get("value") or "") == value))
        and t.get("effect") in (None, "", effect)
        for t in tolerations
    )


def _takes_pods(node: Json) -> bool:
    ready = next((c for c in node.get("status", {}).get("conditions") or () if c["type"] == "Ready"), None)
    return not node.get("spec", {}).get("unschedulable") and (ready is None or ready["status"] == "True")


def _devices(node: Json, taints: tuple[Taint, ...], used: Mapping[tuple[str, str], int]) -> Iterator[_Devices]:
    labels = node["metadata"].get("labels") or {}
    product = labels.get(PRODUCT_LABEL, "")
    if not product or product.endswith("-MIG-INVALID"):
        return
    name = node["metadata"]["name"]
    allocatable = node.get("status", {}).get("allocatable") or {}
    for resource in sorted(allocatable):
        slice_kind = MIG_RESOURCE.fullmatch(resource)
        count = int(allocatable[resource]) if slice_kind or resource == GPU_RESOURCE else 0
        if count < 1:
            continue
        if slice_kind:  # strategy mixed: a resource and labels of its own for each kind of slice
            mig, kind = slice_kind[1], f"{product}-MIG-{slice_kind[1]}"
            memory = _number(labels.get(f"{resource}.memory"))
        else:  # whole GPUs, or strategy single, where the product's label already names the slice
            mig, kind = (product.partition("-MIG-")[2] or None), product
            memory = _number(labels.get(f"{GPU_RESOURCE}.memory"))
        free = max(0, count - used.get((name, resource), 0)) if _takes_pods(node) else 0
        shared = product.endswith("-SHARED") or (_number(labels.get(f"{GPU_RESOURCE}.replicas")) or 1) > 1
        selector = ((PRODUCT_LABEL, product),)
        kept = tuple(t for t in taints if t[0] == resource or t[0] == GPU_RESOURCE)
        yield _Devices(name, kind, resource, mig, shared, count, free, _sm(labels), memory or 0, selector, kept)


def _sm(labels: Mapping[str, str]) -> int | None:
    major = _number(labels.get(f"{GPU_RESOURCE}.compute.major"))
    minor = _number(labels.get(f"{GPU_RESOURCE}.compute.minor"))
    return None if major is None else major * 10 + (minor or 0)


def _number(text: str | None) -> int | None:
    """Return a label's number; labels are written by others, so anything else counts as missing."""
    return int(text) if text and text.isdecimal() else None


def _pool(members: Sequence[_Devices], named: set[str]) -> Pool:
    first = members[0]
    name = slug(first.product, 55)
    while name in named:  # the same GPUs behind another taint
        name = f"{name}-2" if not re.search(r"-\d$", name) else f"{name[:-1]}{int(name[-1]) + 1}"
    named.add(name)
    return Pool(
        name=name,
        gpu_product=first.product,
        gpus_per_node=max(m.count for m in members),
        nodes=len(members),
        free_gpus=sum(m.free for m in members),
        max_free_on_one_node=max(m.free for m in members),
        sm=first.sm,
        # The node with the least memory decides, since a pod may land on any of them.
        memory_mib=min(m.memory_mib for m in members),
        node_selector=first.selector,
        taints=first.taints,
        mig=first.mig,
        resource=first.resource,
        shared=first.shared,
    )


def _cpu_pool(nodes: Sequence[Json]) -> Pool:
    memory = [_mebibytes((n.get("status", {}).get("allocatable") or {}).get("memory", "0")) for n in nodes]
    return Pool(CPU_POOL, None, 0, len(nodes), 0, 0, None, max(memory, default=0))


def _mebibytes(quantity: str) -> int:
    match = re.fullmatch(r"(\d+)([A-Za-z]*)", str(quantity))
    return int(match[1]) * _UNITS.get(match[2], 1) // 2**20 if match else 0
