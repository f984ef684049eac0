"""Which backend, toolchain and pool a recipe takes and why, and whose code and files it trusts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ax_engines.contract import Calibration, HuggingFaceSource, PvcSource, Source
from ax_engines.hardware import Pool
from ax_engines.plan_cli import DEFAULT_TOOLCHAINS, assumed
from ax_engines.recipe import Recipe, Refusal, Wishes, recipe
from tests.engines.planner import (
    A100,
    COMMIT,
    ENTRIES,
    GPUS,
    H100,
    L40S,
    NEXT,
    made,
    plan,
    plan_config,
    reasons,
    refused,
    setup,
)

# --- backend and toolchain ---


def test_auto_is_tensorrt_on_the_1_2_line_then_pytorch_then_transformers() -> None:
    assert made(plan("A.X-4.0", Wishes())).backend == "tensorrt"
    assert made(plan_config(Wishes(), (NEXT,))).backend == "pytorch"
    assert made(plan("A.X-4.0-VL-Light", Wishes())).backend == "transformers"
    assert made(plan("SmolLM2-135M-Instruct", Wishes())).backend == "llamacpp"


def test_a_newer_toolchain_tells_why_engines_are_gone() -> None:
    found = made(plan_config(Wishes(), (NEXT,)))
    assert "1.2 is the last line with trtllm-build" in reasons(found)["backend tensorrt"]


def test_tensorrt_on_a_newer_toolchain_is_refused_with_the_way_out() -> None:
    found = refused(plan_config(Wishes(backend="tensorrt"), (NEXT,)))
    assert found.reason == "ToolchainIncompatible"
    assert "TensorRT-LLM 1.4.0 in toolchain 27.01" in found.message
    assert "use backend pytorch, or a toolchain of the 1.2 line" in found.message


def test_users_of_tensorrt_hear_that_a_move_is_due() -> None:
    assert any("plan a move to backend pytorch" in note for note in made(plan("A.X-4.0", Wishes())).notes)


def test_an_architecture_of_pytorch_alone_is_served_by_pytorch() -> None:
    assert made(plan_config(Wishes(), architecture="Qwen3ForCausalLM")).backend == "pytorch"
    found = refused(plan_config(Wishes(backend="tensorrt"), architecture="Qwen3ForCausalLM"))
    assert found.reason == "InvalidSpec"
    assert "Qwen3ForCausalLM is not among its architectures (LlamaForCausalLM, Qwen2ForCausalLM)" in found.message


def test_an_architecture_of_nobody_is_left_to_transformers() -> None:
    assert made(plan_config(Wishes(), architecture="Gemma3ForCausalLM")).backend == "transformers"


def test_a_toolchain_by_name_is_the_one_that_is_used() -> None:
    both = (*DEFAULT_TOOLCHAINS, NEXT)
    assert made(plan_config(Wishes(), both)).toolchain == "26.07"
    assert made(plan_config(Wishes(toolchain="27.01"), both)).backend == "pytorch"
    assert refused(plan_config(Wishes(toolchain="28.01"), both)).reason == "ToolchainIncompatible"


# --- pools ---


def test_a_product_that_nobody_has_names_those_that_there_are() -> None:
    found = refused(plan("A.X-4.0", Wishes(gpu="NVIDIA-H200"), H100, L40S))
    assert found.reason == "NoSuchPool"
    assert f"there are {H100}, {L40S}" in found.message


def test_without_gpus_there_is_no_pool_but_transformers_may_use_cpus() -> None:
    entry = ENTRIES["A.X-4.0-Light"]
    source = Source(pvc=PvcSource(claim_name="models", path="light"))
    cpu = Pool("cpu", None, 0, 1, 0, 0, None, 262_144)

    def on_cpus(wishes: Wishes) -> Recipe | Refusal:
        return recipe(source, assumed(entry, COMMIT), entry, wishes, (cpu,), DEFAULT_TOOLCHAINS, GPUS)

    assert refused(on_cpus(Wishes())).reason == "NoSuchPool"
    found = made(on_cpus(Wishes(backend="transformers")))
    assert (found.backend, found.pool, found.gpus, found.artifact.artifact) == ("transformers", "cpu", 0, "safetensors")
    assert made(on_cpus(Wishes(gpu="cpu"))).backend == "transformers"
    assert "needs GPUs" in refused(on_cpus(Wishes(gpu="cpu", backend="tensorrt"))).message


def test_among_equal_pools_the_one_with_faster_memory_is_taken() -> None:
    found = made(plan("A.X-4.0-Light", Wishes(), "NVIDIA-H100-PCIe", H100, A100))
    assert found.gpu_product == H100


def test_free_gpus_do_not_change_the_recipe() -> None:
    entry = ENTRIES["A.X-4.0"]
    source = Source(hugging_face=HuggingFaceSource(repo=entry.hub_id))
    pools = [replace(setup().pool(H100), free_gpus=n, max_free_on_one_node=n) for n in (0, 1, 8)]
    found = [recipe(source, assumed(entry, COMMIT), entry, Wishes(), (p,), DEFAULT_TOOLCHAINS, GPUS) for p in pools]
    assert found[0] == found[1] == found[2]


# --- trust ---


def test_remote_code_runs_only_if_somebody_says_so_and_a_commit_pins_it() -> None:
    entry = ENTRIES["A.X-4.0-VL-Light"]
    source = Source(hugging_face=HuggingFaceSource(repo=entry.hub_id))
    pools = (setup().pool(H100),)
    pinned, loose = assumed(entry, COMMIT), assumed(entry, "sha256:00")
    assert made(recipe(source, pinned, entry, Wishes(), pools, DEFAULT_TOOLCHAINS, GPUS)).trust_remote_code
    assert not made(recipe(source, pinned, None, Wishes(), pools, DEFAULT_TOOLCHAINS, GPUS)).trust_remote_code
    found = refused(recipe(source, loose, entry, Wishes(), pools, DEFAULT_TOOLCHAINS, GPUS))
    assert "pinned to a commit" in found.message


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b"])
def test_calibration_stays_below_its_claim(path: str) -> None:
    found = refused(plan("A.X-4.0", Wishes(calibration=Calibration(claim_name="texts", path=path))))
    assert "engine.calibration.path" in found.message
