"""Step four: Deployments, one per serving revision, and how many replicas each has.

Which revision serves is read from the Deployments themselves: those that carry the model's label. The wanted one is
named by the hash of its pod template. While it is not ready the others share the replicas that are still missing,
so that the sum of ready pods never falls below what is asked for (`WhenRoom`), or by one at most (`InPlace`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ax_operator.api import names
from ax_operator.api.axmodel import AXModelSpec
from ax_operator.api.conditions import AVAILABLE, Fact, timestamp, unix
from ax_operator.plan.accept import Accepted
from ax_operator.plan.children.serving import rescaled, revision_of, wanted_deployment
from ax_operator.plan.children.surroundings import surroundings
from ax_operator.plan.engine import EngineStep
from ax_operator.plan.jobs import unschedulable
from ax_operator.plan.machines import want_of_room
from ax_operator.plan.replicas import Replicas, replicas
from ax_operator.plan.world import Json, Ref, Seen, World, labels

_MANY_RESTARTS = 3
_BLINK = 60.0
_MISMATCH = "was compiled for another machine: "
"""In the last words of Triton's container where engine and machine do not belong together."""


@dataclass(frozen=True, slots=True)
class ServingStep:
    """The Deployments and what stands around them, how many replicas, and the condition Available."""

    fact: Fact
    desired: int = 0
    ready: int = 0
    replicas: int = 0
    revision: str | None = None
    serving: str | None = None
    """The engine of the revision that answers now."""
    behind: Fact | None = None
    """What happens behind a revision that serves: the new one's pods start, or why they cannot."""
    children: tuple[Json, ...] = ()
    obsolete: tuple[Ref, ...] = ()
    scaled: Replicas | None = None
    """What the autoscaler said; None for a model without replicas of its own."""


def serving_step(
    model: Json,
    accepted: Accepted,
    engine: EngineStep,
    seen: Seen,
    world: World,
    now: float,
) -> ServingStep:
    """Return the serving objects; without a built engine the revisions that are there go on."""
    spec = accepted.spec
    present = seen.all("Deployment", names.COMPONENT_SERVING)
    ready, total = sum(map(_ready, present)), sum(map(_replicas, present))
    if spec.routing.policy == "HostedOnly":
        fact = Fact(AVAILABLE, "True", "NotRequired", "policy HostedOnly: no replica is needed")
        gone = [*present, *_surroundings_seen(seen)]
        return ServingStep(fact, replicas=total, ready=ready, obsolete=tuple(map(Ref.of, gone)))
    scaled = replicas(model["metadata"]["namespace"], spec, engine, present, seen, world, now)
    desired = scaled.wanted
    wanted = None
    if engine.recipe and engine.name and engine.built:
        wanted = wanted_deployment(model, accepted, engine.recipe, engine.name, desired, world)
    children, obsolete = _rolled(spec, wanted, present, desired, now)
    answering = max(present, key=_ready, default=None)
    step = ServingStep(
        fact=_available(wanted, present, seen, world, desired, ready, scaled.shortage),
        desired=desired,
        ready=ready,
        replicas=total,
        revision=revision_of(wanted) if wanted else None,
        serving=labels(answering).get(names.ENGINE) if answering and (_ready(answering) or not desired) else None,
        behind=_behind(wanted, present, seen, world, desired, ready) if ready else None,
        children=tuple(children),
        obsolete=tuple(map(Ref.of, [*obsolete, *_needless_pdb(seen, desired)])),
        scaled=scaled,
    )
    if not children and wanted is None:
        return step
    slots = engine.recipe.slots if engine.recipe else None
    return replace(step, children=(*surroundings(model, desired, world.settings, slots), *children))


def _rolled(
    spec: AXModelSpec, wanted: Json | None, present: list[Json], desired: int, now: float
) -> tuple[list[Json], list[Json]]:
    """Return the Deployments to apply and those to delete."""
    others = [d for d in present if not wanted or d["metadata"]["name"] != wanted["metadata"]["name"]]
    others.sort(key=lambda d: (-_ready(d), str(d["metadata"].get("creationTimestamp", "")), d["metadata"]["name"]))
    if wanted is None:
        return _shared_out(others, desired, now, drop=False)
    own = next((d for d in present if d["metadata"]["name"] == wanted["metadata"]["name"]), None)
    missing = max(0, desired - (_ready(own) if own else 0))
    in_place = spec.rollout == "InPlace" and (desired > 1 or spec.routing.while_unavailable != "Reject")
    if in_place and others:
        # One replica at a time gives its GPU to the new revision.
        keep = max(0, missing - 1)
        wanted = {**wanted, "spec": {**wanted["spec"], "replicas": desired - keep}}
    else:
        keep = missing
    kept, gone = _shared_out(others, keep, now, drop=True)
    if in_place and missing and gone and not kept:
        # Its last replica has made room; it stays at none until the new one answers, as a way back.
        kept, gone = [rescaled(gone[0], 0)], gone[1:]
    return [wanted, *kept], gone


def _shared_out(others: list[Json], keep: int, now: float, *, drop: bool) -> tuple[list[Json], list[Json]]:
    """Give `keep` replicas to the revisions with most ready pods; what gets none is deleted, or scaled to zero.

    A revision that does not answer is dropped, since its pods may hold the GPUs that the new one waits for, unless
    it answered until a moment ago, or there is nothing else.
    """
    kept: list[Json] = []
    gone: list[Json] = []
    for index, seen in enumerate(others):
        useful = bool(_ready(seen)) or _blinked(seen, now) or (not drop and index == 0)
        share = min(keep, max(_ready(seen), _wanted_replicas(seen)) if drop else keep) if useful else 0
        keep -= share
        if share or (not drop and index == 0):
            kept.append(rescaled(seen, share))
        else:
            gone.append(seen)
    return kept, gone


def _blinked(deployment: Json, now: float) -> bool:
    """Whether a revision that had been answering stopped less than `_BLINK` seconds ago."""
    created = unix(deployment["metadata"].get("creationTimestamp") or timestamp(now))
    for condition in deployment.get("status", {}).get("conditions") or ():
        if condition["type"] == "Available" and condition["status"] == "False" and _wanted_replicas(deployment):
            changed = unix(condition["lastTransitionTime"])
            return changed - created > _BLINK and now - changed < _BLINK
    return False


def _behind(
    wanted: Json | None, present: list[Json], seen: Seen, world: World, desired: int, ready: int
) -> Fact | None:
    """Return what goes on behind pods that serve: a new revision starts, or replicas are missing and why."""
    lacking = _trouble(seen, world) if ready < desired else None
    revision = revision_of(wanted) if wanted else ""
    if wanted is None or not any(revision_of(d) != revision for d in present):
        return lacking
    fresh = next((d for d in present if revision_of(d) == revision), None)
    if fresh is not None and _ready(fresh) >= desired:
        return Fact(AVAILABLE, "False", "PodsStarting", "the old revision leaves")
    return _trouble(seen, world, revision) or Fact(AVAILABLE, "False", "PodsStarting", f"revision {revision} starts")


def _available(
    wanted: Json | None, present: list[Json], seen: Seen, world: World, desired: int, ready: int, shortage: str | None
) -> Fact:
    if wanted is None and not present:
        return Fact(AVAILABLE, "False", "WaitingForEngine", "pods start when the engine is built")
    if desired == 0 and shortage:
        return Fact(AVAILABLE, "False", "Unschedulable", shortage)
    if desired == 0:
        return Fact(AVAILABLE, "True", "ScaledToZero", "no replica runs; the first request wakes one")
    if ready:
        return Fact(AVAILABLE, "True", "MinimumReplicasAvailable", f"{ready} of {desired} replicas ready")
    return _trouble(seen, world) or Fact(AVAILABLE, "False", "PodsStarting", f"0 of {desired} replicas ready")


def _trouble(seen: Seen, world: World, revision: str | None = None) -> Fact | None:
    """Return what keeps serving pods from becoming ready, in the scheduler's or the container's words."""
    for pod in seen.all("Pod", names.COMPONENT_SERVING):
        if pod["metadata"].get("deletionTimestamp") or revision not in (None, labels(pod).get(names.REVISION)):
            continue
        why = unschedulable(pod)
        if why:
            lack = want_of_room(pod, world.machines, seen.takers, why)
            return Fact(AVAILABLE, "False", "Unschedulable", f"pod {pod['metadata']['name']} waits: {lack}")
        status = pod.get("status", {})
        for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
            waiting = (container.get("state") or {}).get("waiting") or {}
            reason = str(waiting.get("reason") or "")
            if reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"):
                return Fact(AVAILABLE, "False", reason, f"{container['name']}: {waiting.get('message') or reason}")
            last = (container.get("lastState") or {}).get("terminated") or {}
            if _MISMATCH in str(last.get("message")):
                told = str(last["message"]).rpartition(_MISMATCH)[2].strip()
                return Fact(AVAILABLE, "False", "EngineMismatch", f"the engine {_MISMATCH}{told[:1000]}")
            if last and container.get("restartCount", 0) >= _MANY_RESTARTS:
                tail = " ".join(str(last.get("message") or last.get("reason") or "").split())[-600:]
                return Fact(AVAILABLE, "False", "ContainerFailing", f"{container['name']} restarts: {tail}")
    return None


def _surroundings_seen(seen: Seen) -> list[Json]:
    kinds = ("Service", "NetworkPolicy", "PodDisruptionBudget")
    return [o for kind in kinds for o in seen.all(kind, names.COMPONENT_SERVING)]


def _needless_pdb(seen: Seen, desired: int) -> list[Json]:
    return seen.all("PodDisruptionBudget", names.COMPONENT_SERVING) if desired < 2 else []


def _ready(deployment: Json) -> int:
    return int(deployment.get("status", {}).get("readyReplicas") or 0)


def _replicas(deployment: Json) -> int:
    return int(deployment.get("status", {}).get("replicas") or 0)


def _wanted_replicas(deployment: Json) -> int:
    return int(deployment.get("spec", {}).get("replicas") or 0)


def engine_in_use(deployments: list[Json]) -> set[str]:
    """Return the engines that Deployments serve or drain."""
    return {engine for d in deployments if (engine := labels(d).get(names.ENGINE))}
