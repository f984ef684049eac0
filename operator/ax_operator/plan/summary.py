"""Step six: Ready in one word, and what Flux and Argo CD read (Reconciling, Stalled)."""

from __future__ import annotations

from ax_operator.api.conditions import READY, RECONCILING, STALLED, Fact

_WAITS = {"ResolvingSource", "Building", "Pending", "Unschedulable", "PodsStarting", "WaitingForEngine"}


def summary(accepted: Fact, engine: Fact, available: Fact, routed: Fact, *, rolling: bool) -> list[Fact]:
    """Return Ready and, while something goes on or is stuck, Reconciling or Stalled."""
    chain = (accepted, engine, available, routed)
    serving = accepted.true and available.true and routed.true
    wrong = next((f for f in chain if not f.true), None)
    if serving and (wrong is None or wrong is engine):
        # An engine that is still being made behind one that serves does not make the model less ready.
        facts = [Fact(READY, "True", _ready_reason(available, routed), routed.message)]
        if wrong is engine:
            facts.append(_going_on(engine))
        elif rolling:
            facts.append(Fact(RECONCILING, "True", "Rolling", "a new revision replaces the old one"))
        return facts
    assert wrong is not None
    cause = engine if wrong is available and not engine.true else wrong
    reason = "Building" if cause.reason == "ResolvingSource" else cause.reason
    return [Fact(READY, "False", reason, cause.message), _going_on(cause)]


def _ready_reason(available: Fact, routed: Fact) -> str:
    if available.reason == "ScaledToZero":
        return "ScaledToZero"
    return "Hosted" if available.reason == "NotRequired" else "Serving" if routed.true else routed.reason


def _going_on(cause: Fact) -> Fact:
    kind = RECONCILING if cause.reason in _WAITS else STALLED
    return Fact(kind, "True", cause.reason, cause.message)
