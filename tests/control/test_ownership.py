"""When an apply can be left out: only if it would change no value and give up no field."""

import copy

import pytest

from ax_operator.api.names import FIELD_MANAGER
from ax_operator.control.ownership import up_to_date

WANTED = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "a", "namespace": "ns", "labels": {"x": "1"}},
    "spec": {"ports": [{"name": "http", "port": 80}], "selector": {"app": "a"}},
}
PORT = 'k:{"port":80,"protocol":"TCP"}'


def seen() -> dict:
    found = copy.deepcopy(WANTED)
    found["metadata"] |= {
        "resourceVersion": "5",
        "uid": "u",
        "managedFields": [
            {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:clusterIP": {}}}},
            {
                "manager": FIELD_MANAGER,
                "operation": "Apply",
                "fieldsV1": {
                    "f:metadata": {"f:labels": {"f:x": {}}},
                    "f:spec": {"f:ports": {PORT: {".": {}, "f:name": {}, "f:port": {}}}, "f:selector": {}},
                },
            },
        ],
    }
    found["spec"]["ports"][0]["protocol"] = "TCP"
    found["spec"]["clusterIP"] = "10.0.0.1"
    return found


def ours(found: dict) -> dict:
    return found["metadata"]["managedFields"][1]["fieldsV1"]


def test_what_was_applied_needs_no_second_apply():
    assert up_to_date(WANTED, seen())


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda o: o["spec"]["selector"].update(app="b"), id="a value differs"),
        pytest.param(lambda o: o["metadata"].pop("labels"), id="a label was removed"),
        pytest.param(lambda o: ours(o)["f:metadata"]["f:labels"].update({"f:old": {}}), id="a label is wanted no more"),
        pytest.param(lambda o: ours(o)["f:spec"].update({"f:type": {}}), id="a field is wanted no more"),
        pytest.param(
            lambda o: ours(o)["f:spec"]["f:ports"].update({'k:{"port":81,"protocol":"TCP"}': {".": {}}}),
            id="an element is wanted no more",
        ),
        pytest.param(
            lambda o: ours(o)["f:metadata"].update({"f:finalizers": {'v:"keep"': {}}}),
            id="a member is wanted no more",
        ),
        pytest.param(lambda o: o["metadata"]["managedFields"].pop(1), id="we never applied it"),
        pytest.param(lambda o: o["metadata"].pop("managedFields"), id="nobody tells who owns what"),
    ],
)
def test_anything_else_does(change):
    found = seen()
    change(found)
    assert not up_to_date(WANTED, found)


def test_the_status_is_compared_with_what_was_applied_to_the_status():
    wanted = {"status": {"replicas": 1}}
    found = {"metadata": {"managedFields": []}, "status": {"replicas": 1}}
    entry = {"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": {"f:status": {"f:replicas": {}}}}
    found["metadata"]["managedFields"] = [entry]
    assert not up_to_date(wanted, found, "status")
    entry["subresource"] = "status"
    assert up_to_date(wanted, found, "status")
