"""Recipes for GGUF files on the CPU pool."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ax_engines.contract import ModelConfig, PvcSource, ResolvedSource, Source
from ax_engines.hardware import Pool, Toolchain
from ax_engines.recipe import Recipe, Refusal, Wishes, recipe

SOURCE = Source(pvc=PvcSource(claim_name="models", path="smollm2.gguf"))
CONFIG = ModelConfig(
    architecture="llama",
    num_hidden_layers=30,
    hidden_size=576,
    intermediate_size=1536,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    vocab_size=49152,
    max_position_embeddings=8192,
)
RESOLVED = ResolvedSource(revision="sha256:0", format="gguf", files=1, bytes=144_811_456, config=CONFIG)
CPU = Pool("cpu", None, 0, 1, 0, 0, None, 16384)
CHAIN = Toolchain("cpu", "ax-triton-cpu", ("llamacpp",))


def plan(wishes: Wishes = Wishes(), pools: tuple[Pool, ...] = (CPU,)) -> Recipe | Refusal:  # noqa: B008
    return recipe(SOURCE, RESOLVED, None, wishes, pools, (CHAIN,), ())


def test_a_gguf_file_is_served_as_it_is_on_cpus() -> None:
    made = plan()
    assert isinstance(made, Recipe)
    assert (made.backend, made.pool, made.gpus, made.artifact.artifact) == ("llamacpp", "cpu", 0, "gguf")
    assert (made.slots, made.context_length, made.threads, made.cpu_request) == (4, 8192, 1, "250m")
    assert made.artifact.slug == "smollm2"
    assert made.commands == ()
    # 2 * 30 layers * 3 heads * 64 * 2 bytes for each of 4 * 8192 tokens, and the file itself.
    assert made.memory.kv_cache == 720
    assert made.memory.weights == 139
    assert made.memory_request == f"{made.memory.total}Mi"


def test_limits_change_the_request_but_not_the_artifact() -> None:
    small = plan(Wishes(max_total_tokens=2048, max_batch_size=2, cpu="3500m"))
    usual = plan()
    assert isinstance(small, Recipe)
    assert isinstance(usual, Recipe)
    assert (small.slots, small.context_length, small.threads, small.memory.kv_tokens) == (2, 2048, 3, 4096)
    assert small.artifact.digest == usual.artifact.digest


@pytest.mark.parametrize(
    ("wishes", "reason", "words"),
    [
        (Wishes(backend="pytorch"), "InvalidSpec", "cannot read a GGUF file"),
        (Wishes(quantization="fp8"), "InvalidSpec", "quantized already"),
        (Wishes(tensor=2), "InvalidSpec", "engine.parallelism"),
        (Wishes(max_total_tokens=9000), "InvalidSpec", "use at most 8192"),
        (Wishes(max_batch_size=65), "InvalidSpec", "more replicas"),
        (Wishes(gpu="NVIDIA-L4"), "InvalidSpec", "placement.gpu NVIDIA-L4"),
        (Wishes(cpu="2Gi"), "InvalidSpec", "placement.pod.cpu 2Gi"),
        (Wishes(toolchain="26.04"), "ToolchainIncompatible", "which has cpu (llamacpp)"),
        (Wishes(max_batch_size=64, max_total_tokens=8192), "NoRecipeForGPU", "lower engine.limits"),
    ],
)
def test_a_refusal_says_what_to_change(wishes: Wishes, reason: str, words: str) -> None:
    refused = plan(wishes, (replace(CPU, memory_mib=4096),))
    assert isinstance(refused, Refusal)
    assert refused.reason == reason
    assert words in refused.message


def test_without_a_cpu_pool_there_is_no_recipe() -> None:
    refused = plan(pools=())
    assert isinstance(refused, Refusal)
    assert refused.reason == "NoSuchPool"
