"""What fails or is not ours, on a fake cluster: told, tried again, left alone, and in nobody else's way."""

import copy

import pytest

from ax_operator.api.names import MANAGED_BY, MANAGED_BY_VALUE, USABLE_BY, USABLE_BY_VALUE
from ax_operator.kinds import AXENGINE, AXMODEL, CONFIGMAP, JOB, SERVICE, SERVICEACCOUNT
from ax_operator.kube_errors import Forbidden, Invalid, Unreachable
from tests.control.house import model, node


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


async def test_a_broken_model_does_not_stop_another(house):
    broken = model("broken")
    broken["spec"] = {"model": "No-Such-Model"}
    house.cluster.put(broken)
    house.cluster.put(model("fine"))
    await house.proceed()
    assert house.condition("broken", "Accepted") == ("False", "UnknownModel")
    assert house.condition("fine", "Ready") == ("True", "Serving")
