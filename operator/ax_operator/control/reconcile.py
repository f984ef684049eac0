"""One function for every trigger: observe ▶ plan ▶ apply ▶ report. Safe to run twice, and after a crash at any line.

What triggered the work is never asked. Children are applied in the order of the plan and obsolete objects deleted
after them; the status comes last and says what was observed. Invariants:

- Only objects that carry our label are changed or deleted; a namesake of somebody else is an error for its author.
- Nothing is sent that would change nothing.
- A child that the API server refuses does not stop the children of other AXEngines, and the refusal is reported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from ax_operator.api.names import ENGINE, MANAGED_BY, MANAGED_BY_VALUE, MODEL, USABLE_BY, USABLE_BY_VALUE
from ax_operator.control.cache import Cache, Change, address_of
from ax_operator.control.emptiest import costs, shrinks
from ax_operator.control.observe import Observer
from ax_operator.control.ownership import up_to_date
from ax_operator.control.report import Reporter
from ax_operator.control.wakes import EVERYTHING, Key, model_key
from ax_operator.kinds import (
    AXENGINE,
    AXHOSTEDAPI,
    AXMODEL,
    CONFIGMAP,
    DEPLOYMENT,
    JOB,
    POD,
    PVC,
    SECRET,
    Kind,
    kind_of,
)
from ax_operator.kube_errors import Conflict, Forbidden, Invalid
from ax_operator.plan.hosted import hosted_status
from ax_operator.plan.model import TICK, plan_model
from ax_operator.plan.scaling import Load
from ax_operator.plan.store import plan_store
from ax_operator.plan.world import Plan, Ref

logger = logging.getLogger(__name__)

Manifest = dict[str, Any]
IDLE_TICK = 10.0
"""Seconds between two looks at a model that nobody uses: whoever comes wakes it at once."""
AGAIN = 0.5
"""Seconds until an object that had to be deleted first is made anew."""


class Cluster(Protocol):
    """What of `kube.Kube` is used here."""

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest | None: ...
    async def get_metadata(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest | None: ...
    async def apply(self, manifest: Manifest, *, status: bool = False) -> Manifest: ...
    async def delete(
        self, kind: Kind, name: str, namespace: str | None = None, *, uid: str | None = None
    ) -> Manifest | None: ...
    async def create_event(
        self, regarding: Manifest, *, reason: str, note: str, action: str, now: str, warning: bool = False
    ) -> None: ...


@dataclass(slots=True)
class _Refusal:
    """The first child that the API server refused in one pass."""

    child: Manifest
    error: Invalid | Forbidden

    def __str__(self) -> str:
        name = self.child["metadata"]["name"]
        return f"the API server refused {self.child['kind']} {name!r}: {self.error}"


class Reconciler:
    """Brings models and stores to what their plans say.

    heard: told of every change that our own writes made, as the watches tell of others'.
    """

    def __init__(
        self,
        kube: Cluster,
        cache: Cache,
        observer: Observer,
        reporter: Reporter,
        heard: Callable[[Change], None],
        clock: Callable[[], float],
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._observer = observer
        self._reporter = reporter
        self._heard = heard
        self._clock = clock
        self._uses: dict[Key, str] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Do one piece of work; return seconds after which to look again."""
        if key.kind == EVERYTHING.kind:
            raise ValueError("everything is spread out by the operator, one model at a time")
        work = {AXMODEL.kind: self._model, AXHOSTEDAPI.kind: self._hosted}.get(key.kind, self._store)
        return await work(key)

    def users(self, namespace: str, engine: str) -> set[Key]:
        """Return the models whose last plan named this AXEngine."""
        return {key for key, name in self._uses.items() if name == engine and key.namespace == namespace}

    async def _model(self, key: Key) -> float | None:
        model = self._cache.get(AXMODEL, key.namespace, key.name)
        if model is None:
            self._uses.pop(key, None)
            self._observer.forget(key)
            self._reporter.undecided(key.namespace, key.name)
            return None
        seen = self._observer.model(key, await self._secret(model))
        now = self._clock()
        plan = plan_model(model, seen, self._observer.world(), now)
        self._observer.remember(key, plan.memory, plan.replicas)
        if plan.decision is not None:
            self._reporter.decided(key.namespace, key.name, plan.decision)
        self._uses[key] = ((plan.status or {}).get("engine") or {}).get("name") or ""
        refusals, again = await self._carry_out(plan)
        wait = plan.requeue_after
        if wait == TICK and seen.load is not None and not _busy(seen.load):
            wait = IDLE_TICK
        if plan.status is not None:
            later = await self._reporter.model(model, plan.status, now, str(refusals[0]) if refusals else None)
            wait = _earlier(wait, later)
        if refusals:
            raise refusals[0].error
        return _earlier(wait, again)

    async def _hosted(self, key: Key) -> float | None:
        api = self._cache.get(AXHOSTEDAPI, None, key.name)
        if api is None:
            return None
        now = self._clock()
        return await self._reporter.hosted(api, hosted_status(api, self._observer.hosted(key.name), now), now)

    async def _store(self, key: Key) -> float | None:
        now = self._clock()
        plan = plan_store(key.namespace, self._observer.store(key.namespace), self._observer.world(), now)
        refusals, again = await self._carry_out(plan)
        wait = plan.requeue_after
        refused = {r.child["metadata"]["labels"].get(ENGINE): str(r) for r in refusals}
        for wanted in plan.statuses:
            engine = self._cache.get(AXENGINE, key.namespace, wanted["metadata"]["name"])
            if engine is not None:
                why = refused.get(wanted["metadata"]["name"])
                wait = _earlier(wait, await self._reporter.engine(engine, wanted["status"], now, why))
        if refusals:
            raise refusals[0].error
        return _earlier(wait, again)

    async def _secret(self, model: Manifest) -> str | None:
        """Say whether the source's Secret may be used; only its labels are read."""
        source = (model.get("spec") or {}).get("source") or {}
        name = (source.get("huggingFace") or {}).get("tokenSecret") or (source.get("s3") or {}).get("credentialsSecret")
        if not name:
            return None
        try:
            found = await self._kube.get_metadata(SECRET, name, model["metadata"]["namespace"])
        except Forbidden:
            return "unreadable"
        if found is None:
            return "missing"
        usable = (found["metadata"].get("labels") or {}).get(USABLE_BY) == USABLE_BY_VALUE
        return "usable" if usable else "unlabelled"

    async def _carry_out(self, plan: Plan) -> tuple[list[_Refusal], float | None]:
        """Apply children, then delete what is obsolete; return what was refused and when to come back."""
        refusals: list[_Refusal] = []
        again: float | None = None
        for child in plan.children:
            engine = child["metadata"]["labels"].get(ENGINE)
            if any(r.child["metadata"]["labels"].get(ENGINE) == engine for r in refusals):
                continue
            try:
                if not await self._apply(child):
                    again = AGAIN
            except (Invalid, Forbidden) as error:
                refusals.append(_Refusal(child, error))
        if not refusals:
            await self._delete(plan.obsolete)
        return refusals, again

    async def _apply(self, child: Manifest) -> bool:
        """Bring one child about; return False if a predecessor has to go first."""
        kind = kind_of(child)
        seen = await self._find(kind, child)
        if seen is not None:
            if not _ours(seen):
                raise Invalid(
                    f"it exists and is not the operator's: rename or delete it, or label it "
                    f"{MANAGED_BY}={MANAGED_BY_VALUE} to hand it over"
                )
            if kind == PVC or up_to_date(child, seen):
                return True  # a claim is made once: its class and size are its owner's afterwards
            if kind == JOB or (kind == CONFIGMAP and seen.get("immutable")):
                return await self._replaced(kind, seen)
            if kind == DEPLOYMENT and shrinks(child, seen):
                await self._rank(seen)
        made = await self._kube.apply(child)
        self._reporter.wrote("apply", kind)
        logger.info("Applied an object", extra=_named(kind, child))
        self._take(kind, made)
        return True

    async def _rank(self, deployment: Manifest) -> None:
        """Have the emptiest of a Deployment's pods go first; without it they go all the same, and drain."""
        meta = deployment["metadata"]
        chosen = deployment["spec"]["selector"]["matchLabels"]
        pods = self._cache.select(POD, meta["namespace"], chosen)
        for patch in costs(pods, self._observer.busy(model_key(meta["namespace"], meta["labels"][MODEL]))):
            try:
                self._take(POD, await self._kube.apply(patch))
            except (Conflict, Invalid, Forbidden) as error:
                logger.warning("Could not rank a pod", extra=_named(POD, patch) | {"error": str(error)})
                continue
            self._reporter.wrote("apply", POD)

    async def _find(self, kind: Kind, child: Manifest) -> Manifest | None:
        """Look in the cache, and where it has nothing, in the cluster: a foreign namesake is not in the cache."""
        seen = self._cache.get(*address_of(kind, child))
        if seen is None:
            seen = await self._kube.get(kind, child["metadata"]["name"], child["metadata"].get("namespace"))
            if seen is not None and _ours(seen):
                self._take(kind, seen)
        return seen

    async def _replaced(self, kind: Kind, seen: Manifest) -> bool:
        """Make room for an object that cannot be changed; a Job whose pod works is left to end first."""
        if kind == JOB and any(_works(pod) for _, pod in self._cache.owned(seen["metadata"]["uid"])):
            return True
        await self._gone(kind, seen)
        return False

    async def _delete(self, obsolete: Iterable[Ref]) -> None:
        for ref in obsolete:
            kind = kind_of({"apiVersion": ref.api_version, "kind": ref.kind})
            seen = self._cache.get(kind, ref.namespace, ref.name)
            if seen is None or not _ours(seen) or seen["metadata"].get("deletionTimestamp"):
                continue
            if ref.uid in (None, seen["metadata"]["uid"]):
                await self._gone(kind, seen)

    async def _gone(self, kind: Kind, seen: Manifest) -> None:
        meta = seen["metadata"]
        try:
            left = await self._kube.delete(kind, meta["name"], meta.get("namespace"), uid=meta["uid"])
        except Conflict:
            logger.info("Kept an object made anew under the same name", extra=_named(kind, seen))
            return
        if left is not None:
            self._take(kind, left)
        elif change := self._cache.remove(kind, seen):
            # Not left to the watch: its event may come late, or never, if the object went while no watch ran.
            self._heard(change)
        self._reporter.wrote("delete", kind)
        logger.info("Deleted an object", extra=_named(kind, seen))

    def _take(self, kind: Kind, made: Manifest) -> None:
        change = self._cache.put(kind, made)
        if change:
            self._heard(change)


def _busy(load: Load) -> bool:
    return load.running + load.waiting + load.held + load.in_flight + load.overflowed > 0 or load.starting > 0


def _ours(manifest: Manifest) -> bool:
    return (manifest["metadata"].get("labels") or {}).get(MANAGED_BY) == MANAGED_BY_VALUE


def _works(pod: Manifest) -> bool:
    """Whether a container of the pod runs: what it did so far would be lost."""
    status = pod.get("status") or {}
    states = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return not pod["metadata"].get("deletionTimestamp") and any("running" in (s.get("state") or {}) for s in states)


def _named(kind: Kind, manifest: Manifest) -> dict[str, Any]:
    meta = manifest["metadata"]
    return {"kind": kind.kind, "namespace": meta.get("namespace"), "object": meta["name"]}


def _earlier(one: float | None, other: float | None) -> float | None:
    known = [each for each in (one, other) if each is not None]
    return min(known, default=None)
