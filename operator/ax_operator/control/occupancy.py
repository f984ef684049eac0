"""Who else uses the GPUs: pods that are not ours, on nodes that have any.

Only our own pods are watched, since a cluster may hold tens of thousands of others. Foreign ones are listed node by
node, for GPU nodes alone, now and then; of each only what pools count is kept.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from ax_operator.api.names import MANAGED_BY, MANAGED_BY_VALUE
from ax_operator.control.cache import Cache
from ax_operator.kinds import NODE, POD, Kind
from ax_operator.kube_errors import KubeError

logger = logging.getLogger(__name__)

Manifest = dict[str, Any]
DEVICES = "nvidia.com/"
LIVING = "status.phase!=Succeeded,status.phase!=Failed"
AT_ONCE = 8


class Lister(Protocol):
    """What of `kube.Kube` is used here."""

    async def list(
        self, kind: Kind, namespace: str | None = None, labels: str | None = None, fields: str | None = None
    ) -> tuple[list[Manifest], str]: ...


class Occupancy:
    """The foreign pods that hold GPUs; `version` grows when they change."""

    def __init__(self, kube: Lister, cache: Cache) -> None:
        self._kube = kube
        self._cache = cache
        self.version = 0
        self.pods: tuple[Manifest, ...] = ()

    async def look(self) -> None:
        """List the pods of every GPU node; a node that cannot be listed keeps what was known of it."""
        gate = asyncio.Semaphore(AT_ONCE)
        names = [node["metadata"]["name"] for node in self._cache.select(NODE) if _has_devices(node)]
        found = await asyncio.gather(*(self._on(name, gate) for name in names))
        pods = tuple(pod for each in found for pod in each)
        if pods != self.pods:
            self.pods = pods
            self.version += 1

    async def _on(self, node: str, gate: asyncio.Semaphore) -> list[Manifest]:
        async with gate:
            try:
                pods, _ = await self._kube.list(POD, fields=f"spec.nodeName={node},{LIVING}")
            except KubeError as error:
                logger.warning("Could not list the pods of a node", extra={"node": node, "error": str(error)})
                return [pod for pod in self.pods if pod["spec"]["nodeName"] == node]
        return sorted((_counted(pod) for pod in pods if _foreign(pod)), key=lambda pod: str(pod["metadata"]["uid"]))


def _has_devices(node: Manifest) -> bool:
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    return any(name.startswith(DEVICES) for name in allocatable)


def _foreign(pod: Manifest) -> bool:
    ours = (pod["metadata"].get("labels") or {}).get(MANAGED_BY) == MANAGED_BY_VALUE
    containers = [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]
    return not ours and any(
        name.startswith(DEVICES) for each in containers for name in (each.get("resources") or {}).get("limits") or ()
    )


def _counted(pod: Manifest) -> Manifest:
    """Keep of a pod what pools count: its node and its containers' devices."""
    spec: Manifest = {"nodeName": pod["spec"]["nodeName"]}
    for key in ("initContainers", "containers"):
        spec[key] = [
            {k: each[k] for k in ("restartPolicy", "resources") if k in each} for each in pod["spec"].get(key) or ()
        ]
    return {"metadata": {"uid": pod["metadata"]["uid"]}, "spec": spec}
