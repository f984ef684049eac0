"""Whose turn it is when the chart asks for a roll: one model of a namespace and GPU product at a time, by name.

A model that is due (`marks`), has replicas, and has not changed its wish waits while a due model of an earlier name
has yet to finish. So the first one tries a new toolchain for all others, and where it fails nothing else rolls; nor
is anything built before. What an author changes goes ahead at once. Models that cannot roll (refused, without
nodes, without replicas) are not waited for.
"""

from __future__ import annotations

from ax_operator.api import names
from ax_operator.api.conditions import Fact
from ax_operator.plan.accept import accept
from ax_operator.plan.children.serving import wanted_deployment
from ax_operator.plan.engine import EngineStep, engine_step, kept
from ax_operator.plan.held import held
from ax_operator.plan.marks import in_queue
from ax_operator.plan.source import source_step
from ax_operator.plan.world import Json, Seen, World

MOST_RIVALS = 8
"""Models before it that a model looks at; as many that can never roll do not hold up the others."""
AGAIN = 30.0
"""Seconds until a model that waits looks again, should nobody have woken it."""
_NEVER = ("EngineMismatch", "EngineNotFound")


def turn(model: Json, step: EngineStep, seen: Seen, world: World, now: float) -> EngineStep:
    """Return the step as it is, or, while another model's roll comes first, the one that keeps what serves."""
    rival = _before(model, step, seen, world, now)
    serving = held(_present(seen)) if rival else None
    if rival is None or serving is None:
        return step
    why = f"the chart's images or toolchain changed: AXModel {rival} rolls first, then this one"
    return kept(step, serving, why)


def _before(model: Json, step: EngineStep, seen: Seen, world: World, now: float) -> str | None:
    """Return the model that rolls first, None if this one may."""
    accepted = accept(model, world)
    if isinstance(accepted, Fact) or step.recipe is None or step.name is None or not seen.rivals:
        return None
    present = _present(seen)
    if not in_queue(accepted.spec, present, world.settings):
        return None
    wanted = wanted_deployment(model, accepted, step.recipe, step.name, 0, world)["metadata"]["name"]
    if any(d["metadata"]["name"] == wanted for d in present):
        return None
    return next((o["metadata"]["name"] for o, own in seen.rivals if _rolls(o, own, world, now)), None)


def _rolls(model: Json, seen: Seen, world: World, now: float) -> bool:
    accepted = accept(model, world)
    if isinstance(accepted, Fact) or accepted.spec.routing.policy == "HostedOnly":
        return False
    if model["metadata"].get("deletionTimestamp") or not in_queue(accepted.spec, _present(seen), world.settings):
        return False
    source = source_step(model, accepted, seen, world, now)
    if source.resolved is None:
        return False
    step = engine_step(model, accepted, source.resolved, seen, world)
    return step.recipe is not None and step.fact.reason not in _NEVER


def _present(seen: Seen) -> list[Json]:
    return seen.all("Deployment", names.COMPONENT_SERVING)
