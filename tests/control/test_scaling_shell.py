"""The shell around the autoscaler: emptiest pods first, series that come and go, a held request that wakes at once."""

from __future__ import annotations

from itertools import pairwise

from ax_operator.api.names import COMPONENT, COMPONENT_SERVING, DELETION_COST, MANAGED_BY, MANAGED_BY_VALUE, MODEL
from ax_operator.api.names import REVISION as REVISION_LABEL
from ax_operator.control.emptiest import costs
from ax_operator.control.measures import Measured
from ax_operator.control.wakes import model_key
from ax_operator.kinds import AXMODEL, DEPLOYMENT, POD
from ax_operator.kube_errors import Conflict
from ax_operator.plan.scaling import Requests
from tests.control.house import House, model

SMOL = model_key("team-a", "smol")
BUILTIN = {"mode": "builtin", "minReplicas": 0, "maxReplicas": 4}


def asks(requests: float, ready: int, held: float = 0) -> Measured:
    """Return what pods and gateways tell of so many requests."""
    mean = Requests(prompt_tokens=100, output_tokens=50, seconds=4)
    return Measured(
        running=requests, waiting=0, held=held, in_flight=requests, overflowed=0, pods_known=ready,
        pods_answered=ready, age=0, requests=mean,
    )  # fmt: skip


def serving_pod(name: str, revision: str) -> dict:
    labels = {COMPONENT: COMPONENT_SERVING, MODEL: "smol", REVISION_LABEL: revision, MANAGED_BY: MANAGED_BY_VALUE}
    metadata = {"name": name, "namespace": "team-a", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}, "status": {}}


def cost(house: House, name: str) -> str | None:
    return house.cluster.objects[POD, "team-a", name]["metadata"].get("annotations", {}).get(DELETION_COST)


async def three_replicas() -> House:
    house = House()
    house.cluster.put(model(scaling={"mode": "fixed", "replicas": 3}))
    await house.start()
    await house.proceed()
    revision = house.cluster.one(DEPLOYMENT)["metadata"]["labels"][REVISION_LABEL]
    for name in ("a", "b", "c"):
        house.cluster.put(serving_pod(name, revision))
    await house.settle()
    house.signals.requests[SMOL] = {"a": 5, "b": 0, "c": 2}
    return house


async def woken() -> House:
    """A model in mode builtin that held requests have woken."""
    house = House()
    house.cluster.put(model(scaling=BUILTIN))
    house.signals.loads[SMOL] = asks(0, 0, held=3)
    await house.start()
    await house.proceed()
    return house


async def test_when_a_model_shrinks_its_emptiest_pods_go_first_and_no_pod_is_touched_before():
    house = await three_replicas()
    assert [cost(house, name) for name in "abc"] == [None, None, None]
    house.cluster.put(model(scaling={"mode": "fixed", "replicas": 2}))
    await house.settle()
    assert house.cluster.one(DEPLOYMENT)["spec"]["replicas"] == 2
    assert [cost(house, name) for name in "abc"] == ["5", None, "2"]
    calls = house.cluster.calls["apply Pod"]
    await house.later(60)
    assert house.cluster.calls["apply Pod"] == calls == 2


async def test_a_pod_that_went_meanwhile_does_not_keep_a_model_from_shrinking():
    house = await three_replicas()
    house.cluster.refuse[POD, "team-a", "a"] = Conflict("no such uid", 409)
    house.cluster.put(model(scaling={"mode": "fixed", "replicas": 1}))
    await house.settle()
    assert house.cluster.one(DEPLOYMENT)["spec"]["replicas"] == 1
    assert [cost(house, name) for name in "abc"] == [None, None, "2"]


def test_a_pod_that_does_not_answer_counts_as_the_busiest():
    pods = [serving_pod(name, "r") for name in ("a", "b")]
    for each in pods:
        each["metadata"]["uid"] = each["metadata"]["name"]
    [patch] = costs(pods, {"a": 0, "gone": 7})
    assert (patch["metadata"]["name"], patch["metadata"]["annotations"]) == ("b", {DELETION_COST: "7"})


async def test_a_held_request_changes_the_deployment_in_one_pass_without_any_time():
    house = House()
    house.cluster.put(model(scaling=BUILTIN))
    house.signals.loads[SMOL] = asks(0, 0)
    await house.start()
    await house.proceed()
    assert house.cluster.one(DEPLOYMENT)["spec"]["replicas"] == 0
    now = house.now
    house.signals.loads[SMOL] = asks(0, 0, held=1)
    house.operator.wake(SMOL)
    await house.settle()
    assert (house.cluster.one(DEPLOYMENT)["spec"]["replicas"], house.now) == (1, now)
    [row] = house.cluster.objects[AXMODEL, "team-a", "smol"]["status"]["scaling"]["lastDecisions"][-1:]
    assert row["replicas"] == 1


async def test_status_has_each_decision_with_its_own_reason_however_fast_they_come():
    house = await woken()
    for ready in (1, 2, 3, 4):
        house.signals.loads[SMOL] = asks(40, ready)
        await house.later(2)
    rows = house.cluster.objects[AXMODEL, "team-a", "smol"]["status"]["scaling"]["lastDecisions"]
    assert len(rows) >= 2
    for before, row in pairwise(rows):
        assert row["why"].startswith(f"{before['replicas']} -> {row['replicas']}: demand ")


async def test_demand_and_the_rule_are_series_for_as_long_as_the_model_lives():
    house = await woken()
    house.signals.loads[SMOL] = asks(40, 1)
    for _ in range(20):
        await house.later(2)
    series = house.operator.render_metrics().decode()
    labels = 'model="smol",namespace="team-a"'
    assert f"ax_operator_model_demand_requests{{{labels}}} 40.0" in series
    assert f'ax_operator_model_scaling_rule{{{labels},rule="waiting"}} 1.0' in series
    assert f'ax_operator_model_scaling_rule{{{labels},rule="idle"}} 0.0' in series
    assert 'direction="up"' in series
    house.cluster.remove((AXMODEL, "team-a", "smol"))
    await house.settle()
    left = house.operator.render_metrics().decode()
    assert labels not in left
    assert "ax_operator_model_demand_requests{" not in left
