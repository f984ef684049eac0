"""Models on GPUs are refused on paper before their source is read, say what would help, and go on once it is there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.plan.floor import TRTLLM, ax, gpu_node, gpu_world, resolve, settle, up, with_nodes
from tests.plan.stage import Stage

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
