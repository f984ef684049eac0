"""Which change wakes whom."""

import pytest

from ax_operator.api.names import COMPONENT, ENGINE, MODEL
from ax_operator.control.cache import Change
from ax_operator.control.wakes import EVERYTHING, hosted_key, keys_of, model_key, store_key
from ax_operator.kinds import AXENGINE, AXHOSTEDAPI, AXMODEL, CONFIGMAP, DEPLOYMENT, JOB, NODE, POD, PVC

SMOL, STORE, API = model_key("ns", "smol"), store_key("ns"), hosted_key("smol")


def thing(labels: dict | None = None, name: str = "smol", namespace: str | None = "ns", **more) -> dict:
    meta = {"name": name, "uid": "u", "generation": 1, "labels": labels or {}}
    return {"metadata": meta | ({"namespace": namespace} if namespace else {})} | more


def newer(manifest: dict, **meta) -> dict:
    return manifest | {"metadata": manifest["metadata"] | meta}


def serving() -> dict:
    return thing({MODEL: "smol", ENGINE: "e", COMPONENT: "serving"}, "axm-smol")


def of_store(component: str) -> dict:
    return thing({ENGINE: "e", COMPONENT: component}, "e")


def node(**status) -> dict:
    return thing(name="n", namespace=None, status=status)


@pytest.mark.parametrize(
    ("change", "woken"),
    [
        pytest.param(Change(AXMODEL, None, thing()), {SMOL, STORE}, id="a model comes"),
        pytest.param(Change(AXMODEL, thing(), None), {SMOL, STORE}, id="a model goes"),
        pytest.param(Change(AXMODEL, thing(), newer(thing(), generation=2)), {SMOL, STORE}, id="its spec changes"),
        pytest.param(Change(AXMODEL, thing(), thing(status={})), {SMOL}, id="its status changes"),
        pytest.param(Change(AXENGINE, thing(), thing(status={})), {STORE}, id="an engine's status changes"),
        pytest.param(Change(POD, serving(), serving()), {SMOL}, id="a serving pod changes"),
        pytest.param(Change(DEPLOYMENT, serving(), serving()), {SMOL}, id="a Deployment changes"),
        pytest.param(Change(DEPLOYMENT, serving(), None), {SMOL, STORE}, id="a Deployment goes"),
        pytest.param(Change(CONFIGMAP, None, thing({MODEL: "smol"}, "src")), {SMOL, STORE}, id="a source is resolved"),
        pytest.param(Change(JOB, of_store("build"), of_store("build")), {STORE}, id="a build changes"),
        pytest.param(Change(POD, None, of_store("build")), {STORE}, id="a build pod comes"),
        pytest.param(Change(JOB, None, thing({COMPONENT: "sweep"})), {STORE}, id="a sweep comes"),
        pytest.param(Change(PVC, None, thing({COMPONENT: "store"})), {STORE}, id="a claim comes"),
        pytest.param(
            Change(POD, serving(), newer(serving(), labels={MODEL: "other"})),
            {SMOL, model_key("ns", "other")},
            id="a pod is relabelled",
        ),
        pytest.param(Change(POD, None, thing()), set(), id="something without our labels"),
        pytest.param(Change(AXHOSTEDAPI, None, thing(namespace=None)), {EVERYTHING, API}, id="a hosted API comes"),
        pytest.param(
            Change(AXHOSTEDAPI, thing(namespace=None), thing(namespace=None, status={})), {API}, id="it spends money"
        ),
        pytest.param(Change(NODE, None, node()), {EVERYTHING}, id="a node comes"),
        pytest.param(
            Change(NODE, node(allocatable={"cpu": "1"}), node(allocatable={"cpu": "2"})), {EVERYTHING}, id="it grows"
        ),
        pytest.param(
            Change(NODE, node(images=[]), node(images=[{"names": ["x"]}])), set(), id="it only has a heartbeat"
        ),
    ],
)
def test_a_change_wakes_whom_it_concerns(change, woken):
    assert keys_of(change) == woken
