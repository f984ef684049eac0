"""A revision that is kept as it is for now, although what is wanted would be another one or cannot be told.

Two facts lead here: the GPUs that it was made for have no node at the moment (their pool was scaled to zero), or
another model's roll comes first. Its replicas follow the load all the same: what that takes is read from the
Deployment.
"""

from __future__ import annotations

from dataclasses import dataclass

from ax_engines.contract import SERVING_ENV, ServingOptions
from ax_operator.api import names
from ax_operator.plan.machines import product_of
from ax_operator.plan.world import Json, labels


@dataclass(frozen=True, slots=True)
class Held:
    """The revision that is kept: its engine, GPUs' product, and the requests and GPUs of a replica."""

    engine: str
    product: str | None
    slots: int
    gpus: int


def held(deployments: list[Json]) -> Held | None:
    """Return what the Deployment with most ready pods serves, the oldest of equals; None if there is none."""
    ordered = sorted(deployments, key=_rank)
    if not ordered:
        return None
    spec = ordered[0]["spec"]["template"]["spec"]
    env = [e for c in spec["initContainers"] for e in c["env"] if e["name"] == SERVING_ENV]
    options = ServingOptions.from_json(env[0]["value"])
    return Held(labels(ordered[0]).get(names.ENGINE, ""), product_of(spec), options.slots, options.gpus)


def _rank(deployment: Json) -> tuple[int, str, str]:
    meta = deployment["metadata"]
    ready = int(deployment.get("status", {}).get("readyReplicas") or 0)
    return -ready, str(meta.get("creationTimestamp", "")), meta["name"]
