"""Models on GPUs find their pools on paper: which they may use, what happens when pools come, go or have no room."""

from __future__ import annotations

import copy
from dataclasses import replace

from ax_operator.api import names
from ax_operator.plan.machines import Machines
from tests.plan.floor import B200, H100, ax, gpu_node, gpu_world, resolve, served, settle, up, with_nodes
from tests.plan.stage import DEMO, Stage, model


def product(deployment) -> str:
    return deployment["spec"]["template"]["spec"]["nodeSelector"][names.GPU_PRODUCT]


# --- pools of a model's own ---


def test_a_models_selector_and_tolerations_decide_its_pools():
    nodes = [
        gpu_node("free", "l40s"),
        gpu_node("ours", "h100", labels={"team": "a"}),
        gpu_node("theirs", "b200", taints=[{"key": "team", "value": "b", "effect": "NoSchedule"}]),
    ]
    stage = up(Stage(gpu_world(*nodes), ax("A.X-4.0")), "A.X-4.0")
    assert product(stage.all("Deployment")[0]) == H100
    stage = up(Stage(gpu_world(*nodes), ax("A.X-4.0", "placement: {nodeSelector: {team: a}}")), "A.X-4.0")
    assert stage.all("Deployment")[0]["spec"]["template"]["spec"]["nodeSelector"] == {
        names.GPU_PRODUCT: H100,
        "team": "a",
    }
    tolerant = "placement: {tolerations: [{key: team, value: b, effect: NoSchedule}]}"
    stage = up(Stage(gpu_world(*nodes), ax("A.X-4.0", tolerant)), "A.X-4.0")
    assert product(stage.all("Deployment")[0]) == B200


def test_a_build_runs_where_the_models_pods_may():
    taint = {"key": "team", "value": "b", "effect": "NoSchedule"}
    node = gpu_node("theirs", "h100", labels={"rack": "7"}, taints=[taint])
    placement = (
        "placement: {nodeSelector: {rack: '7'}, runtimeClassName: nvidia, "
        "tolerations: [{key: team, value: b, effect: NoSchedule}]}"
    )
    stage = up(Stage(gpu_world(node), ax("A.X-4.0", placement)), "A.X-4.0")
    pod = stage.get("Job", stage.names("AXEngine")[0])["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"rack": "7", names.GPU_PRODUCT: H100}
    assert pod["tolerations"] == [taint]
    assert pod["runtimeClassName"] == "nvidia"


def test_pools_of_equal_placements_are_computed_once():
    nodes = [gpu_node(f"n{n}", "h100") for n in range(50)]
    machines = Machines(tuple(nodes))
    stage = Stage(gpu_world(), ax("A.X-4.0"), ax("A.X-4.0", called="other"))
    stage.world = replace(stage.world, machines=machines)
    stage.reconcile()
    found = [machines.pools(reach) for reach in list(machines._known)]
    assert len(found) == 1


def test_the_cpu_path_takes_no_note_of_gpus():
    stage = Stage(gpu_world(gpu_node("h", "h100")), model(DEMO))
    stage.reconcile()
    stage.resolve()
    stage.reconcile()
    stage.build()
    stage.reconcile()
    stage.ready("smol")
    stage.reconcile()
    assert stage.condition("smol", "Ready") == ("True", "Serving")
    assert "nodeSelector" not in stage.all("Deployment")[0]["spec"]["template"]["spec"]


# --- pools that come and go ---


def test_a_pool_scaled_to_zero_keeps_revision_engine_and_product():
    stage = served()
    before = copy.deepcopy(stage.all("Deployment"))
    with_nodes(stage, gpu_node("l", "l40s"))
    stage.now += 10 * stage.world.settings.engine_retention
    stage.reconcile()
    assert [d["metadata"]["name"] for d in stage.all("Deployment")] == [d["metadata"]["name"] for d in before]
    assert len(stage.names("AXEngine")) == 1
    assert stage.condition("a-x-4-0", "Accepted")[0] == "True"
    assert any(f"no node offers {H100} now" in n for n in stage.models["a-x-4-0"]["status"]["notes"])
    pod = stage.lost(before[0]["metadata"]["name"], "0/2 nodes are available")
    stage.objects["Deployment", before[0]["metadata"]["name"]]["status"] = {"replicas": 1}
    stage.reconcile()
    assert stage.condition("a-x-4-0", "Available") == ("False", "Unschedulable")
    assert "no node offers them" in stage.message("a-x-4-0", "Available")
    stage.delete("Pod", pod["metadata"]["name"])
    with_nodes(stage, gpu_node("l", "l40s"), gpu_node("h-9", "h100"))
    settle(stage)
    assert [d["metadata"]["name"] for d in stage.all("Deployment")] == [d["metadata"]["name"] for d in before]
    assert stage.condition("a-x-4-0", "Ready") == ("True", "Serving")


def test_a_held_model_still_scales():
    stage = served()
    with_nodes(stage)
    stage.models["a-x-4-0"]["spec"]["scaling"]["replicas"] = 0
    stage.reconcile()
    assert [d["spec"]["replicas"] for d in stage.all("Deployment")] == [0]
    stage.ready("a-x-4-0")
    stage.models["a-x-4-0"]["spec"]["scaling"]["replicas"] = 2
    stage.reconcile()
    assert [d["spec"]["replicas"] for d in stage.all("Deployment")] == [2]


def test_better_gpus_that_come_do_not_move_a_model_but_naming_them_does():
    stage = served()
    engine = stage.names("AXEngine")
    with_nodes(stage, gpu_node("h", "h100"), gpu_node("b", "b200"))
    stage.reconcile()
    assert stage.names("AXEngine") == engine
    assert any("name other GPUs in placement.gpu" in n for n in stage.models["a-x-4-0"]["status"]["notes"])
    stage.models["a-x-4-0"]["spec"]["placement"] = {"gpu": B200}
    settle(stage)
    assert [product(d) for d in stage.all("Deployment")] == [B200]


def test_a_wish_that_its_gpus_cannot_fulfil_moves_a_model_that_leaves_the_choice():
    stage = up(Stage(gpu_world(gpu_node("l", "l40s"), gpu_node("b", "b200", 0)), ax("A.X-4.0-Light")), "A.X-4.0-Light")
    with_nodes(stage, gpu_node("l", "l40s"), gpu_node("b", "b200"))
    calibrated = {"quantization": "nvfp4", "calibration": {"pvc": "texts"}}
    stage.models["a-x-4-0-light"]["spec"]["engine"] = calibrated
    settle(stage)
    assert [product(d) for d in stage.all("Deployment")] == [B200]


# --- no room ---


def holder(node: str, gpus: int) -> dict:
    limits = {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}
    return {"spec": {"nodeName": node, "containers": [{"name": "c", **limits}]}}


def test_a_pod_without_room_says_what_it_needs_what_is_free_and_what_helps():
    stage = served()
    name = stage.names("Deployment")[0]
    stage.takers = (holder("h-0", 6), holder("h-1", 5))
    stage.lost(name, "0/3 nodes are available: 2 Insufficient nvidia.com/gpu")
    stage.ready("a-x-4-0", 0)
    stage.reconcile()
    said = stage.message("a-x-4-0", "Ready")
    assert "needs 4 GPUs of NVIDIA-H100-80GB-HBM3 on one node" in said
    assert "free are 3 of 8 on h-1, 2 of 8 on h-0" in said
    assert "not on one node" in said
    assert "Insufficient nvidia.com/gpu" in said


def test_a_build_without_room_says_so_in_engine_and_model():
    stage = Stage(gpu_world(gpu_node("h-0", "h100")), ax("A.X-4.0"))
    stage.reconcile()
    resolve(stage, "A.X-4.0")
    stage.reconcile()
    stage.takers = (holder("h-0", 8),)
    stage.lost(stage.names("AXEngine")[0], "0/2 nodes are available", "build")
    stage.reconcile()
    assert stage.condition("a-x-4-0", "EngineReady") == ("False", "Unschedulable")
    said = stage.message("a-x-4-0", "EngineReady")
    assert "needs 4 GPUs" in said
    assert "free are 0 of 8 on h-0" in said
    assert "add a node" in said
