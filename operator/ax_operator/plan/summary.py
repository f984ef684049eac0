"""Step six: Ready in one word, and what Flux and Argo CD read (Reconciling, Stalled)."""

from __future__ import annotations

from ax_operator.api.conditions import READY, RECONCILING, STALLED, Fact

_WAITS = {
    "ResolvingSource",
    "Building",
    "Pending",
    "Unschedulable",
    "PodsStarting",
    "WaitingForEngine",
    "WaitingForTurn",
}


def summary(engine: Fact, available: Fact, routed: Fact, behind: Fact | None) -> list[Fact]:
    """Return Ready and, while something goes on or is stuck, Reconciling or Stalled.

    behind: what happens behind a revision that serves; it does not make the model less ready.
    """
    wrong = next((f for f in (engine, available, routed) if not f.true), None)
    if wrong:
        reason = "Building" if wrong.reason == "ResolvingSource" else wrong.reason
        return [Fact(READY, "False", reason, wrong.message), _going_on(wrong)]
    ready = Fact(READY, "True", _ready_reason(available), routed.message)
    return [ready, _going_on(behind)] if behind else [ready]


def refused(accepted: Fact) -> list[Fact]:
    """Return Ready and Stalled for a spec that cannot work."""
    return [Fact(READY, "False", accepted.reason, accepted.message), _going_on(accepted)]


def _ready_reason(available: Fact) -> str:
    return {"ScaledToZero": "ScaledToZero", "NotRequired": "Hosted"}.get(available.reason, "Serving")


def _going_on(cause: Fact) -> Fact:
    kind = RECONCILING if cause.reason in _WAITS else STALLED
    return Fact(kind, "True", cause.reason, cause.message)
