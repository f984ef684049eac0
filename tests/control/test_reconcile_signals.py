"""What is measured becomes replicas and status, on a fake cluster: at once where it matters, else at a calm pace."""

from ax_operator.api.names import API_VERSION
from ax_operator.control.measures import Measured
from ax_operator.control.wakes import EVERYTHING, hosted_key, model_key
from ax_operator.kinds import AXHOSTEDAPI, AXMODEL, DEPLOYMENT
from ax_operator.plan.hosted import Told
from ax_operator.plan.scaling import Requests
from tests.control.house import model


def requests(**changes: float) -> Measured:
    quiet = dict.fromkeys(("running", "waiting", "held", "in_flight", "overflowed", "age"), 0.0)
    return Measured(**(quiet | {"pods_known": 0, "pods_answered": 0} | changes), requests=Requests())


async def test_a_held_request_wakes_a_model_that_sleeps_and_idleness_puts_it_to_sleep(house):
    key = model_key("team-a", "smol")
    house.signals.loads[key] = requests()
    house.cluster.put(model(scaling={"mode": "builtin", "minReplicas": 0, "maxReplicas": 2, "scaleToZeroAfter": "60s"}))
    for _ in range(6):
        house.run_jobs()
        await house.later(2)
    house.run_deployments()
    for _ in range(200):  # whatever it started with, nobody asks for it
        await house.later(10)
        house.run_deployments()
    assert house.cluster.one(DEPLOYMENT)["spec"]["replicas"] == 0
    assert house.condition("smol", "Ready") == ("True", "ScaledToZero")
    house.signals.loads[key] = requests(held=1)
    house.operator.wake(key)
    await house.settle()
    assert house.cluster.one(DEPLOYMENT)["spec"]["replicas"] == 1
    assert house.cluster.one(AXMODEL)["status"]["queue"]["held"] == 1


async def test_a_hosted_api_tells_its_state_and_its_spending_at_a_calm_pace(house):
    api = {"apiVersion": API_VERSION, "kind": "AXHostedAPI", "metadata": {"name": "ax"}, "spec": {}}
    house.cluster.put(api)
    await house.settle()
    key = hosted_key("ax")
    before = house.cluster.calls["status AXHostedAPI"]
    for second in range(60):
        house.signals.apis["ax"] = (Told("reachable", float(second)),)
        house.operator.wake(key)
        await house.later(1)
    status = house.cluster.one(AXHOSTEDAPI)["status"]
    assert {c["type"]: c["status"] for c in status["conditions"]} == {"Reachable": "True", "Open": "True"}
    assert status["spentToday"] > 40
    assert house.cluster.calls["status AXHostedAPI"] - before <= 8
    house.signals.apis["ax"] = (Told("key_rejected", 60.0),)
    house.operator.wake(key)
    await house.settle()
    assert house.cluster.one(AXHOSTEDAPI)["status"]["conditions"][0]["reason"] == "KeyRejected"


async def test_a_configuration_that_envoy_refuses_is_said_of_models(house):
    house.cluster.put(model())
    await house.proceed()
    house.signals.nack = "Cluster: no such field"
    house.operator.wake(EVERYTHING)
    await house.later(2)
    conditions = {c["type"]: c for c in house.cluster.one(AXMODEL)["status"]["conditions"]}
    assert conditions["Routed"]["reason"] == "ConfigurationRefused"
    assert "no such field" in conditions["Routed"]["message"]


async def test_numbers_that_change_with_every_request_are_written_at_a_calm_pace(house):
    key = model_key("team-a", "smol")
    house.signals.loads[key] = requests()
    house.cluster.put(model(scaling={"mode": "builtin", "minReplicas": 1, "maxReplicas": 1}))
    await house.proceed(20)
    before = house.cluster.calls["status AXModel"]
    for second in range(60):
        house.signals.loads[key] = requests(running=1 + second % 7)
        await house.later(1)
    assert house.cluster.calls["status AXModel"] - before <= 7
    assert house.cluster.one(AXMODEL)["status"]["queue"]["running"] > 0
