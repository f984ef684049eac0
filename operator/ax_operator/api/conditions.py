"""Conditions: how a row of facts becomes `status.conditions`, and when lastTransitionTime moves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

Status = Literal["True", "False", "Unknown"]

# Types of an AXModel, in the order in which people read them.
ACCEPTED = "Accepted"
ENGINE_READY = "EngineReady"
AVAILABLE = "Available"
ROUTED = "Routed"
READY = "Ready"
# Present only while true (kstatus); Flux and Argo CD read them.
RECONCILING = "Reconciling"
STALLED = "Stalled"
# Of an AXEngine, besides Ready.
IN_USE = "InUse"


@dataclass(frozen=True, slots=True)
class Fact:
    """One condition as planned, before it is merged with what the object says."""

    type: str
    status: Status
    reason: str
    message: str = ""

    @property
    def true(self) -> bool:
        """Whether the condition holds."""
        return self.status == "True"


def timestamp(now: float) -> str:
    """Return a Unix time as Kubernetes writes it: UTC, whole seconds."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unix(text: str) -> float:
    """Return a Kubernetes time as Unix seconds."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def merge(
    facts: Iterable[Fact], previous: Sequence[Mapping[str, Any]], generation: int, now: float
) -> list[dict[str, Any]]:
    """Return `status.conditions`: lastTransitionTime moves only when `status` flips; vanished types vanish."""
    before = {c.get("type"): c for c in previous}
    merged = []
    for fact in facts:
        old = before.get(fact.type)
        kept = old and old.get("status") == fact.status and old.get("lastTransitionTime")
        merged.append(
            {
                "type": fact.type,
                "status": fact.status,
                "reason": fact.reason,
                "message": fact.message[:32768],
                "observedGeneration": generation,
                "lastTransitionTime": kept or timestamp(now),
            }
        )
    return merged


def find(conditions: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any] | None:
    """Return the condition of that type, if there is one."""
    return next((c for c in conditions if c.get("type") == kind), None)
