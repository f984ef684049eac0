"""What was observed becomes status, Events and metrics: written only if it says something new.

What changes with every request (`status.queue`, notes, a build's percent) is written at most every `CALM` seconds;
conditions and scaling decisions at once. One Event tells of each condition that flipped, or that stays False for
another reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from ax_operator.api.conditions import READY, STALLED, Fact, merge
from ax_operator.control.cache import Cache, Change
from ax_operator.control.metrics import Metrics
from ax_operator.control.ownership import up_to_date
from ax_operator.kinds import AXENGINE, Kind, kind_of
from ax_operator.kube_errors import KubeError, Missing
from ax_operator.plan.scaling import Decision

logger = logging.getLogger(__name__)

Manifest = dict[str, Any]
CALM = 10.0
REFUSED = "Refused"
_FLEETING = ("queue", "notes", "progress", "spentToday")


class Writer(Protocol):
    """What of `kube.Kube` is used here."""

    async def apply(self, manifest: Manifest, *, status: bool = False) -> Manifest: ...
    async def create_event(
        self, regarding: Manifest, *, reason: str, note: str, action: str, now: str, warning: bool = False
    ) -> None: ...


class Reporter:
    """Writes statuses and Events, and counts."""

    def __init__(self, kube: Writer, cache: Cache, metrics: Metrics, heard: Callable[[Change], None]) -> None:
        self._kube = kube
        self._cache = cache
        self._metrics = metrics
        self._heard = heard
        self._written: dict[str, float] = {}
        self._replicas: dict[tuple[str, str], int] = {}

    def wrote(self, verb: str, kind: Kind) -> None:
        """Count one request that changed the cluster."""
        self._metrics.writes.labels(verb, kind.kind).inc()

    async def model(self, model: Manifest, status: Manifest, now: float, refusal: str | None = None) -> float | None:
        """Write an AXModel's status; return seconds until fleeting numbers may be written."""
        return await self._write(model, _with_refusal(model, status, now, refusal), now)

    async def engine(self, engine: Manifest, status: Manifest, now: float, refusal: str | None = None) -> float | None:
        """Write an AXEngine's status and count builds that ended; return as `model` does."""
        before = engine.get("status") or {}
        status = _with_refusal(engine, status, now, refusal)
        later = await self._write(engine, status, now)
        was, has = _ready(before), _ready(status)
        if has and not was and status.get("artifact"):
            self._metrics.builds.labels("succeeded", "Built").inc()
            self._metrics.build_seconds.labels("succeeded").observe(status["artifact"].get("buildSeconds", 0))
        elif (status.get("failures") or 0) > (before.get("failures") or 0):
            reason = next((c["reason"] for c in status["conditions"] if c["type"] == READY), "")
            self._metrics.builds.labels("failed", reason).inc()
        return later

    async def hosted(self, api: Manifest, status: Manifest, now: float) -> float | None:
        """Write an AXHostedAPI's status; return as `model` does."""
        return await self._write(api, status, now)

    def decided(self, namespace: str, name: str, decision: Decision) -> None:
        """Show what the autoscaler said of a model, and count the changes of its number."""
        before = self._replicas.get((namespace, name))
        self._replicas[namespace, name] = decision.replicas
        self._metrics.decided(namespace, name, decision, before)
        if before is not None and before != decision.replicas:
            logger.info("Scaled a model", extra={"namespace": namespace, "object": name, "why": decision.why})

    def undecided(self, namespace: str, name: str) -> None:
        """Drop what was shown of a model that is gone."""
        if self._replicas.pop((namespace, name), None) is not None:
            self._metrics.undecided(namespace, name)

    async def _write(self, seen: Manifest, status: Manifest, now: float) -> float | None:
        meta = seen["metadata"]
        wanted = {"status": status}
        if up_to_date(wanted, seen, "status"):
            return None
        left = self._written.get(meta["uid"], -CALM) + CALM - now
        if left > 0 and _settled(seen.get("status") or {}, status):
            return left
        manifest = {
            "apiVersion": seen["apiVersion"],
            "kind": seen["kind"],
            "metadata": {key: meta[key] for key in ("name", "namespace") if meta.get(key)},
            "status": status,
        }
        try:
            made = await self._kube.apply(manifest, status=True)
        except Missing:
            logger.info("Found the object gone before its status was written", extra={"object": meta["name"]})
            return None
        self._written[meta["uid"]] = now
        kind = kind_of(seen)
        self.wrote("status", kind)
        change = self._cache.put(kind, made)
        if change:
            self._heard(change)
        await self._events(seen, status, now)
        return None

    async def _events(self, seen: Manifest, status: Manifest, now: float) -> None:
        before = {c["type"]: c for c in (seen.get("status") or {}).get("conditions") or ()}
        moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        for condition in status.get("conditions") or ():
            if not _tells_something(before.get(condition["type"]), condition):
                continue
            note = f"{condition['type']}={condition['status']}: {condition.get('message') or condition['reason']}"
            try:
                await self._kube.create_event(
                    seen,
                    reason=condition["reason"],
                    note=note,
                    action="Reconcile",
                    now=moment,
                    warning=condition["type"] == STALLED,
                )
            except KubeError as error:
                # The condition itself is written; an Event is its echo and is not worth another attempt.
                logger.warning(
                    "Could not record an Event", extra={"object": seen["metadata"]["name"], "error": str(error)}
                )

    def forget(self, uid: str) -> None:
        """Drop what was remembered of an object that is gone."""
        self._written.pop(uid, None)


def _tells_something(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    if old is None:
        return bool(new["status"] != "Unknown")
    if old["status"] != new["status"]:
        return True
    return bool(new["status"] == "False" and old["reason"] != new["reason"])


def _settled(before: Manifest, after: Manifest) -> bool:
    """Whether the two differ in fleeting numbers and in the wording of messages only."""
    return _lasting(before) == _lasting(after)


def _lasting(status: Manifest) -> Manifest:
    kept = {key: value for key, value in status.items() if key not in _FLEETING and value is not None}
    kept["phase"] = (status.get("progress") or {}).get("phase")
    kept["conditions"] = [
        {key: value for key, value in condition.items() if key != "message"}
        for condition in sorted(status.get("conditions") or (), key=lambda c: str(c["type"]))
    ]
    return kept


def _with_refusal(seen: Manifest, status: Manifest, now: float, refusal: str | None) -> Manifest:
    """Say in the conditions that the API server refused what the plan asks for."""
    if refusal is None:
        return status
    generation = seen["metadata"].get("generation", 0)
    facts = [Fact(STALLED, "True", REFUSED, refusal)]
    if seen["kind"] == AXENGINE.kind:
        facts = [Fact(READY, "False", REFUSED, refusal)]
    replaced = {fact.type for fact in facts} | {"Reconciling"}
    kept = [c for c in status["conditions"] if c["type"] not in replaced]
    before = (seen.get("status") or {}).get("conditions") or ()
    return status | {"conditions": kept + merge(facts, before, generation, now)}


def _ready(status: Manifest) -> bool:
    return any(c["type"] == READY and c["status"] == "True" for c in status.get("conditions") or ())
