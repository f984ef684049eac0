"""Step three: the recipe, and the AXEngine that it asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from ax_engines.contract import ArtifactSpec, ResolvedSource, Source
from ax_engines.hardware import Gpu, Pool, Toolchain
from ax_engines.models import CatalogueEntry
from ax_engines.recipe import Recipe, Refusal, Wishes, recipe
from ax_operator.api import names
from ax_operator.api.conditions import ACCEPTED, ENGINE_READY, READY, Fact, find
from ax_operator.plan.accept import Accepted
from ax_operator.plan.children.pod import meta
from ax_operator.plan.world import Json, Seen, World


@dataclass(frozen=True, slots=True)
class EngineStep:
    """The recipe, its AXEngine's name, whether its artifact is there, and the condition that says so."""

    fact: Fact
    recipe: Recipe | None = None
    name: str | None = None
    built: bool = False
    children: tuple[Json, ...] = ()


def engine_step(model: Json, accepted: Accepted, resolved: ResolvedSource, seen: Seen, world: World) -> EngineStep:
    """Return the wanted engine; a Refusal of the recipe becomes Accepted=False."""
    chosen = chosen_recipe(accepted, resolved, world)
    if isinstance(chosen, Refusal):
        details = "".join(f"; {r.option}: {r.reason}" for r in chosen.rejected[:8])
        return EngineStep(Fact(ACCEPTED, "False", chosen.reason, chosen.message + details))
    pinned = accepted.spec.engine_ref
    if pinned:
        return _pinned(pinned, chosen, seen)
    name = chosen.artifact.name
    engine = seen.get("AXEngine", name)
    children = () if engine else (_axengine(model, chosen.artifact),)
    return EngineStep(_readiness(name, engine, seen), chosen, name, _built(engine), children)


def chosen_recipe(accepted: Accepted, resolved: ResolvedSource, world: World) -> Recipe | Refusal:
    """Return the recipe for a resolved source; computed once for the same facts."""
    return _recipe(
        accepted.source,
        resolved.to_json(),
        accepted.entry.to_json() if accepted.entry else None,
        accepted.wishes(),
        world.pools,
        world.settings.toolchains,
        world.gpus,
    )


@lru_cache(maxsize=4096)
def _recipe(
    source: Source,
    resolved: str,
    entry: str | None,
    wishes: Wishes,
    pools: tuple[Pool, ...],
    toolchains: tuple[Toolchain, ...],
    gpus: tuple[Gpu, ...],
) -> Recipe | Refusal:
    known = CatalogueEntry.from_json(entry) if entry else None
    return recipe(source, ResolvedSource.from_json(resolved), known, wishes, pools, toolchains, gpus)


def _axengine(model: Json, artifact: ArtifactSpec) -> Json:
    """Return the AXEngine: owned by nobody, because every model of the namespace may share it."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "AXEngine",
        "metadata": meta(artifact.name, model["metadata"]["namespace"], names.COMPONENT_BUILD),
        "spec": artifact.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def _built(engine: Json | None) -> bool:
    ready = find((engine or {}).get("status", {}).get("conditions") or (), READY)
    return bool(ready and ready["status"] == "True")


def _readiness(name: str, engine: Json | None, seen: Seen) -> Fact:
    ready = find((engine or {}).get("status", {}).get("conditions") or (), READY)
    if ready is None:
        return Fact(ENGINE_READY, "False", "Building", f"AXEngine {name} waits for its build")
    if ready["status"] == "True":
        return Fact(ENGINE_READY, "True", "Built", f"AXEngine {name}")
    reason = "Building" if ready["reason"] == "Pending" else str(ready["reason"])
    progress = seen.progress.get(name)
    if reason == "Building" and progress:
        eta = f", about {progress.eta:.0f} s left" if progress.eta is not None else ""
        return Fact(ENGINE_READY, "False", reason, f"{progress.phase}: {progress.percent:.0f} %{eta}")
    return Fact(ENGINE_READY, "False", reason, str(ready.get("message") or ""))


def _pinned(name: str, chosen: Recipe, seen: Seen) -> EngineStep:
    engine = seen.get("AXEngine", name)
    if engine is None:
        message = f"spec.engineRef names AXEngine {name!r}, which does not exist in this namespace"
        return EngineStep(Fact(ENGINE_READY, "False", "EngineNotFound", message), chosen, name)
    artifact = ArtifactSpec.model_validate(engine["spec"])
    if artifact.artifact != chosen.artifact.artifact or artifact.architecture != chosen.artifact.architecture:
        message = (
            f"AXEngine {name} holds {artifact.artifact} of {artifact.architecture}, but the model needs "
            f"{chosen.artifact.artifact} of {chosen.artifact.architecture}: pin another, or remove spec.engineRef"
        )
        return EngineStep(Fact(ACCEPTED, "False", "InvalidSpec", message))
    return EngineStep(_readiness(name, engine, seen), replace(chosen, artifact=artifact), name, _built(engine))
