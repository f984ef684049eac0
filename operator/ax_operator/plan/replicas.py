"""How many replicas a model should have, by its scaling mode: what the autoscaler is told of a model, and asked.

`builtin` obeys the decision, `fixed` and `external` obey `spec.scaling.replicas`. In `external` the decision is made
all the same, for the demand that is exported to whoever scales instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from ax_operator.api.axhostedapi import AXHostedAPISpec
from ax_operator.api.axmodel import AXModelSpec
from ax_operator.api.conditions import timestamp
from ax_operator.api.schema import seconds
from ax_operator.plan.autoscale import decide
from ax_operator.plan.engine import EngineStep
from ax_operator.plan.scaling import DEFAULT_COLD_START, Decision, Memory, Policy, Prices
from ax_operator.plan.world import Json, Seen, World


@dataclass(frozen=True, slots=True)
class Replicas:
    """The number, and what the autoscaler said; no decision before anything was measured, or in mode `fixed`."""

    wanted: int
    memory: Memory
    decision: Decision | None = None
    unpriced: str | None = None
    """Why prices have no say although a hosted API could help."""
    shortage: str | None = None
    """Why fewer replicas are asked for than demand calls for; None unless the pool is too small."""


def replicas(
    namespace: str, spec: AXModelSpec, engine: EngineStep, deployments: list[Json], seen: Seen, world: World, now: float
) -> Replicas:
    """Return how many replicas should run; only `builtin` decides, and only once signals were seen."""
    scaling = spec.scaling
    capacity = _capacity(engine)
    if scaling.mode == "fixed" or capacity is None or seen.load is None:
        kept = scaling.replicas
        if scaling.mode == "builtin":
            # Nothing is known yet: keep what runs, within bounds; a new model starts with its minimum.
            current = sum(int(d.get("spec", {}).get("replicas") or 0) for d in deployments)
            kept = min(max(current, scaling.minimum), max(scaling.maximum, scaling.minimum))
        return Replicas(kept, seen.memory)
    policy = policy_of(namespace, spec, capacity, cold_start_of(engine.name, seen), world)
    decision = decide(seen.load, policy, seen.memory, now)
    if scaling.mode != "builtin":
        return Replicas(scaling.replicas, decision.memory, decision)
    short = _shortage(decision, engine, seen.load.free_gpus or 0, capacity[1]) if decision.rule == "pool" else None
    return Replicas(decision.replicas, decision.memory, decision, _unpriced(spec, policy, world), short)


def policy_of(namespace: str, spec: AXModelSpec, capacity: tuple[int, int], cold_start: float, world: World) -> Policy:
    """Return what the spec, the engine and the prices fix; capacity: requests per replica, GPUs per replica."""
    slots, gpus = capacity
    scaling = spec.scaling
    name, api = _hosted(spec, world)
    prices = None
    if api and api.prices and world.settings.gpu_hour_krw:
        prices = Prices(world.settings.gpu_hour_krw, api.prices.input, api.prices.output)
    helps = api is not None and namespace in api.allowed_namespaces and name not in world.closed
    return Policy(
        min_replicas=scaling.minimum,
        max_replicas=scaling.maximum,
        slots=slots,
        target=scaling.target and slots * scaling.target / 100,
        scale_to_zero_after=seconds(scaling.scale_to_zero_after) if scaling.scale_to_zero_after else None,
        cold_start=cold_start,
        gpus_per_replica=max(1, gpus),
        hosted=helps and spec.routing.policy != "OnPremOnly",
        prices=prices,
    )


def cold_start_of(engine: str | None, seen: Seen) -> float:
    """Return the seconds that the slowest of this engine's last pods took, a guess while none has started."""
    found = seen.get("AXEngine", engine) if engine else None
    measured = (((found or {}).get("status") or {}).get("coldStart") or {}).get("readySeconds")
    return DEFAULT_COLD_START if measured is None else max(1.0, float(measured))


def decision_row(step: Replicas, now: float) -> Json | None:
    """Return the row for status.scaling.lastDecisions, None where nothing was decided."""
    if step.decision is None:
        return None
    return {"time": timestamp(now), "replicas": step.wanted, "why": step.decision.why[:300]}


def last_decisions(before: Json, step: Replicas, now: float) -> list[Json]:
    """Return the last five decisions; one that repeats the number of the last one is no news."""
    rows: list[Json] = list((before.get("scaling") or {}).get("lastDecisions") or ())
    row = decision_row(step, now)
    if row and (not rows or rows[-1]["replicas"] != row["replicas"]):
        rows.append(row)
    return rows[-5:]


def _capacity(engine: EngineStep) -> tuple[int, int] | None:
    if engine.recipe:
        return engine.recipe.capacity_per_replica, engine.recipe.gpus
    return (engine.held.slots, engine.held.gpus) if engine.held else None


def _shortage(decision: Decision, engine: EngineStep, free: int, gpus: int) -> str:
    """Say how many GPUs are missing of which product, how many there are, and what to do."""
    more = decision.wanted - decision.replicas
    product = engine.recipe.gpu_product if engine.recipe else engine.held.product if engine.held else None
    gpus *= more
    needs = f"demand calls for {_count(more, 'more replica')}: {_count(gpus, 'GPU')} of {product or 'the pool'} needed"
    return f"{needs}, {free} free for it, the longest wait first: add nodes, or lower the maxReplicas of another model"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _hosted(spec: AXModelSpec, world: World) -> tuple[str, AXHostedAPISpec | None]:
    name = spec.routing.hosted.api_ref if spec.routing.hosted else ""
    return name, world.hosted.get(name)


def _unpriced(spec: AXModelSpec, policy: Policy, world: World) -> str | None:
    """Say that prices have no say although a hosted API could help, and how to give them one."""
    name, api = _hosted(spec, world)
    if not policy.hosted or api is None:
        return None
    missing = [] if world.settings.gpu_hour_krw else ["the chart's gpuHourKrw"]
    missing += [] if api.prices else [f"spec.prices of AXHostedAPI {name}"]
    if not missing:
        return None
    return f"replicas follow waiting time, not cost: set {' and '.join(missing)} to have prices decide"
