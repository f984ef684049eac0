"""Step two: the exact bytes behind a source, found by a resolve Job and kept in an immutable ConfigMap."""

from __future__ import annotations

from dataclasses import dataclass, field

from ax_engines.contract import ResolvedSource
from ax_engines.models import compare
from ax_operator.api import names
from ax_operator.api.conditions import ACCEPTED, ENGINE_READY, Fact
from ax_operator.plan.accept import Accepted
from ax_operator.plan.children.pod import account
from ax_operator.plan.children.resolve_job import RESOLVED_KEY, resolve_objects, resolved_map, source_hash
from ax_operator.plan.jobs import RETRY_AFTER, job_facts
from ax_operator.plan.world import Json, Ref, Seen, World, labels, owner

_SECRETS = {
    "missing": "does not exist in this namespace: create it",
    "unlabelled": f"may not be used by AXModels: label it {names.USABLE_BY}={names.USABLE_BY_VALUE}",
    "unreadable": "cannot be checked: bind the ClusterRole `ax-operator-secrets` to the operator's ServiceAccount in "
    "this namespace",
}


@dataclass(frozen=True, slots=True)
class SourceStep:
    """What the step found (or why not), and the objects that it needs."""

    resolved: ResolvedSource | None = None
    fact: Fact | None = None
    """A condition that ends the plan here."""
    children: tuple[Json, ...] = ()
    obsolete: tuple[Ref, ...] = ()
    notes: tuple[str, ...] = ()
    requeue_after: float | None = field(default=None)


def source_step(model: Json, accepted: Accepted, seen: Seen, world: World, now: float) -> SourceStep:
    """Return the resolved source once its ConfigMap is there; until then the resolve Job and its progress."""
    key = source_hash(accepted.source, trust_remote_code=accepted.trust_remote_code)
    name = names.child(model["metadata"]["name"], f"src-{key}")
    stale = tuple(
        Ref.of(o)
        for o in seen.objects
        if labels(o).get(names.COMPONENT) == names.COMPONENT_RESOLVE
        and o["kind"] in ("Job", "ConfigMap")
        and o["metadata"]["name"] != name
    )
    kept = seen.get("ConfigMap", name)
    job = seen.get("Job", name)
    if kept:
        resolved = ResolvedSource.from_json(kept["data"][RESOLVED_KEY])
        done = (*stale, *((Ref.of(job),) if job else ()))
        return _compared(accepted, resolved, (resolved_map(model, key, resolved),), done)
    if seen.secret in _SECRETS:
        message = f"Secret {accepted.source.secret!r} {_SECRETS[seen.secret]}"
        return SourceStep(fact=Fact(ACCEPTED, "False", "SecretNotUsable", message), obsolete=stale, requeue_after=60)
    return _resolving(model, accepted, seen, world, now, job, key, stale)


def _resolving(
    model: Json,
    accepted: Accepted,
    seen: Seen,
    world: World,
    now: float,
    job: Json | None,
    key: str,
    stale: tuple[Ref, ...],
) -> SourceStep:
    meta = model["metadata"]
    who = account(
        names.child(meta["name"]),
        meta["namespace"],
        names.COMPONENT_SERVING,
        [owner(model)],
        {names.MODEL: meta["name"]},
    )
    wanted = resolve_objects(model, accepted.source, world.settings, trust_remote_code=accepted.trust_remote_code)
    children = (who, *wanted)
    where = accepted.source.label
    waiting = Fact(ENGINE_READY, "False", "ResolvingSource", f"reading what {where} consists of")
    if job is None:
        return SourceStep(fact=waiting, children=children, obsolete=stale)
    facts = job_facts(job, seen)
    if facts.result and facts.result.resolved:
        found = facts.result.resolved
        return _compared(accepted, found, (*children, resolved_map(model, key, found)), stale)
    requeue = None
    if facts.ended is not None:
        # Complete without a result means that its pod was gone before we read it; Failed is tried again later.
        due = facts.ended + (RETRY_AFTER if facts.state == "failed" else 0)
        requeue = max(1.0, due - now)
        if now >= due:
            return SourceStep(fact=waiting, obsolete=(*stale, Ref.of(job)), requeue_after=1)
    if facts.error:
        failed = Fact(ENGINE_READY, "False", facts.error.reason, f"source {where}: {facts.error.message}")
        return SourceStep(fact=failed, children=children, obsolete=stale, requeue_after=requeue)
    if facts.unschedulable:
        stuck = Fact(ENGINE_READY, "False", "Unschedulable", f"the resolve pod waits: {facts.unschedulable}")
        return SourceStep(fact=stuck, children=children, obsolete=stale)
    return SourceStep(fact=waiting, children=children, obsolete=stale, requeue_after=requeue)


def _compared(
    accepted: Accepted, resolved: ResolvedSource, children: tuple[Json, ...], obsolete: tuple[Ref, ...]
) -> SourceStep:
    """Hold the real config against the catalogue: a published value that differs ends here, others are notes."""
    notes: tuple[str, ...] = ()
    if accepted.entry:
        errors, notes = compare(accepted.entry, resolved.config)
        if errors:
            fact = Fact(ACCEPTED, "False", "SourceMismatch", "; ".join(errors))
            return SourceStep(fact=fact, children=children, obsolete=obsolete)
    return SourceStep(resolved=resolved, children=children, obsolete=obsolete, notes=notes)
