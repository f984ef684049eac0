"""Over how many GPUs a recipe splits a model, and the context and limits that fit them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ax_engines.contract import HuggingFaceSource, Source
from ax_engines.plan_cli import DEFAULT_TOOLCHAINS, assumed
from ax_engines.recipe import Wishes, recipe
from tests.engines.planner import (
    A100,
    COMMIT,
    ENTRIES,
    GPUS,
    H100,
    L40S,
    TEXTS,
    made,
    plan,
    plan_config,
    refused,
    setup,
)

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
