"""Why a Deployment was made, in three labels: with which toolchain, what the chart said then, what was wished then.

A Deployment whose release is not today's is *due*: the chart, not its author, wants another revision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ax_engines.contract import short_hash
from ax_operator.api import names
from ax_operator.api.axmodel import AXModelSpec
from ax_operator.plan.machines import product_of
from ax_operator.plan.world import Json, Settings, labels


def release(settings: Settings, toolchain: str) -> str:
    """Return a hash of what the chart puts into a serving pod of this toolchain: both images, and its versions."""
    found = next((t for t in settings.toolchains if t.name == toolchain), None)
    return short_hash([settings.engines_image, asdict(found) if found else None], 8)


def wish(spec: AXModelSpec) -> str:
    """Return a hash of the part of a spec that decides a revision: all but scaling, rollout and who is routed where."""
    told = spec.model_dump(mode="json", exclude={"scaling", "rollout", "routing"}, exclude_none=True)
    return short_hash([told, list(spec.routing.served_names)], 8)


def marks(spec: AXModelSpec, settings: Settings, toolchain: str) -> dict[str, str]:
    """Return the labels of a Deployment that is made now."""
    return {names.TOOLCHAIN: toolchain, names.RELEASE: release(settings, toolchain), names.WISH: wish(spec)}


def due(deployment: Mapping[str, Any], settings: Settings) -> bool:
    """Whether the chart says something else now than when this Deployment was made."""
    told = labels(deployment)
    return told.get(names.RELEASE) != release(settings, told.get(names.TOOLCHAIN, ""))


def queue_of(deployment: Mapping[str, Any]) -> tuple[str, str]:
    """Return the queue in which a Deployment's model stands: its namespace and its GPU product (or `cpu`)."""
    return deployment["metadata"]["namespace"], product_of(deployment["spec"]["template"]["spec"]) or "cpu"


def in_queue(spec: AXModelSpec, deployments: Iterable[Json], settings: Settings) -> bool:
    """Whether a model that has replicas has to roll for the chart's sake alone, or is doing so."""
    present = list(deployments)
    wished = wish(spec)
    runs = any(int(d.get("spec", {}).get("replicas") or 0) for d in present)
    return runs and any(due(d, settings) and labels(d).get(names.WISH) == wished for d in present)
