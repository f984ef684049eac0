"""Where stories on the cluster on paper begin and what they look at: models that serve, and all of their conditions."""

from __future__ import annotations

from typing import Any

from ax_operator.plan.world import Json
from tests.plan.stage import DEMO, Stage, model, world


def serving(*models: Json, **changes: Any) -> Stage:
    """Return a stage on which every model is built and ready."""
    stage = Stage(world(**changes), *(models or (model(DEMO),)))
    stage.reconcile()
    stage.resolve()
    stage.reconcile()
    stage.build()
    stage.reconcile()
    for name in stage.models:
        stage.ready(name)
    stage.reconcile()
    return stage


def conditions(stage: Stage, name: str = "smol") -> dict[str, tuple[str, str]]:
    kinds = ("Accepted", "EngineReady", "Available", "Routed", "Ready", "Reconciling", "Stalled")
    return {kind: stage.condition(name, kind) for kind in kinds if stage.condition(name, kind) != ("-", "-")}
