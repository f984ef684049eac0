"""How long pods of an engine take until they answer, from what Kubernetes wrote down about each of them."""

from __future__ import annotations

from collections.abc import Iterable

from ax_operator.api.axengine import ColdStart, PodStart
from ax_operator.api.conditions import timestamp, unix
from ax_operator.plan.world import Json

_KEPT = 5
_LONGEST = 7200.0
"""A pod that took longer had a stranger's trouble, or fell back and recovered."""


def cold_start(before: Json | None, pods: Iterable[Json]) -> Json | None:
    """Return `status.coldStart` of an engine, given what it was and its serving pods; None if nothing is known.

    The pods that got their node last are kept, also when they are gone. What was once written of a pod stays: a
    pod that fails its probe later becomes ready anew, which is no start.
    """
    known = ColdStart.model_validate(before or {})
    starts = {start.pod: start for pod in pods if (start := pod_start(pod))} | {each.pod: each for each in known.last}
    last = sorted(starts.values(), key=lambda start: (unix(start.scheduled), start.pod))[-_KEPT:]
    if not last:
        return None
    found = ColdStart(ready_seconds=max(start.ready_seconds for start in last), last=tuple(last))
    return found.model_dump(mode="json", by_alias=True, exclude_none=True)


def pod_start(pod: Json) -> PodStart | None:
    """Return how long a pod took; None while it is not ready, or if a container failed on the way."""
    status = pod.get("status") or {}
    since = {c["type"]: c.get("lastTransitionTime") for c in status.get("conditions") or () if c["status"] == "True"}
    if not (since.get("PodScheduled") and since.get("Ready")):
        return None
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    if any(each.get("restartCount") for each in containers):
        return None
    scheduled, ready = unix(since["PodScheduled"]), unix(since["Ready"])
    began = [((each.get("state") or {}).get("running") or {}).get("startedAt") for each in containers]
    runs = min((unix(at) for at in began if at), default=ready)
    if not 0 <= ready - scheduled <= _LONGEST:
        return None
    return PodStart(
        pod=pod["metadata"]["name"],
        scheduled=timestamp(scheduled),
        image_seconds=min(max(0.0, runs - scheduled), ready - scheduled),
        ready_seconds=ready - scheduled,
    )
