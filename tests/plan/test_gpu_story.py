"""Models on GPUs live their lives on paper: pools come and go, toolchains change, engines are pinned and pre-built."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from ax_engines.tasks import TaskResult
from ax_operator.api import names
from ax_operator.plan.machines import Machines
from ax_operator.plan.world import labels
from tests.plan.floor import COMMIT, GPUS, TRTLLM, ax, gpu_node, gpu_world, real, resolve, settle, up
from tests.plan.stage import CPU_NODE, CPU_TOOLCHAIN, DEMO, Stage, model

NEXT = replace(TRTLLM, image="registry.test/ax-triton-tensorrt:2", tensorrt_llm="1.2.2")
H100, A100, L40S, B200 = (GPUS[k][0] for k in ("h100", "a100", "l40s", "b200"))


def served(*models, nodes=None, **changes) -> Stage:
    """Return a stage on which A.X 4.0 models are built and ready on two H100 nodes."""
    the_nodes = nodes or [gpu_node("h-0", "h100"), gpu_node("h-1", "h100")]
    return up(Stage(gpu_world(*the_nodes, **changes), *(models or (ax("A.X-4.0"),))), "A.X-4.0")


def with_nodes(stage: Stage, *nodes) -> None:
    stage.world = replace(stage.world, machines=Machines((CPU_NODE, *nodes)))


def with_toolchain(stage: Stage, toolchain) -> None:
    settings = stage.world.settings.model_copy(update={"toolchains": (toolchain, CPU_TOOLCHAIN)})
    stage.world = replace(stage.world, settings=settings)


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


# --- refused at once ---


@pytest.mark.parametrize(
    ("nodes", "spec", "reason", "words"),
    [
        ((), "", "NoSuchPool", "nvidia.com/gpu.product"),
        (("l40s",), "placement: {gpu: NVIDIA-H100-80GB-HBM3}", "NoSuchPool", "NVIDIA-L40S"),
        (("l40s-1",), "", "NoRecipeForGPU", "weights"),
        (("h100",), "engine: {backend: llamacpp}", None, ""),
    ],
)
def test_what_no_pool_can_serve_is_said_before_the_source_is_read(nodes, spec, reason, words):
    given = [gpu_node(n, n.partition("-")[0], 1 if n.endswith("-1") else 8) for n in nodes]
    stage = Stage(gpu_world(*given), ax("A.X-4.0", spec))
    stage.reconcile()
    if reason is None:
        assert stage.condition("a-x-4-0", "EngineReady") == ("False", "ResolvingSource")
        return
    assert stage.condition("a-x-4-0", "Accepted") == ("False", reason)
    assert words in stage.message("a-x-4-0", "Accepted")
    assert "not read" in stage.message("a-x-4-0", "Accepted")
    assert not stage.objects


def test_a_toolchain_that_cannot_build_is_said_at_once_with_the_way_out():
    newer = replace(TRTLLM, tensorrt_llm="1.3.0", backends=("tensorrt", "pytorch"))
    stage = Stage(gpu_world(gpu_node("h", "h100"), toolchains=(newer,)), ax("A.X-4.0", "engine: {backend: tensorrt}"))
    stage.reconcile()
    assert stage.condition("a-x-4-0", "Accepted") == ("False", "ToolchainIncompatible")
    assert "use backend pytorch" in stage.message("a-x-4-0", "Accepted")
    assert not stage.objects


def test_a_node_that_comes_lets_a_refused_model_go_on():
    stage = Stage(gpu_world(), ax("A.X-4.0"))
    stage.reconcile()
    assert stage.condition("a-x-4-0", "Accepted") == ("False", "NoSuchPool")
    with_nodes(stage, gpu_node("h", "h100"))
    up(stage, "A.X-4.0")
    assert stage.condition("a-x-4-0", "Ready") == ("True", "Serving")


def test_an_inferred_value_yields_to_the_real_one_and_is_told():
    stage = Stage(gpu_world(gpu_node("h", "h100")), ax("A.X-4.0"))
    stage.reconcile()
    resolve(stage, "A.X-4.0", intermediate_size=29696)
    stage.reconcile()
    settle(stage)
    assert stage.condition("a-x-4-0", "Ready") == ("True", "Serving")
    notes = stage.models["a-x-4-0"]["status"]["notes"]
    assert [n for n in notes if "29696" in n and "29568" in n] == notes[:1]


# --- code of a repository ---


def test_the_catalogues_model_with_code_needs_the_charts_switch_and_a_commit():
    stage = Stage(gpu_world(gpu_node("h", "h100")), ax("A.X-4.0-VL-Light"))
    off = stage.world.settings.model_copy(update={"allow_trust_remote_code": False})
    stage.world = replace(stage.world, settings=off)
    stage.reconcile()
    assert stage.condition("a-x-4-0-vl-light", "Accepted") == ("False", "InvalidSpec")
    assert "allowTrustRemoteCode" in stage.message("a-x-4-0-vl-light", "Accepted")
    for source in (None, {"huggingFace": {"repo": "skt/A.X-4.0-VL-Light", "revision": "main"}}):
        one = ax("A.X-4.0-VL-Light")
        one["spec"].pop("source")
        if source:
            one["spec"]["source"] = source
        stage = Stage(gpu_world(gpu_node("h", "h100")), one)
        stage.reconcile()
        assert stage.condition("a-x-4-0-vl-light", "Accepted") == ("False", "InvalidSpec")
        assert "{repo: skt/A.X-4.0-VL-Light, revision: <commit>}" in stage.message("a-x-4-0-vl-light", "Accepted")
        assert not stage.objects


def test_its_code_is_fetched_resolved_and_run():
    stage = up(Stage(gpu_world(gpu_node("h", "h100")), ax("A.X-4.0-VL-Light")), "A.X-4.0-VL-Light")
    assert stage.all("AXEngine")[0]["spec"]["trustRemoteCode"] is True
    options = stage.all("Deployment")[0]["spec"]["template"]["spec"]["initContainers"][0]["env"][0]["value"]
    assert '"trustRemoteCode":true' in options


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


# --- toolchains ---


def test_a_new_toolchain_builds_anew_while_the_old_engine_serves_and_says_both_versions():
    stage = served()
    old = stage.names("AXEngine")
    with_toolchain(stage, NEXT)
    stage.reconcile()
    assert stage.condition("a-x-4-0", "Ready") == ("True", "Serving")
    assert stage.condition("a-x-4-0", "Reconciling") == ("True", "Building")
    said = stage.message("a-x-4-0", "Reconciling")
    assert "1.2.1 in the artifact" in said
    assert "1.2.2 is needed" in said
    assert len(stage.names("Deployment")) == 1
    settle(stage)
    assert stage.models["a-x-4-0"]["status"]["engine"]["serving"] not in old
    assert len(stage.names("Deployment")) == 1


def trio() -> Stage:
    """Return a stage with three models of different engines that serve."""
    models = [ax("A.X-4.0", f"engine: {{limits: {{maxBatchSize: {n}}}}}", f"m{n}") for n in (1, 2, 3)]
    stage = Stage(gpu_world(gpu_node("h-0", "h100"), gpu_node("h-1", "h100")), *models)
    stage.reconcile()
    stage.finish("resolve", TaskResult(ok=True, reason="Resolved", resolved=real("A.X-4.0")))
    stage.reconcile()
    settle(stage)
    assert len(stage.names("AXEngine")) == len(stage.names("Deployment")) == 3
    return stage


def rolling(stage: Stage) -> list[str]:
    """Return the models of which two revisions are there."""
    found = [labels(d)[names.MODEL] for d in stage.all("Deployment")]
    return sorted({n for n in found if found.count(n) > 1})


def test_a_toolchain_change_rolls_one_model_after_the_other():
    stage = trio()
    with_toolchain(stage, NEXT)
    order = []
    for _ in range(12):
        stage.reconcile()
        assert len(stage.jobs("build")) <= 1
        assert len(rolling(stage)) <= 1
        order += [n for n in rolling(stage) if n not in order]
        if stage.jobs("build"):
            waiting = [n for n in stage.models if stage.condition(n, "Reconciling")[1] == "WaitingForTurn"]
            assert len(waiting) + len(order) == 2
            stage.build()
        else:
            for name in stage.models:
                stage.ready(name)
    assert order == ["m1", "m2", "m3"]
    assert all(stage.condition(n, "Ready") == ("True", "Serving") for n in stage.models)
    assert all(stage.condition(n, "Reconciling") == ("-", "-") for n in stage.models)


def test_a_toolchain_that_fails_stops_at_the_first_model_and_the_others_serve_on():
    stage = trio()
    with_toolchain(stage, NEXT)
    stage.reconcile()
    stage.finish("build", TaskResult(ok=False, reason="CommandFailed", message="trtllm-build: no kernel"))
    stage.reconcile()
    assert stage.condition("m1", "Stalled") == ("True", "CommandFailed")
    assert [stage.condition(n, "Reconciling")[1] for n in ("m2", "m3")] == ["WaitingForTurn"] * 2
    assert "AXModel m1 rolls first" in stage.message("m2", "Reconciling")
    assert all(stage.condition(n, "Ready") == ("True", "Serving") for n in stage.models)
    with_toolchain(stage, TRTLLM)
    stage.reconcile()
    assert all(stage.condition(n, "Reconciling") == ("-", "-") for n in ("m2", "m3"))


def test_an_author_who_changes_a_waiting_model_does_not_wait():
    stage = trio()
    with_toolchain(stage, NEXT)
    stage.reconcile()
    stage.models["m3"]["spec"]["engine"]["limits"]["maxBatchSize"] = 7
    stage.reconcile()
    assert len(stage.jobs("build")) == 2
    assert stage.condition("m3", "Reconciling") == ("True", "Building")


def test_models_that_cannot_roll_hold_up_nobody():
    stage = trio()
    stage.models["m1"]["spec"]["scaling"]["replicas"] = 0
    stage.models["m2"]["spec"]["engine"]["toolchain"] = "gone"
    stage.reconcile()
    stage.ready("m1")
    with_toolchain(stage, NEXT)
    stage.reconcile()
    assert stage.condition("m3", "Reconciling") == ("True", "Building")
    assert stage.condition("m2", "Accepted") == ("False", "ToolchainIncompatible")


def test_a_new_image_of_the_same_version_rolls_without_a_build_one_at_a_time():
    stage = trio()
    with_toolchain(stage, replace(TRTLLM, image="registry.test/ax-triton-tensorrt:1b"))
    stage.reconcile()
    assert not stage.jobs("build")
    assert rolling(stage) == ["m1"]
    settle(stage)
    images = {d["spec"]["template"]["spec"]["initContainers"][0]["image"] for d in stage.all("Deployment")}
    assert images == {"registry.test/ax-triton-tensorrt:1b"}
    assert len(stage.names("Deployment")) == 3


def test_in_place_rolls_wait_for_each_other_too():
    stage = trio()
    for one in stage.models.values():
        one["spec"]["rollout"] = "InPlace"
    with_toolchain(stage, replace(TRTLLM, image="registry.test/ax-triton-tensorrt:1b"))
    stage.reconcile()
    assert rolling(stage) == ["m1"]
    assert sum(d["spec"]["replicas"] for d in stage.all("Deployment")) == 3
    settle(stage)
    assert len(stage.names("Deployment")) == 3


def test_users_of_tensorrt_are_told_that_a_move_is_due_and_the_move_is_a_roll():
    stage = served()
    assert any("plan a move to backend pytorch" in n for n in stage.models["a-x-4-0"]["status"]["notes"])
    stage.models["a-x-4-0"]["spec"]["engine"] = {"backend": "pytorch"}
    stage.reconcile()
    assert stage.condition("a-x-4-0", "Ready") == ("True", "Serving")
    assert len(stage.names("Deployment")) == 1
    settle(stage)
    status = stage.models["a-x-4-0"]["status"]
    assert status["engine"]["backend"] == "pytorch"
    assert status["engine"]["serving"] == status["engine"]["name"]
    assert not any("plan a move" in n for n in status.get("notes") or ())


# --- engines that are there already ---


def test_a_revert_is_instant_while_the_engine_is_retained():
    stage = served()
    first = stage.names("AXEngine")[0]
    stage.models["a-x-4-0"]["spec"]["engine"] = {"limits": {"maxTotalTokens": 8192}}
    settle(stage)
    assert stage.models["a-x-4-0"]["status"]["engine"]["serving"] != first
    jobs = stage.names("Job")
    del stage.models["a-x-4-0"]["spec"]["engine"]
    stage.reconcile()
    assert stage.names("Job") == jobs
    assert {labels(d)[names.ENGINE] for d in stage.all("Deployment")} == set(stage.names("AXEngine"))
    settle(stage)
    assert stage.models["a-x-4-0"]["status"]["engine"]["serving"] == first


def test_an_engine_that_gitops_built_before_is_adopted_and_never_deleted():
    built = served()
    engine = copy.deepcopy(built.all("AXEngine")[0])
    engine["metadata"] = {"name": engine["metadata"]["name"], "namespace": "team-a", "uid": "by-gitops"}
    del engine["status"]
    stage = Stage(gpu_world(gpu_node("h-0", "h100"), engine_retention=0))
    stage.objects["AXEngine", engine["metadata"]["name"]] = engine
    stage.reconcile()
    stage.build()
    stage.models["a-x-4-0"] = ax("A.X-4.0")
    stage.reconcile()
    resolve(stage, "A.X-4.0")
    stage.reconcile()
    assert stage.names("AXEngine") == [engine["metadata"]["name"]]
    assert not stage.jobs("build")
    assert [labels(d)[names.ENGINE] for d in stage.all("Deployment")] == [engine["metadata"]["name"]]
    stage.delete_model("a-x-4-0")
    stage.reconcile()
    assert stage.names("AXEngine") == [engine["metadata"]["name"]]


def pinned_to(stage: Stage, engine: str) -> Stage:
    spec = f"model: A.X-4.0\nscaling: {{mode: fixed}}\nengineRef: {engine}"
    stage.models["a-x-4-0"] = model(spec, "a-x-4-0")
    return stage


def test_a_pinned_engine_decides_ranks_limits_format_and_backend():
    stage = served(
        ax("A.X-4.0", "engine: {quantization: int8-wo, parallelism: {tensor: 8}, limits: {maxBatchSize: 3}}")
    )
    engine, before = stage.names("AXEngine")[0], stage.names("Deployment")
    pinned_to(stage, engine)
    settle(stage)
    assert stage.names("AXEngine") == [engine]
    assert stage.names("Deployment") == before
    status = stage.models["a-x-4-0"]["status"]
    assert (status["engine"]["backend"], status["engine"]["quantization"]) == ("tensorrt", "int8-wo")


def test_a_pinned_engine_of_another_toolchain_or_gpu_is_refused_with_both_values_and_nothing_crashes():
    stage = served()
    engine, before = stage.names("AXEngine")[0], stage.names("Deployment")
    pinned_to(stage, engine)
    settle(stage)
    with_toolchain(stage, NEXT)
    stage.reconcile()
    assert stage.condition("a-x-4-0", "Ready") == ("True", "Serving")
    assert stage.condition("a-x-4-0", "Stalled") == ("True", "EngineMismatch")
    said = stage.message("a-x-4-0", "Stalled")
    assert "tensorrt_llm is 1.2.1 in the artifact but 1.2.2 is needed" in said
    assert stage.names("Deployment") == before
    fresh = Stage(gpu_world(gpu_node("a", "a100")))
    fresh.objects["AXEngine", engine] = stage.get("AXEngine", engine)
    pinned_to(fresh, engine).models["a-x-4-0"]["spec"]["placement"] = {"gpu": A100}
    fresh.reconcile()
    resolve(fresh, "A.X-4.0")
    fresh.reconcile()
    assert fresh.condition("a-x-4-0", "EngineReady") == ("False", "EngineMismatch")
    assert "sm is 90 in the artifact but 80 is needed" in fresh.message("a-x-4-0", "EngineReady")
    assert not fresh.names("Deployment")


def test_an_engine_for_a_toolchain_that_the_chart_lacks_is_not_built():
    built = served()
    engine = copy.deepcopy(built.all("AXEngine")[0])
    del engine["status"]
    stage = Stage(gpu_world(gpu_node("h-0", "h100"), toolchains=(NEXT, CPU_TOOLCHAIN)))
    stage.objects["AXEngine", engine["metadata"]["name"]] = engine
    stage.reconcile()
    ready = next(c for c in engine["status"]["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ToolchainIncompatible")
    assert "1.2.1" in ready["message"]
    assert "1.2.2" in ready["message"]
    assert not stage.jobs("build")


def test_an_engine_on_the_wrong_machine_says_both_values_at_its_first_fall():
    stage = served()
    stage.ready("a-x-4-0", 0)
    pod = stage.lost(stage.names("Deployment")[0], "")
    said = (
        "Cannot serve: /store/x was compiled for another machine: sm is 90 in the artifact but 80 is needed; "
        "serve it on the GPUs and image that it was built for, or build it again."
    )
    fallen = {"name": "triton", "restartCount": 1, "lastState": {"terminated": {"exitCode": 1, "message": said}}}
    pod["status"] = {"phase": "Pending", "initContainerStatuses": [fallen]}
    stage.reconcile()
    assert stage.condition("a-x-4-0", "Available") == ("False", "EngineMismatch")
    assert "sm is 90 in the artifact but 80 is needed" in stage.message("a-x-4-0", "Ready")


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


def test_a_commit_is_what_the_engine_is_named_for():
    assert served().all("AXEngine")[0]["spec"]["revision"] == COMMIT
