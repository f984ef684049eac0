"""Which pods go first when a Deployment shrinks: those with the fewest requests, by Kubernetes' pod-deletion-cost.

A ReplicaSet removes pods that are not ready first, then those of the lowest cost. Costs are written just before a
Deployment is made smaller, so that a model at rest costs no request. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ax_operator.api.names import DELETION_COST

Manifest = dict[str, Any]


def shrinks(wanted: Manifest, seen: Manifest) -> bool:
    """Whether a Deployment loses some of its pods, but not all."""
    return 0 < int(wanted["spec"].get("replicas") or 0) < int(seen["spec"].get("replicas") or 0)


def costs(pods: Iterable[Manifest], busy: Mapping[str, float]) -> list[Manifest]:
    """Return what to apply to pods whose cost is not the number of their requests.

    busy: requests by pod. A pod that does not answer counts as the busiest: its requests may be many.
    """
    unknown = max(busy.values(), default=0.0)
    patches = []
    for pod in pods:
        meta = pod["metadata"]
        cost = str(min(10_000, round(busy.get(meta["name"], unknown))))
        if not meta.get("deletionTimestamp") and (meta.get("annotations") or {}).get(DELETION_COST, "0") != cost:
            named = {key: meta[key] for key in ("name", "namespace", "uid")}
            patches.append(
                {"apiVersion": "v1", "kind": "Pod", "metadata": named | {"annotations": {DELETION_COST: cost}}}
            )
    return patches
