"""An AXHostedAPI's status from what gateways tell of it."""

from __future__ import annotations

import pytest

from ax_operator.plan.hosted import Told, hosted_status

API = {"metadata": {"name": "ax", "generation": 3}}


@pytest.mark.parametrize(
    ("told", "reachable", "opened"),
    [
        ((), ("Unknown", "NotAsked"), ("Unknown", "NoGateway")),
        ((Told(),), ("Unknown", "NotAsked"), ("True", "Open")),
        ((Told("unknown"), Told("reachable")), ("True", "Answered"), ("True", "Open")),
        ((Told("unreachable"), Told("reachable")), ("True", "Answered"), ("True", "Open")),
        ((Told("unreachable"),), ("False", "Unreachable"), ("True", "Open")),
        ((Told("reachable"), Told("key_rejected")), ("False", "KeyRejected"), ("True", "Open")),
        ((Told("reachable"), Told("reachable", 9, "spent")), ("True", "Answered"), ("False", "Closed")),
    ],
)
def test_gateways_are_summed_up(told: tuple[Told, ...], reachable: tuple[str, str], opened: tuple[str, str]) -> None:
    status = hosted_status(API, told, 0)
    found = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
    assert found == {"Reachable": reachable, "Open": opened}
    assert status["observedGeneration"] == 3


def test_spending_is_the_highest_that_is_known_and_outlives_gateways() -> None:
    status = hosted_status(API, (Told(spent_today=12.5), Told(spent_today=12.0)), 0)
    assert status["spentToday"] == 12.5
    again = hosted_status(API | {"status": status}, (), 60)
    assert again["spentToday"] == 12.5
    assert "spentToday" not in hosted_status(API, (), 0)
