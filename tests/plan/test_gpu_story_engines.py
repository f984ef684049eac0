"""Engines that are there already, on paper: retained, adopted, pinned, and refused on the wrong machine."""

from __future__ import annotations

import copy

from ax_operator.api import names
from ax_operator.plan.world import labels
from tests.plan.floor import A100, COMMIT, NEXT, ax, gpu_node, gpu_world, resolve, served, settle, with_toolchain
from tests.plan.stage import CPU_TOOLCHAIN, Stage, model


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


def test_a_commit_is_what_the_engine_is_named_for():
    assert served().all("AXEngine")[0]["spec"]["revision"] == COMMIT
