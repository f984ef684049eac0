"""What an AXHostedAPI's status says, from what the gateways tell of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ax_operator.api.conditions import Fact, merge
from ax_operator.plan.world import Json

REACHABLE = "Reachable"
OPEN = "Open"


@dataclass(frozen=True, slots=True)
class Told:
    """One hosted API as one gateway sees it.

    state: reachable, key_rejected, unreachable, or unknown before its first answer.
    spent_today: KRW since midnight in Seoul, of all gateways.
    closed: why requests must not go there now.
    """

    state: str = "unknown"
    spent_today: float = 0.0
    closed: str | None = None


def hosted_status(api: Json, told: Sequence[Told], now: float) -> Json:
    """Return `status`: whether it answers, whether requests may go there, and what they cost today."""
    metadata = api["metadata"]
    before = api.get("status") or {}
    facts = (_reachable({each.state for each in told}), _open(told))
    generation = metadata.get("generation", 0)
    status: Json = {
        "observedGeneration": generation,
        "conditions": merge(facts, before.get("conditions") or (), generation, now),
    }
    spent = max((each.spent_today for each in told), default=before.get("spentToday"))
    if spent is not None:
        status["spentToday"] = spent
    return status


def _reachable(states: set[str]) -> Fact:
    if "key_rejected" in states:
        message = "it refuses the key with 401 or 403: put a valid one into the Secret of spec.keySecret"
        return Fact(REACHABLE, "False", "KeyRejected", message)
    if "reachable" in states:
        return Fact(REACHABLE, "True", "Answered", "it answered the latest requests")
    if "unreachable" in states:
        message = "it does not answer, or with 5xx: look at spec.baseUrl, the proxy and the network's rules"
        return Fact(REACHABLE, "False", "Unreachable", message)
    return Fact(REACHABLE, "Unknown", "NotAsked", "no request has gone there yet")


def _open(told: Sequence[Told]) -> Fact:
    if not told:
        return Fact(OPEN, "Unknown", "NoGateway", "no gateway has told of it yet")
    reasons = [each.closed for each in told if each.closed]
    if reasons:
        return Fact(OPEN, "False", "Closed", reasons[0])
    return Fact(OPEN, "True", "Open", "requests may go there")
