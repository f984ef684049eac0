"""The plan of one AXModel: accept, source, engine, serving, routing, summary, in this order."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import ValidationError

from ax_engines.contract import ResolvedSource
from ax_engines.recipe import Recipe
from ax_operator.api import names
from ax_operator.api.axmodel import AXModelSpec, AXModelStatus
from ax_operator.api.conditions import ACCEPTED, ENGINE_READY, Fact, merge
from ax_operator.plan.accept import Accepted, accept
from ax_operator.plan.engine import EngineStep, engine_step, first_look, notes_of
from ax_operator.plan.machines import Reach
from ax_operator.plan.replicas import last_decisions
from ax_operator.plan.routing import routed
from ax_operator.plan.serving import ServingStep, serving_step
from ax_operator.plan.source import source_step
from ax_operator.plan.summary import refused, summary
from ax_operator.plan.turns import AGAIN, turn
from ax_operator.plan.world import Json, Plan, Ref, Seen, World

TICK = 2.0
"""Seconds between two looks of the autoscaler at a model in mode builtin."""


@dataclass(slots=True)
class _Draft:
    """The plan while its steps run."""

    children: list[Json] = field(default_factory=list)
    obsolete: list[Ref] = field(default_factory=list)
    requeue: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_model(model: Json, seen: Seen, world: World, now: float) -> Plan:
    """Return what should exist for this AXModel, what should not, and its status.

    Pure and safe to run at any time: same input, same bytes; applied and planned again, nothing is left to do. A
    spec that is refused changes nothing that serves.
    """
    if model["metadata"].get("deletionTimestamp"):
        return Plan(memory=seen.memory)
    accepted = accept(model, world)
    if isinstance(accepted, Fact):
        return Plan(status=_refused(model, accepted, seen, now), memory=seen.memory)
    draft = _Draft()
    recipe, engine, resolved = _engine(model, accepted, seen, world, now, draft)
    if engine.fact.type == ACCEPTED:
        return Plan(
            children=tuple(draft.children),
            obsolete=tuple(draft.obsolete),
            status=_refused(model, engine.fact, seen, now),
            requeue_after=min(draft.requeue, default=None),
            memory=seen.memory,
        )
    serving = serving_step(model, accepted, engine, seen, world, now)
    draft.children += serving.children
    draft.obsolete += serving.obsolete
    route = routed(model, accepted.spec.routing, serving, world)
    scaled = serving.scaled
    yes = Fact(ACCEPTED, "True", "Accepted", _accepted_message(accepted.spec, scaled.unpriced if scaled else None))
    built, behind = engine.fact, engine.behind or serving.behind
    if serving.ready and not engine.fact.true:
        # The old revision serves: its engine is built, and what the new one does is the business of kstatus.
        built, behind = Fact(ENGINE_READY, "True", "Built", f"AXEngine {serving.serving} serves"), engine.fact
    facts = [yes, built, serving.fact, route, *summary(built, serving.fact, route, behind)]
    if scaled and scaled.shortage:
        draft.notes.append(scaled.shortage)
    if scaled and scaled.decision:
        draft.requeue.append(TICK)
    status = _status(model, accepted, engine, recipe, resolved, serving, facts, draft.notes, seen, now)
    return Plan(
        children=tuple(draft.children),
        obsolete=tuple(draft.obsolete),
        status=status,
        requeue_after=min(draft.requeue, default=None),
        memory=scaled.memory if scaled else seen.memory,
        replicas=scaled.wanted if scaled else None,
        decision=scaled.decision if scaled else None,
    )


def wanted_engine(model: Json, seen: Seen, world: World, now: float) -> str | None:
    """Return the AXEngine that a model needs, None while that is not known; retention asks this."""
    accepted = accept(model, world)
    if isinstance(accepted, Fact):
        return None
    if accepted.spec.routing.policy == "HostedOnly":
        return ""
    if accepted.spec.engine_ref:
        return accepted.spec.engine_ref
    _, step, _ = _engine(model, accepted, seen, world, now, _Draft())
    return step.name


def reach_of(model: Json) -> Reach:
    """Return where a model's pods may run; a spec that is none reaches nothing of its own."""
    try:
        return Reach.of(AXModelSpec.model_validate(model.get("spec") or {}).placement)
    except ValidationError:
        return Reach()


def _engine(
    model: Json, accepted: Accepted, seen: Seen, world: World, now: float, draft: _Draft
) -> tuple[Recipe | None, EngineStep, ResolvedSource | None]:
    """Run the steps source and engine; HostedOnly needs neither."""
    if accepted.spec.routing.policy == "HostedOnly":
        fact = Fact(ENGINE_READY, "True", "NotRequired", "policy HostedOnly: no engine is needed")
        return None, EngineStep(fact), None
    source = source_step(model, accepted, seen, world, now)
    draft.children += source.children
    draft.obsolete += source.obsolete
    draft.notes += source.notes
    if source.requeue_after is not None:
        draft.requeue.append(source.requeue_after)
    if source.resolved is None:
        if refused_at_once := first_look(accepted, seen, world):
            draft.children.clear()
            return None, EngineStep(refused_at_once), None
        fact = source.fact or Fact(ENGINE_READY, "False", "ResolvingSource", "the source is read again")
        return None, EngineStep(fact), None
    step = turn(model, engine_step(model, accepted, source.resolved, seen, world), seen, world, now)
    if step.behind:
        draft.requeue.append(AGAIN)
    draft.children += step.children
    draft.notes += notes_of(step)
    return step.recipe, step, source.resolved


def _accepted_message(spec: AXModelSpec, unpriced: str | None) -> str:
    if spec.scaling.mode == "builtin" and spec.scaling.replicas != 1:
        return "scaling.replicas is ignored in mode builtin: set scaling.mode to fixed, or minReplicas and maxReplicas"
    return f"the spec can be served; {unpriced}" if unpriced else "the spec can be served"


def _refused(model: Json, fact: Fact, seen: Seen, now: float) -> Json:
    """Return the status of a spec that cannot work: whatever served before goes on and is still reported."""
    deployments = seen.all("Deployment", names.COMPONENT_SERVING)
    before = model.get("status") or {}
    facts = [fact, *refused(fact)]
    status = {
        "observedGeneration": model["metadata"].get("generation", 0),
        "conditions": merge(facts, before.get("conditions") or (), model["metadata"].get("generation", 0), now),
        "replicas": sum(int(d.get("status", {}).get("replicas") or 0) for d in deployments),
        "readyReplicas": sum(int(d.get("status", {}).get("readyReplicas") or 0) for d in deployments),
        "selector": _selector(model),
    }
    return _checked(status)


def _status(
    model: Json,
    accepted: Accepted,
    engine: EngineStep,
    recipe: Recipe | None,
    resolved: ResolvedSource | None,
    serving: ServingStep,
    facts: list[Fact],
    notes: list[str],
    seen: Seen,
    now: float,
) -> Json:
    before = model.get("status") or {}
    generation = model["metadata"].get("generation", 0)
    status: Json = {
        "observedGeneration": generation,
        "conditions": merge(facts, before.get("conditions") or (), generation, now),
        "replicas": serving.replicas,
        "readyReplicas": serving.ready,
        "selector": _selector(model),
        "engine": {
            "name": engine.name,
            "backend": recipe and recipe.backend,
            "quantization": recipe and recipe.quantization,
            "serving": serving.serving,
            "wanted": serving.revision,
        },
        "notes": [note[:500] for note in notes][:16] or None,
    }
    if resolved:
        status["source"] = {"revision": resolved.revision, "format": resolved.format, "bytes": resolved.bytes}
    if seen.load:
        load = seen.load
        status["queue"] = {"running": int(load.running), "waiting": int(load.waiting), "held": int(load.held)}
    if accepted.spec.scaling.mode == "builtin" and serving.scaled:
        status["scaling"] = {"lastDecisions": last_decisions(before, serving.scaled, now)}
    return _checked(status)


def _selector(model: Json) -> str:
    return f"{names.COMPONENT}={names.COMPONENT_SERVING},{names.MODEL}={model['metadata']['name']}"


def _checked(status: Json) -> Json:
    """Return the status as its own type writes it: a key that the CRD does not know is a bug here."""
    parsed = AXModelStatus.model_validate(status)
    return parsed.model_dump(mode="json", by_alias=True, exclude_none=True)
