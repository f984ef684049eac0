"""The plan of a namespace's engine store: its claim, one build per AXEngine, retention, sweep.

One plan for the whole namespace, because builds and sweeps must not meet: an engine whose name is being swept waits.
Order of facts: the inventory names an engine before its build starts; an AXEngine that nobody needs for
`engine_retention` is deleted; names in the inventory without an AXEngine are swept; then the inventory is shortened.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import ValidationError

from ax_engines.contract import ArtifactSpec
from ax_engines.tasks import SweepTask
from ax_operator.api import names
from ax_operator.api.axengine import AXEngineStatus
from ax_operator.api.conditions import IN_USE, READY, Fact, find, merge, unix
from ax_operator.plan.children.build_job import build_objects
from ax_operator.plan.children.store import INVENTORY_KEY, claim, inventory, sweep_objects
from ax_operator.plan.coldstart import cold_start
from ax_operator.plan.jobs import RETRY_AFTER, JobFacts, job_facts
from ax_operator.plan.machines import Reach, want_of_room
from ax_operator.plan.model import reach_of, wanted_engine
from ax_operator.plan.serving import engine_in_use
from ax_operator.plan.world import Json, Plan, Ref, Seen, World, labels


@dataclass(slots=True)
class _Draft:
    children: list[Json] = field(default_factory=list)
    obsolete: list[Ref] = field(default_factory=list)
    statuses: list[Json] = field(default_factory=list)
    requeue: list[float] = field(default_factory=list)


def plan_store(namespace: str, seen: Seen, world: World, now: float) -> Plan:
    """Return what should exist in a namespace for its AXEngines; `seen.models` holds its AXModels."""
    draft = _Draft()
    engines = [e for e in seen.all("AXEngine") if not e["metadata"].get("deletionTimestamp")]
    kept_map = seen.get("ConfigMap", names.STORE_INVENTORY)
    listed = set(((kept_map or {}).get("data") or {}).get(INVENTORY_KEY, "").split())
    needed, unsure = _needed(seen, world, now)
    alive = set()
    sweeping = _swept_names(seen)
    for engine in engines:
        name = engine["metadata"]["name"]
        in_use = unsure or name in needed
        ours = labels(engine).get(names.MANAGED_BY) == names.MANAGED_BY_VALUE
        if ours and not in_use and _expired(engine, world, now, draft):
            draft.obsolete.append(Ref.of(engine))
            continue
        alive.add(name)
        may_build = name in listed and name not in sweeping
        reach = needed.get(name, Reach())
        _engine(engine, reach, seen, world, now, draft, in_use=in_use, may_build=may_build)
    if engines and not world.settings.store.existing_claim:
        draft.children.insert(0, claim(namespace, world.settings))
    _inventory(namespace, kept_map, listed, alive, seen, world, now, draft)
    return Plan(
        children=tuple(draft.children),
        obsolete=tuple(draft.obsolete),
        statuses=tuple(draft.statuses),
        requeue_after=min(draft.requeue, default=None),
    )


def _needed(seen: Seen, world: World, now: float) -> tuple[dict[str, Reach], bool]:
    """Return the engines that AXModels want or still serve, and whether some model's wish is not known yet.

    With each comes where its build may run: where the first model by name that wants it may.
    """
    needed: dict[str, Reach] = {}
    unsure = False
    for model, own in seen.models:
        for engine in engine_in_use(own.all("Deployment", names.COMPONENT_SERVING)):
            needed.setdefault(engine, Reach())
        wanted = wanted_engine(model, own, world, now)
        if wanted is None:
            unsure = True
        elif needed.get(wanted, Reach()) == Reach():
            needed[wanted] = reach_of(model)
    return needed, unsure


def _expired(engine: Json, world: World, now: float, draft: _Draft) -> bool:
    """Whether nobody has needed the engine for the retention time, which starts when InUse turned False."""
    in_use = find((engine.get("status") or {}).get("conditions") or (), IN_USE)
    since = unix(in_use["lastTransitionTime"]) if in_use and in_use["status"] == "False" else now
    left = since + world.settings.engine_retention - now
    if left > 0:
        draft.requeue.append(left)
    return left <= 0


def _engine(
    engine: Json, reach: Reach, seen: Seen, world: World, now: float, draft: _Draft, *, in_use: bool, may_build: bool
) -> None:
    """Plan one AXEngine: its build until there is an artifact, and its status."""
    name = engine["metadata"]["name"]
    before = engine.get("status") or {}
    use = Fact(IN_USE, "True", "Needed") if in_use else Fact(IN_USE, "False", "NotNeeded", "no AXModel needs it")
    try:
        spec = ArtifactSpec.model_validate(engine["spec"])
    except ValidationError as error:
        message = f"spec: {error.errors(include_url=False, include_input=False)[0]['msg']}"
        return _report(engine, [Fact(READY, "False", "InvalidSpec", message), use], {}, draft, now)
    if spec.name != name:
        message = f"the spec's digest asks for the name {spec.name}: rename the AXEngine"
        return _report(engine, [Fact(READY, "False", "NameMismatch", message), use], {}, draft, now)
    ready = find(before.get("conditions") or (), READY)
    if ready and ready["status"] == "True":
        kept = {"artifact": before["artifact"]} if "artifact" in before else {}
        pods = (pod for pod in seen.all("Pod", names.COMPONENT_SERVING) if labels(pod).get(names.ENGINE) == name)
        kept["coldStart"] = cold_start(before.get("coldStart"), pods)
        return _report(engine, [Fact(READY, "True", "Built"), use], kept, draft, now)
    if not may_build:
        waiting = Fact(READY, "False", "Pending", "waits until the store is ready for it")
        return _report(engine, [waiting, use], {}, draft, now)
    return _build(engine, spec, use, reach, seen, world, now, draft)


def _build(
    engine: Json, spec: ArtifactSpec, use: Fact, reach: Reach, seen: Seen, world: World, now: float, draft: _Draft
) -> None:
    name = engine["metadata"]["name"]
    job = seen.get("Job", name)
    if job is None and (why := _unbuildable(spec, world)):
        return _report(engine, [Fact(READY, "False", "ToolchainIncompatible", why), use], {}, draft, now)
    facts = job_facts(job, seen) if job else None
    if job and facts and facts.ended is not None and not facts.result:
        due = facts.ended + (RETRY_AFTER if facts.state == "failed" else 0)
        draft.requeue.append(max(1.0, due - now))
        if now >= due:
            draft.obsolete.append(Ref.of(job))
            return _report(engine, [Fact(READY, "False", "Pending", "the build starts again"), use], {}, draft, now)
    draft.children += build_objects(engine, spec, reach, world)
    if facts and facts.result:
        result = facts.result
        artifact: Json = {"bytes": result.bytes, "buildSeconds": result.seconds}
        if result.chat:
            artifact["chat"] = result.chat.model_dump(mode="json", by_alias=True)
        return _report(engine, [Fact(READY, "True", "Built"), use], {"artifact": artifact}, draft, now)
    return _report(engine, [_building(facts, seen, world), use], _progress(name, facts, seen), draft, now)


def _unbuildable(spec: ArtifactSpec, world: World) -> str | None:
    """Return why none of the chart's toolchains builds this artifact, with both values; None if one does."""
    if not any(phase.commands for phase in spec.phases):
        return None
    toolchain = next((t for t in world.settings.toolchains if t.name == spec.toolchain), None)
    if toolchain is None:
        listed = ", ".join(t.name for t in world.settings.toolchains) or "none"
        return f"it is built with toolchain {spec.toolchain}, the chart lists {listed}: add it to `toolchains`"
    if spec.target and toolchain.tensorrt_llm != spec.target.tensorrt_llm:
        return (
            f"it is for TensorRT-LLM {spec.target.tensorrt_llm}, toolchain {toolchain.name} has "
            f"{toolchain.tensorrt_llm}: models get another engine; delete this one, or put its toolchain back"
        )
    return None


def _building(facts: JobFacts | None, seen: Seen, world: World) -> Fact:
    if facts is None:
        return Fact(READY, "False", "Pending", "the build Job starts")
    if facts.error and not facts.phase:
        again = "" if facts.state == "failed" else "; it is tried again"
        return Fact(READY, "False", facts.error.reason, facts.error.message + again)
    if facts.unschedulable:
        why = want_of_room(facts.live or {}, world.machines, seen.takers, facts.unschedulable)
        return Fact(READY, "False", "Unschedulable", f"the build pod waits: {why}")
    return Fact(READY, "False", "Building", f"phase {facts.phase}" if facts.phase else "the build pod starts")


def _progress(name: str, facts: JobFacts | None, seen: Seen) -> Json:
    extra: Json = {}
    extra["failures"] = facts.failures if facts else 0
    told = seen.progress.get(name)
    if told and facts and facts.phase:
        extra["progress"] = {
            "phase": told.phase,
            "percent": round(told.percent, 1),
            "etaSeconds": told.eta,
            "detail": told.detail[:300] or None,
        }
    elif facts and facts.phase:
        extra["progress"] = {"phase": facts.phase, "percent": 0}
    return extra


def _report(engine: Json, facts: list[Fact], extra: Json, draft: _Draft, now: float) -> None:
    before = engine.get("status") or {}
    meta = engine["metadata"]
    generation = meta.get("generation", 0)
    status = AXEngineStatus.model_validate(
        {
            "observedGeneration": generation,
            "digest": meta["name"].rpartition("-")[2],
            "conditions": merge(facts, before.get("conditions") or (), generation, now),
            **extra,
        }
    )
    draft.statuses.append(
        {
            "apiVersion": names.API_VERSION,
            "kind": "AXEngine",
            "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
            "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
    )


def _swept_names(seen: Seen) -> set[str]:
    """Return the engines that a sweep Job is removing, or has removed without the inventory saying so yet."""
    found: set[str] = set()
    for job in seen.all("Job", names.COMPONENT_SWEEP):
        found |= set(_task(job).remove)
    return found


def _task(job: Json) -> SweepTask:
    env = job["spec"]["template"]["spec"]["containers"][0]["env"]
    return SweepTask.from_json(next(e["value"] for e in env if e["name"] == "AX_TASK"))


def _inventory(
    namespace: str,
    kept_map: Json | None,
    listed: set[str],
    alive: set[str],
    seen: Seen,
    world: World,
    now: float,
    draft: _Draft,
) -> None:
    """Keep the inventory: add what is alive, sweep what is not, and forget what was swept."""
    jobs = seen.all("Job", names.COMPONENT_SWEEP)
    done: set[str] = set()
    sweeping = False
    for job in jobs:
        facts = job_facts(job, seen)
        if facts.state == "succeeded":
            done |= set(_task(job).remove)
            draft.obsolete.append(Ref.of(job))
        elif facts.state == "failed" and facts.ended is not None:
            draft.requeue.append(max(1.0, facts.ended + RETRY_AFTER - now))
            if now >= facts.ended + RETRY_AFTER:
                draft.obsolete.append(Ref.of(job))
        else:
            sweeping = True
            draft.children += sweep_objects(namespace, _task(job).remove, world.settings)
    names_now = (listed - done) | alive
    gone = names_now - alive
    if gone and not jobs:
        draft.children += sweep_objects(namespace, gone, world.settings)
    if names_now:
        draft.children.append(inventory(namespace, names_now))
    elif kept_map:
        draft.obsolete.append(Ref.of(kept_map))
    if not gone and not sweeping:
        draft.obsolete += map(Ref.of, seen.all("ServiceAccount", names.COMPONENT_SWEEP))
