"""Step three: the recipe, and the AXEngine that it asks for, or what is kept instead.

A model that serves keeps to its GPU product while `placement.gpu` is `auto` and a recipe for it exists: GPUs that
come do not make it move, and GPUs that went (a pool scaled to zero nodes) are waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from ax_engines.contract import ArtifactSpec, ResolvedSource, Source
from ax_engines.guard import Expected, check_spec
from ax_engines.hardware import Gpu, Pool, Toolchain
from ax_engines.memory import weights_bytes
from ax_engines.models import CatalogueEntry
from ax_engines.recipe import Recipe, Refusal, Wishes, recipe
from ax_operator.api import names
from ax_operator.api.conditions import ACCEPTED, AVAILABLE, ENGINE_READY, READY, Fact, find
from ax_operator.plan.accept import Accepted
from ax_operator.plan.children.pod import meta
from ax_operator.plan.held import Held, held
from ax_operator.plan.world import Json, Seen, World, labels

_UNREAD = "0" * 40
"""Stands for the commit of a source that was not read yet."""
_POOL_REASONS = ("NoSuchPool", "NoRecipeForGPU", "ToolchainIncompatible")


@dataclass(frozen=True, slots=True)
class EngineStep:
    """The recipe, its AXEngine's name, whether its artifact is there, and the condition that says so.

    `held` is set instead of a recipe where the revision that serves is kept as it is; `behind` says why.
    """

    fact: Fact
    recipe: Recipe | None = None
    name: str | None = None
    built: bool = False
    children: tuple[Json, ...] = ()
    held: Held | None = None
    behind: Fact | None = None
    notes: tuple[str, ...] = ()


def engine_step(model: Json, accepted: Accepted, resolved: ResolvedSource, seen: Seen, world: World) -> EngineStep:
    """Return the wanted engine; a Refusal of the recipe becomes Accepted=False."""
    chosen = chosen_recipe(accepted, resolved, seen, world)
    if isinstance(chosen, Held):
        return _without_nodes(chosen)
    if isinstance(chosen, Refusal):
        return EngineStep(_refusal(chosen))
    pinned = accepted.spec.engine_ref
    if pinned:
        return _pinned(pinned, chosen, seen)
    name = chosen.artifact.name
    engine = seen.get("AXEngine", name)
    children = () if engine else (_axengine(model, chosen.artifact),)
    fact = _readiness(name, engine, seen)
    if not fact.true and (why := _replaces(chosen, seen)):
        fact = replace(fact, message=f"{fact.message}; {why}")
    return EngineStep(fact, chosen, name, _built(engine), children)


def kept(step: EngineStep, chosen: Held, why: str) -> EngineStep:
    """Return the step of a model whose roll waits for its turn; nothing is built for it before."""
    fact = Fact(ENGINE_READY, "True", "Built", f"AXEngine {chosen.engine} serves")
    behind = Fact(AVAILABLE, "False", "WaitingForTurn", why)
    return EngineStep(fact, name=chosen.engine, held=chosen, behind=behind, notes=step.notes)


def first_look(accepted: Accepted, seen: Seen, world: World) -> Fact | None:
    """Return why no pool or toolchain can serve a catalogue model, before its source was read.

    The catalogue's shape stands for the real one; what was only inferred yields to it later. Files of an author's
    own may be of another shape or quantized, so nothing is said of them.
    """
    hub = accepted.source.hugging_face
    if accepted.entry is None or hub is None or hub.repo != accepted.entry.hub_id or _deployments(seen):
        return None
    try:
        config = accepted.entry.assumed_config()
    except ValueError:
        return None
    assumed = ResolvedSource(
        revision=_UNREAD, format=accepted.entry.format, files=1, bytes=weights_bytes(config), config=config
    )
    chosen = chosen_recipe(accepted, assumed, seen, world)
    if isinstance(chosen, Refusal) and chosen.reason in _POOL_REASONS:
        return _refusal(chosen, "by what the catalogue says of the model, whose files were not read: ")
    return None


def chosen_recipe(accepted: Accepted, resolved: ResolvedSource, seen: Seen, world: World) -> Recipe | Refusal | Held:
    """Return the recipe for a resolved source, or what serves if its GPUs have no node now."""
    wishes = accepted.wishes()
    if accepted.spec.engine_ref and (engine := seen.get("AXEngine", accepted.spec.engine_ref)):
        return _recipe_of_pinned(accepted, resolved, wishes, ArtifactSpec.model_validate(engine["spec"]), world)
    serving = held(_deployments(seen))
    if serving is None or serving.product is None or wishes.gpu not in ("auto", serving.product):
        return _made(accepted, resolved, wishes, world)
    product = serving.product
    stayed = _made(accepted, resolved, replace(wishes, gpu=product), world)
    if isinstance(stayed, Recipe):
        note = f"the model stays on {product}, which serves it: name other GPUs in placement.gpu to move it"
        return replace(stayed, notes=(*stayed.notes, note)) if wishes.gpu == "auto" else stayed
    if stayed.reason == "NoSuchPool":
        return serving
    return _made(accepted, resolved, wishes, world)


def _made(accepted: Accepted, resolved: ResolvedSource, wishes: Wishes, world: World) -> Recipe | Refusal:
    """Return the recipe; computed once for the same facts."""
    return _recipe(
        accepted.source,
        resolved.to_json(),
        accepted.entry.to_json() if accepted.entry else None,
        wishes,
        world.machines.pools(accepted.reach),
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


def _recipe_of_pinned(
    accepted: Accepted, resolved: ResolvedSource, wishes: Wishes, artifact: ArtifactSpec, world: World
) -> Recipe | Refusal:
    """Return the recipe that serves a pinned artifact: its backend, format, ranks, limits and GPUs are given."""
    wishes = replace(wishes, quantization=artifact.quantization, calibration=artifact.calibration)
    if artifact.gpu_product and wishes.gpu == "auto":
        wishes = replace(wishes, gpu=artifact.gpu_product)
    if any(t.name == artifact.toolchain for t in world.settings.toolchains):
        wishes = replace(wishes, toolchain=artifact.toolchain)
    if target := artifact.target:
        limits = target.limits
        wishes = replace(
            wishes,
            backend="tensorrt",
            tensor=target.tensor,
            pipeline=target.pipeline,
            max_batch_size=limits.max_batch_size,
            max_input_tokens=limits.max_input_tokens,
            max_total_tokens=limits.max_total_tokens,
        )
        return _made(accepted, resolved, wishes, world)
    if artifact.artifact == "gguf":
        return _made(accepted, resolved, replace(wishes, quantization="auto"), world)
    first = _made(accepted, resolved, replace(wishes, backend="pytorch"), world)
    if isinstance(first, Recipe):
        return first
    second = _made(accepted, resolved, replace(wishes, backend="transformers"), world)
    return second if isinstance(second, Recipe) else first


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
    if wrong := check_spec(artifact, replace(Expected.of(name, chosen.artifact), revision=None)):
        message = (
            f"AXEngine {name} cannot run here: {'; '.join(map(str, wrong))}: remove spec.engineRef to have the right "
            "one built, or pin one that was built for these GPUs and this toolchain"
        )
        return EngineStep(Fact(ENGINE_READY, "False", "EngineMismatch", message), chosen, name)
    return EngineStep(_readiness(name, engine, seen), replace(chosen, artifact=artifact), name, _built(engine))


def _without_nodes(serving: Held) -> EngineStep:
    """Return the step of a model whose GPUs have no node: what serves is kept, and its replicas wait for a node."""
    fact = Fact(ENGINE_READY, "True", "Built", f"AXEngine {serving.engine}, for {serving.product}")
    note = (
        f"no node offers {serving.product} now: the model keeps its revision and starts when a node is back; name "
        "other GPUs in placement.gpu to move it"
    )
    return EngineStep(fact, name=serving.engine, held=serving, notes=(note,))


def _replaces(chosen: Recipe, seen: Seen) -> str | None:
    """Say in which of the guard's facts the engine that serves is not the wanted one."""
    serving = held(_deployments(seen))
    old = seen.get("AXEngine", serving.engine) if serving else None
    if old is None or chosen.artifact.target is None or old["metadata"]["name"] == chosen.artifact.name:
        return None
    wrong = check_spec(ArtifactSpec.model_validate(old["spec"]), Expected.of("", chosen.artifact))
    return f"it replaces AXEngine {old['metadata']['name']}: {'; '.join(map(str, wrong))}" if wrong else None


def _refusal(chosen: Refusal, by: str = "") -> Fact:
    details = "".join(f"; {r.option}: {r.reason}" for r in chosen.rejected[3:8])
    return Fact(ACCEPTED, "False", chosen.reason, by + chosen.message + details)


def _deployments(seen: Seen) -> list[Json]:
    return [d for d in seen.all("Deployment", names.COMPONENT_SERVING) if labels(d).get(names.ENGINE)]


def notes_of(step: EngineStep) -> Iterator[str]:
    """Yield what is worth saying in status.notes: the recipe's own notes, then what was not chosen and why."""
    yield from step.notes
    if step.recipe:
        yield from step.recipe.notes
        yield from (f"not chosen: {r.option}: {r.reason}" for r in step.recipe.rejected)


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
