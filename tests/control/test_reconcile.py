"""From an AXModel to a world at rest, on a fake cluster: what there is in the end, not which calls led there."""

import copy

from ax_operator.api.names import ENGINE
from ax_operator.kinds import AXENGINE, AXMODEL, DEPLOYMENT, JOB, PVC, SERVICE, SERVICEACCOUNT
from tests.control.house import SETTINGS, House, model


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


async def test_a_served_name_goes_to_the_next_model_when_its_holder_leaves(house):
    house.cluster.put(model("first", routing={"servedNames": ["chat"]}))
    await house.proceed()
    house.cluster.put(model("second", routing={"servedNames": ["chat"]}))
    await house.proceed()
    assert house.condition("second", "Routed") == ("False", "NameConflict")
    house.cluster.remove((AXMODEL, "team-a", "first"))
    await house.proceed()
    assert house.condition("second", "Routed") == ("True", "OnPrem")


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
