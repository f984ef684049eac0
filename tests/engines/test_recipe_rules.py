"""What `auto` takes and why, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from ax_engines import catalogue
from ax_engines.contract import Calibration, HuggingFaceSource, PvcSource, ResolvedSource, Source
from ax_engines.hardware import Pool, Toolchain
from ax_engines.hardware_table import load_gpus
from ax_engines.memory import weights_bytes
from ax_engines.plan_cli import DEFAULT_TOOLCHAINS, Setup, assumed
from ax_engines.recipe import Recipe, Refusal, Wishes, recipe

H100, A100, L40S, B200 = "NVIDIA-H100-80GB-HBM3", "NVIDIA-A100-SXM4-80GB", "NVIDIA-L40S", "NVIDIA-B200"
GPUS = load_gpus()
ENTRIES = catalogue.load()
TEXTS = Calibration(claim_name="texts")
COMMIT = "5a" * 20
NEXT = Toolchain("27.01", "image", ("tensorrt", "pytorch"), "1.4.0", gpu=True)


@cache
def setup(per_node: int = 8) -> Setup:
    return Setup(ENTRIES, GPUS, DEFAULT_TOOLCHAINS, per_node)


def made(found: Recipe | Refusal) -> Recipe:
    assert isinstance(found, Recipe), found
    return found


def refused(found: Recipe | Refusal) -> Refusal:
    assert isinstance(found, Refusal), found
    return found


def plan(model: str, wishes: Wishes, *products: str, per_node: int = 8) -> Recipe | Refusal:
    return setup(per_node).plan(model, products or (H100,), wishes)


def plan_config(wishes: Wishes, toolchains: tuple[Toolchain, ...] = DEFAULT_TOOLCHAINS, **changes: Any) -> Any:
    """Plan a user's own model on H100s: A.X 4.0 Light with a changed config, without a catalogue entry."""
    config = ENTRIES["A.X-4.0-Light"].assumed_config().model_copy(update=changes)
    resolved = ResolvedSource(
        revision=COMMIT, format="safetensors", files=9, bytes=weights_bytes(config), config=config
    )
    source = Source(hugging_face=HuggingFaceSource(repo="our/model"))
    return recipe(source, resolved, None, wishes, (setup().pool(H100),), toolchains, GPUS)


def reasons(found: Recipe | Refusal) -> dict[str, str]:
    return {r.option: r.reason for r in found.rejected}


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


# --- format ---


def test_without_calibration_data_no_format_that_needs_it_is_taken() -> None:
    found = made(plan("A.X-4.0", Wishes()))
    assert found.quantization == "none"
    assert reasons(found)[f"fp8 on {H100} (tensorrt)"].startswith("needs calibration data")


def test_with_calibration_data_throughput_takes_the_most_concurrency_per_gpu() -> None:
    assert made(plan("A.X-4.0", Wishes(calibration=TEXTS))).quantization == "fp8"
    assert made(plan("A.X-4.0", Wishes(calibration=TEXTS), B200)).quantization == "nvfp4"
    assert made(plan("A.X-4.0", Wishes(calibration=TEXTS), A100)).quantization == "awq"


def test_quality_takes_the_highest_precision_that_fits() -> None:
    found = made(plan("A.X-4.0", Wishes(prefer="quality", calibration=TEXTS)))
    assert found.quantization == "none"
    assert reasons(found)[f"fp8 on {H100} (tensorrt)"] == "less precise than none, which fits too"
    # One H100 cannot hold 16-bit weights of 72 billion parameters, nor 8-bit ones with a whole context.
    alone = made(plan("A.X-4.0", Wishes(prefer="quality", calibration=TEXTS), H100, per_node=1))
    assert alone.quantization == "int8-wo"
    assert alone.context_length < 131_072


def test_each_option_that_was_not_taken_has_one_line() -> None:
    found = made(plan("A.X-4.0", Wishes(calibration=TEXTS), H100, L40S))
    options = [r.option for r in found.rejected]
    looked_at = {f"{q} on {g} (tensorrt)" for q in ENTRIES["A.X-4.0"].quantizations for g in (H100, L40S)}
    assert set(options) == looked_at - {f"fp8 on {H100} (tensorrt)"}
    assert len(set(options)) == len(options)
    assert all(r.reason and "\n" not in r.reason for r in found.rejected)


def test_a_format_that_the_gpu_lacks_names_both_and_the_choices() -> None:
    found = refused(plan("A.X-4.0", Wishes(quantization="nvfp4", calibration=TEXTS)))
    assert found.reason == "NoRecipeForGPU"
    assert "runs on SM 100 and newer; the GPU has SM 90, which runs none, int8-wo, fp8" in found.message


def test_a_format_that_needs_calibration_is_refused_without() -> None:
    found = refused(plan("A.X-4.0", Wishes(quantization="fp8")))
    assert found.reason == "InvalidSpec"
    assert "set engine.calibration to a data set on a claim, or use one of none, int8-wo" in found.message


def test_calibration_that_one_node_cannot_hold_is_no_option() -> None:
    wishes = Wishes(quantization="fp8", calibration=TEXTS, max_total_tokens=4096)
    found = refused(plan("A.X-3.1", wishes, L40S, per_node=1))
    assert "calibration loads 66129 MiB of unquantized weights, one node's GPUs have 46068 MiB" in found.message


def test_calibration_takes_the_gpus_that_unquantized_weights_need() -> None:
    found = made(plan("A.X-4.0", Wishes(quantization="fp8", calibration=TEXTS)))
    assert (found.gpus, found.build_gpus) == (2, 4)
    assert "calibration needs 4 GPUs of one node, serving 2" in found.notes


# --- checkpoints that are quantized already ---


@pytest.mark.parametrize(
    ("given", "backend", "quantization"),
    [
        ("FP8", "pytorch", "fp8"),
        ("W4A16_AWQ", "pytorch", "awq"),
        ("awq", "tensorrt", "awq"),
        ("gptq", "tensorrt", "awq"),
    ],
)
def test_a_quantized_checkpoint_is_served_as_it_is(given: str, backend: str, quantization: str) -> None:
    found = made(plan_config(Wishes(), quantization=given))
    assert (found.backend, found.quantization) == (backend, quantization)
    assert found.artifact.calibration is None
    assert "quantize" not in [phase.name for phase in found.artifact.phases]
    assert f"the checkpoint is quantized as {given} and served as it is" in found.notes
    assert not any("--qformat" in command for command in found.commands)


def test_a_quantized_checkpoint_is_not_quantized_again() -> None:
    found = refused(plan_config(Wishes(quantization="awq", calibration=TEXTS), quantization="FP8"))
    assert found.reason == "InvalidSpec"
    assert "quantized as FP8 already and served as it is; use auto" in found.message


def test_a_quantized_checkpoint_needs_a_gpu_for_its_format() -> None:
    found = refused(plan_config(Wishes(), quantization="NVFP4"))
    assert found.reason == "NoRecipeForGPU"
    assert "SM 100" in found.message


def test_a_checkpoint_that_nobody_serves_is_refused() -> None:
    found = refused(plan_config(Wishes(), quantization="bitsandbytes"))
    assert found.reason == "InvalidSpec"
    assert "bitsandbytes" in found.message


# --- splits ---


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (3, "3 tensor ranks do not divide 28 attention heads; tensor can be 1, 2, 4"),
        (7, "7 tensor ranks neither divide 4 key/value heads nor are a multiple of them"),
    ],
)
def test_ranks_that_do_not_divide_name_the_value_and_the_choices(tensor: int, words: str) -> None:
    found = refused(plan("A.X-4.0-Light", Wishes(tensor=tensor)))
    assert found.reason == "InvalidSpec"
    assert words in found.message


def test_layers_that_do_not_divide_name_the_value_and_the_choices() -> None:
    found = refused(plan("A.X-4.0-Light", Wishes(pipeline=3)))
    assert "3 pipeline ranks do not divide 28 layers" in found.message
    assert "pipeline 1, 2, 4, 7, 14" in found.message


def test_the_group_of_awq_has_to_divide_the_feed_forward_size_of_a_rank() -> None:
    wishes = Wishes(quantization="awq", calibration=TEXTS)
    found = refused(plan("A.X-4.0", replace(wishes, tensor=2)))
    assert "14784, feed-forward size 29568 over 2, is no multiple of 128, the group of awq" in found.message
    assert (made(plan("A.X-4.0", wishes)).tensor, made(plan("A.X-4.0", wishes)).pipeline) == (1, 2)


def test_a_model_that_no_split_lets_take_a_format_says_which_it_takes() -> None:
    wishes = Wishes(quantization="awq", calibration=TEXTS)
    found = refused(plan("A.X-3.1", replace(wishes, pipeline=2)))
    assert "feed-forward size 21824 is no multiple of 128, the group of awq" in found.message
    assert "no split of this model takes awq; use engine.quantization none, int8-wo, fp8, int8-sq" in found.message
    assert "21824" in refused(plan("A.X-3.1", wishes)).message


def test_wished_ranks_are_taken_and_have_to_fit_one_node() -> None:
    found = made(plan("A.X-4.0", Wishes(tensor=8)))
    assert (found.tensor, found.pipeline, found.gpus) == (8, 1, 8)
    too_many = refused(plan("A.X-4.0", Wishes(tensor=8, pipeline=2)))
    assert "needs 16 GPUs on one node, one node of the pool has 8" in too_many.message


def test_tensor_ranks_stay_within_nvlink_and_the_rest_is_pipeline() -> None:
    found = made(plan("A.X-4.0", Wishes(), L40S))
    assert (found.tensor, found.pipeline) == (2, 4)
    assert made(plan("A.X-4.0", Wishes())).pipeline == 1


def test_slices_work_alone_and_shared_gpus_not_at_all() -> None:
    part = replace(setup().pool(H100), gpu_product=f"{H100}-MIG-3g.40gb", mig="3g.40gb", memory_mib=40448)
    shared = replace(setup().pool(H100), shared=True)
    ask = (Source(hugging_face=HuggingFaceSource(repo="our/model")), assumed(ENTRIES["A.X-4.0-Light"], COMMIT), None)
    assert made(recipe(*ask, Wishes(), (part,), DEFAULT_TOOLCHAINS, GPUS)).gpus == 1
    found = refused(recipe(*ask, Wishes(tensor=2), (part,), DEFAULT_TOOLCHAINS, GPUS))
    assert "a slice works alone" in found.message
    assert "share" in refused(recipe(*ask, Wishes(), (shared,), DEFAULT_TOOLCHAINS, GPUS)).message


def test_fewer_gpus_are_taken_unless_more_double_the_concurrency_per_gpu() -> None:
    # One H100 holds A.X 3.1 in 16 bits with room for one whole context; two hold six times as much each.
    found = made(plan("A.X-3.1", Wishes(quantization="none")))
    assert found.gpus == 2
    assert made(plan("A.X-3.1", Wishes(quantization="none"), H100, per_node=1)).gpus == 1


# --- context and limits ---


def test_the_whole_context_is_what_rope_scaling_makes_of_it() -> None:
    assert made(plan("A.X-4.0", Wishes())).context_length == 131_072
    plain = plan_config(Wishes(), max_position_embeddings=32_768, rope_scaling=None)
    assert made(plain).context_length == 32_768
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}
    assert made(plan_config(Wishes(), max_position_embeddings=32_768, rope_scaling=yarn)).context_length == 131_072


def test_more_than_the_config_allows_is_refused_with_the_limit() -> None:
    found = refused(plan_config(Wishes(max_total_tokens=40_000), max_position_embeddings=32_768))
    assert found.reason == "InvalidSpec"
    assert (
        "maxTotalTokens 40000 exceeds the model's context as its config states it; use at most 32768" in found.message
    )
    assert "leaves no room for an answer" in refused(plan_config(Wishes(max_input_tokens=16_384))).message


def test_a_context_that_does_not_fit_is_shortened_and_said_so_unless_it_was_asked_for() -> None:
    found = made(plan("A.X-4.0", Wishes(quantization="none"), "NVIDIA-L4"))
    assert found.context_length == 32_768
    assert any("context shortened from 131072 to 32768" in note for note in found.notes)
    asked = refused(plan("A.X-4.0", Wishes(quantization="none", max_total_tokens=131_072), "NVIDIA-L4"))
    assert "of the" in asked.message
    assert "that 131072 tokens need" in asked.message


def test_a_model_too_large_for_a_node_says_what_it_needs_and_has() -> None:
    found = refused(plan("A.X-4.0", Wishes(quantization="none"), H100, per_node=1))
    assert found.reason == "NoRecipeForGPU"
    assert "one GPU has 81559 MiB" in found.message


def test_limits_are_part_of_an_engine_and_only_an_option_of_other_backends() -> None:
    engine = [made(plan("A.X-4.0-Light", Wishes(max_batch_size=n))).artifact.digest for n in (8, 16)]
    assert len(set(engine)) == 2
    files = [made(plan("A.X-4.0-Light", Wishes(backend="pytorch", max_batch_size=n))) for n in (8, 16)]
    assert len({r.artifact.digest for r in files}) == 1
    assert [r.engine_args["max_batch_size"] for r in files] == [8, 16]


def test_the_kv_cache_type_halves_its_bytes_where_it_can() -> None:
    plain = made(plan("A.X-4.0", Wishes(backend="pytorch")))
    small = made(plan("A.X-4.0", Wishes(backend="pytorch", kv_dtype="fp8")))
    assert small.memory.kv_bytes_per_token * small.tensor * 2 == plain.memory.kv_bytes_per_token * plain.tensor
    assert small.engine_args["kv_cache_config"]["dtype"] == "fp8"
    assert "needs SM 89" in refused(plan("A.X-4.0", Wishes(kv_dtype="fp8", calibration=TEXTS), A100)).message
    assert "tensorrt backend only" in refused(plan("A.X-4.0", Wishes(backend="pytorch", kv_dtype="int8"))).message


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
