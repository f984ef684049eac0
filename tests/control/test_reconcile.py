"""From an AXModel to a world at rest, on a fake cluster: what there is in the end, not which calls led there."""

import copy

import pytest

from ax_operator.api.names import API_VERSION, ENGINE, MANAGED_BY, MANAGED_BY_VALUE, USABLE_BY, USABLE_BY_VALUE
from ax_operator.control.measures import Measured
from ax_operator.control.wakes import EVERYTHING, hosted_key, model_key
from ax_operator.kinds import AXENGINE, AXHOSTEDAPI, AXMODEL, CONFIGMAP, DEPLOYMENT, JOB, PVC, SERVICE, SERVICEACCOUNT
from ax_operator.kube_errors import Forbidden, Invalid, Unreachable
from ax_operator.plan.hosted import Told
from ax_operator.plan.scaling import Requests
from tests.control.house import SETTINGS, House, model, node


@pytest.fixture
async def house():
    found = House()
    await found.start()
    yield found
    await found.operator.stop()


async def test_a_model_is_resolved_built_and_served(house):
    house.cluster.put(model())
    await house.settle()
    assert house.condition("smol", "EngineReady") == ("False", "ResolvingSource")
    await house.proceed()
    assert house.condition("smol", "Ready") == ("True", "Serving")
    engine = house.cluster.one(AXENGINE)
    deployment = house.cluster.one(DEPLOYMENT)
    assert deployment["metadata"]["labels"][ENGINE] == engine["metadata"]["name"]
    assert house.condition(engine["metadata"]["name"], "InUse", AXENGINE) == ("True", "Needed")
    assert house.cluster.one(PVC)["metadata"]["name"] == "ax-engines"


async def test_a_world_at_rest_costs_nothing(house):
    house.cluster.put(model())
    await house.proceed()
    before = house.cluster.writes
    await house.restart()
    await house.proceed()
    assert house.cluster.writes == before


async def test_two_models_with_the_same_bytes_share_an_engine_and_its_build(house):
    house.cluster.put(model("one"))
    house.cluster.put(model("two"))
    await house.proceed()
    assert len(house.engines()) == 1
    assert house.condition("one", "Ready") == house.condition("two", "Ready") == ("True", "Serving")
    assert house.operator.metrics.registry.get_sample_value(
        "ax_operator_builds_total", {"result": "succeeded", "reason": "Built"}
    ) == 1  # fmt: skip


async def test_what_the_operator_made_is_put_right_when_somebody_changes_or_removes_it(house):
    house.cluster.put(model())
    await house.proceed()
    want = house.state()
    service = house.cluster.one(SERVICE)
    house.cluster.put(copy.deepcopy(service) | {"spec": service["spec"] | {"selector": {"x": "y"}}})
    address = (SERVICEACCOUNT, "team-a", house.cluster.all(SERVICEACCOUNT)[0]["metadata"]["name"])
    house.cluster.remove(address)
    await house.proceed()
    got = house.state()
    got["Service", "team-a", service["metadata"]["name"]]["spec"]["selector"].pop("x")  # not ours: left alone
    assert got == want


async def test_a_foreign_namesake_is_neither_changed_nor_deleted(house):
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "axm-smol", "namespace": "team-a"}}
    house.cluster.put(theirs | {"spec": {"selector": {"app": "mine"}}})
    house.cluster.put(model())
    house.run_jobs()
    for _ in range(6):
        house.run_jobs()
        house.run_deployments()
        await house.later(2)
    assert house.cluster.objects[SERVICE, "team-a", "axm-smol"]["spec"] == {"selector": {"app": "mine"}}
    assert house.condition("smol", "Stalled") == ("True", "Refused")
    house.cluster.remove((AXMODEL, "team-a", "smol"))
    await house.settle()
    assert (SERVICE, "team-a", "axm-smol") in house.cluster.objects


async def test_a_model_that_is_gone_takes_its_engine_and_its_bytes_along_after_retention(house):
    house.cluster.put(model())
    await house.proceed()
    house.cluster.remove((AXMODEL, "team-a", "smol"))
    await house.settle()
    assert len(house.engines()) == 1
    await house.later(3599)
    assert len(house.engines()) == 1
    await house.later(2)
    assert house.engines() == []
    assert [j["metadata"]["labels"]["app.kubernetes.io/component"] for j in house.cluster.all(JOB)] == ["sweep"]
    await house.proceed()
    left = {key[0] for key in house.state()}
    assert left == {"Node", "PersistentVolumeClaim"}


async def test_a_build_that_fails_says_why_and_is_tried_again_after_a_while(house):
    house.cluster.put(model())
    await house.settle()
    house.run_jobs()  # the source is resolved
    await house.later(2)
    house.run_jobs(fail="smol.gguf ends after 12 bytes: copy it again")
    await house.later(2)
    assert house.condition(house.engines()[0], "Ready", AXENGINE) == ("False", "SourceTruncated")
    assert house.condition("smol", "EngineReady") == ("False", "SourceTruncated")
    assert house.operator.metrics.registry.get_sample_value(
        "ax_operator_builds_total", {"result": "failed", "reason": "SourceTruncated"}
    ) == 1  # fmt: skip
    await house.later(700)
    await house.proceed()
    assert house.condition("smol", "Ready") == ("True", "Serving")


async def test_a_refusal_is_the_authors_to_read_and_heals_by_itself(house):
    house.cluster.put(model())
    await house.settle()
    house.run_jobs()
    await house.later(2)
    house.run_jobs()
    name = "axm-smol"
    house.cluster.refuse[SERVICE, "team-a", name] = Invalid("spec.selector: Invalid value", 422)
    await house.later(2)
    await house.later(2)
    stalled = [c for c in house.cluster.one(AXMODEL)["status"]["conditions"] if c["type"] == "Stalled"]
    assert stalled[0]["message"] == "the API server refused Service 'axm-smol': spec.selector: Invalid value"
    house.cluster.refuse.clear()
    await house.later(400)
    await house.proceed()
    assert house.condition("smol", "Ready") == ("True", "Serving")
    assert house.condition("smol", "Stalled") == ("-", "-")


async def test_one_engine_that_is_refused_does_not_keep_others_from_being_built(house):
    house.cluster.put(model("bad", path="bad.gguf"))
    await house.proceed()
    [bad] = house.engines()  # its name follows from its bytes
    house.cluster.objects.clear()
    house.cluster.put(node())
    house.cluster.refuse[JOB, "team-a", bad] = Forbidden("exceeded quota: jobs", 403)
    await house.restart()
    house.cluster.put(model("good", path="good.gguf"))
    house.cluster.put(model("bad", path="bad.gguf"))
    for _ in range(8):
        house.run_jobs()
        house.run_deployments()
        await house.later(5)
    assert house.condition("good", "Ready") == ("True", "Serving")
    assert house.condition(bad, "Ready", AXENGINE) == ("False", "Refused")
    assert house.condition("bad", "EngineReady") == ("False", "Refused")


async def test_a_server_that_is_away_is_waited_for(house):
    address = (SERVICEACCOUNT, "team-a", "axm-smol")
    house.cluster.refuse[address] = Unreachable("no answer")
    house.cluster.put(model())
    await house.settle()
    assert house.cluster.all(JOB) == []
    house.cluster.refuse.clear()
    await house.later(1)
    await house.proceed()
    assert house.condition("smol", "Ready") == ("True", "Serving")


@pytest.mark.parametrize(
    ("labels", "reason"),
    [(None, "SecretNotUsable"), ({}, "SecretNotUsable"), ({USABLE_BY: USABLE_BY_VALUE}, "Accepted")],
)
async def test_a_secret_is_used_only_if_it_is_labelled_for_it(house, labels, reason):
    if labels is not None:
        meta = {"name": "hub", "namespace": "team-a", "labels": labels}
        house.cluster.put({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": {"token": "c2VjcmV0"}})
    source = {"huggingFace": {"repo": "a/b", "tokenSecret": "hub"}}
    house.cluster.put(model(source=source))
    await house.settle()
    assert house.condition("smol", "Accepted")[1] == reason
    assert bool(house.cluster.all(JOB)) == (reason == "Accepted")


async def test_a_secret_that_may_not_be_looked_at_is_not_used(house):
    async def forbidden(*_):
        raise Forbidden("secrets is forbidden", 403)

    house.cluster.get_metadata = forbidden
    house.cluster.put(model(source={"huggingFace": {"repo": "a/b", "tokenSecret": "hub"}}))
    await house.settle()
    assert house.condition("smol", "Accepted") == ("False", "SecretNotUsable")
    assert house.cluster.all(JOB) == []


async def test_a_served_name_goes_to_the_next_model_when_its_holder_leaves(house):
    house.cluster.put(model("first", routing={"servedNames": ["chat"]}))
    await house.proceed()
    house.cluster.put(model("second", routing={"servedNames": ["chat"]}))
    await house.proceed()
    assert house.condition("second", "Routed") == ("False", "NameConflict")
    house.cluster.remove((AXMODEL, "team-a", "first"))
    await house.proceed()
    assert house.condition("second", "Routed") == ("True", "OnPrem")


async def test_a_broken_model_does_not_stop_another(house):
    broken = model("broken")
    broken["spec"] = {"model": "No-Such-Model"}
    house.cluster.put(broken)
    house.cluster.put(model("fine"))
    await house.proceed()
    assert house.condition("broken", "Accepted") == ("False", "UnknownModel")
    assert house.condition("fine", "Ready") == ("True", "Serving")


async def test_an_event_tells_of_each_transition_once(house):
    house.cluster.put(model())
    await house.proceed()
    await house.restart()
    told = [(e["object"], e["note"].partition(":")[0], e["reason"]) for e in house.cluster.events]
    assert ("smol", "Ready=True", "Serving") in told
    assert ("smol", "EngineReady=False", "ResolvingSource") in told
    assert len(told) == len(set(told))


async def test_a_running_build_is_not_killed_by_another_image_and_a_stuck_one_is(house):
    house.cluster.put(model())
    await house.settle()
    job = house.cluster.one(JOB)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "x", "uid": job["metadata"]["uid"]}
    meta = {"name": "p", "namespace": "team-a", "ownerReferences": [owner]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta | {"labels": dict(job["metadata"]["labels"])}}
    pod |= {"spec": {"containers": []}}
    running = {"containerStatuses": [{"name": "m", "state": {"running": {}}}]}
    house.cluster.put(pod | {"status": running})
    await house.settle()
    await house.operator.stop()
    other = House(SETTINGS.model_copy(update={"engines_image": "registry.test/ax-engines:2"}), house.cluster)
    await other.start()
    assert house.cluster.one(JOB)["metadata"]["uid"] == job["metadata"]["uid"]
    waiting = {"containerStatuses": [{"name": "m", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}
    house.cluster.put(pod | {"status": waiting})
    await other.settle()
    await other.later(1)
    new = house.cluster.one(JOB)
    assert new["metadata"]["uid"] != job["metadata"]["uid"]
    assert new["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.test/ax-engines:2"
    await other.operator.stop()


async def test_only_labelled_objects_are_ever_deleted(house):
    """An inventory that the plan calls obsolete is kept if it does not carry our label."""
    house.cluster.put(model())
    await house.proceed()
    house.cluster.remove((AXMODEL, "team-a", "smol"))
    inventory = next(c for c in house.cluster.all(CONFIGMAP) if c["metadata"]["name"] == "ax-engines")
    stolen = copy.deepcopy(inventory)
    stolen["metadata"]["labels"][MANAGED_BY] = "somebody"
    house.cluster.put(stolen)
    await house.later(3700)
    for _ in range(4):
        house.run_jobs()
        await house.later(5)
    assert (CONFIGMAP, "team-a", "ax-engines") in house.cluster.objects
    assert MANAGED_BY_VALUE not in stolen["metadata"]["labels"].values()


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
