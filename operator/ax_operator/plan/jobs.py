"""What a Job's pods say: its result, its last error, and whether it is stuck for want of a node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from ax_engines.tasks import TaskResult
from ax_operator.api.conditions import unix
from ax_operator.plan.world import Json, Seen

RETRY_AFTER = 600.0
"""Seconds after which a Job that Kubernetes gave up is tried again."""


@dataclass(frozen=True, slots=True)
class JobFacts:
    """One Job as seen: `state`, what its containers said last, how often its pods failed, when it ended."""

    state: Literal["running", "succeeded", "failed"]
    result: TaskResult | None
    error: TaskResult | None
    failures: int
    ended: float | None
    unschedulable: str | None
    live: Json | None
    """The newest pod, while it has not ended."""
    phase: str | None


def job_facts(job: Json, seen: Seen) -> JobFacts:
    """Return the facts of a Job from its status and its pods'."""
    pods = [p for p in seen.all("Pod") if _belongs(p, job)]
    pods.sort(key=lambda p: str(p["metadata"].get("creationTimestamp", "")))
    state: Literal["running", "succeeded", "failed"] = "running"
    ended = None
    for condition in job.get("status", {}).get("conditions") or ():
        if condition["status"] == "True" and condition["type"] in ("Complete", "Failed"):
            state = "succeeded" if condition["type"] == "Complete" else "failed"
            ended = unix(condition["lastTransitionTime"])
    results = [r for p in pods for r in _messages(p)]
    good = [r for r in results if r.ok]
    bad = [r for r in results if not r.ok]
    live = pods[-1] if pods and pods[-1].get("status", {}).get("phase") in (None, "Pending", "Running") else None
    return JobFacts(
        state=state,
        result=good[-1] if good and state == "succeeded" else None,
        error=bad[-1] if bad else None,
        failures=int(job.get("status", {}).get("failed") or 0),
        ended=ended,
        unschedulable=unschedulable(live) if live else None,
        live=live,
        phase=_running_container(live) if live else None,
    )


def unschedulable(pod: Json) -> str | None:
    """Return the scheduler's words about a pod that it cannot place, else None."""
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message") or condition.get("reason") or "no node fits")
    return None


def _belongs(pod: Json, job: Json) -> bool:
    uid = job["metadata"].get("uid")
    return any(o.get("uid") == uid for o in pod["metadata"].get("ownerReferences") or ())


def _statuses(pod: Json) -> list[Json]:
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _messages(pod: Json) -> Iterator[TaskResult]:
    for status in _statuses(pod):
        ended = (status.get("state") or {}).get("terminated") or (status.get("lastState") or {}).get("terminated")
        if not ended:
            continue
        text = ended.get("message") or ""
        try:
            yield TaskResult.from_json(text)
        except ValidationError:
            if ended.get("exitCode"):
                # Not our words: killed before it could speak (out of memory, a node gone), or a crash's log.
                reason = str(ended.get("reason") or "Error")
                tail = " ".join(text.split())[-600:]
                message = f"container {status['name']} ended with exit code {ended['exitCode']}: {tail or reason}"
                yield TaskResult(ok=False, reason="".join(filter(str.isalpha, reason)) or "Error", message=message)


def _running_container(pod: Json) -> str | None:
    running = [s["name"] for s in _statuses(pod) if "running" in (s.get("state") or {})]
    return running[-1] if running else None
