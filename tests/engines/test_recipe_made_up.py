"""Recipes of made-up models, GPUs and wishes: what holds for all of them; AX_SOAK=1 tries fifty times as many."""

from __future__ import annotations

import os
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ax_engines import catalogue
from ax_engines.contract import Calibration, HuggingFaceSource, ModelConfig, ResolvedSource, Source
from ax_engines.hardware import Gpu
from ax_engines.hardware_table import load_gpus
from ax_engines.memory import weights_bytes
from ax_engines.models import context_length
from ax_engines.plan_cli import DEFAULT_TOOLCHAINS, QUANTIZATIONS, Setup
from ax_engines.recipe import Recipe, Refusal, Wishes, recipe
from tests.engines.trtllm_flags import check_command, check_llm_args

SOAK = os.environ.get("AX_SOAK") == "1"
pytestmark = [pytest.mark.soak] if SOAK else []
many = settings(
    max_examples=5_000 if SOAK else 100,
    derandomize=not SOAK,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
GPUS = load_gpus()
TEXTS = Calibration(claim_name="texts")
SOURCE = Source(hugging_face=HuggingFaceSource(repo="our/model"))
ROPES = (
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
    {"type": "linear", "factor": 2.0},
)

shapes = st.builds(
    lambda architecture, layers, heads, kv, ffn, vocab, context, rope: ModelConfig(
        architecture=architecture,
        num_hidden_layers=layers,
        hidden_size=heads * 128,
        intermediate_size=ffn * 64,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // kv),
        head_dim=128,
        vocab_size=vocab,
        max_position_embeddings=context,
        rope_scaling=rope,
    ),
    st.sampled_from(["LlamaForCausalLM", "Qwen2ForCausalLM"]),
    st.integers(1, 120),
    st.integers(1, 96),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 500),
    st.integers(1_000, 300_000),
    st.sampled_from([2_048, 32_768, 131_072]),
    st.sampled_from([None, None, *ROPES]),
)
few = st.sampled_from([None, None, 1, 2, 4])
wishes = st.builds(
    Wishes,
    backend=st.sampled_from(["auto", "auto", "tensorrt", "pytorch"]),
    quantization=st.sampled_from(["auto", *QUANTIZATIONS]),
    prefer=st.sampled_from(["throughput", "quality"]),
    calibration=st.sampled_from([None, TEXTS]),
    tensor=few,
    pipeline=few,
    max_batch_size=st.sampled_from([None, None, 1, 7, 64]),
    max_total_tokens=st.sampled_from([None, None, 512, 4_000, 100_000]),
    kv_dtype=st.sampled_from(["auto", "fp8"]),
)
gpus = st.sampled_from(GPUS)
nodes = st.sampled_from([1, 2, 4, 6, 8])


@cache
def setup(per_node: int) -> Setup:
    """Return nodes of so many GPUs."""
    return Setup(catalogue.load(), GPUS, DEFAULT_TOOLCHAINS, per_node)


def planned(config: ModelConfig, gpu: Gpu, per_node: int, wished: Wishes) -> Recipe | Refusal:
    """Plan twice, which must come to the same."""
    resolved = ResolvedSource(
        revision="5a" * 20, format="safetensors", files=1, bytes=weights_bytes(config), config=config
    )
    pool = setup(per_node).pool(gpu.product)
    found = recipe(SOURCE, resolved, None, wished, (pool,), DEFAULT_TOOLCHAINS, GPUS)
    assert found == recipe(SOURCE, resolved, None, wished, (pool,), DEFAULT_TOOLCHAINS, GPUS)
    return found


@many
@given(shapes, gpus, nodes, wishes)
def test_whatever_is_planned_fits_and_divides(config: ModelConfig, gpu: Gpu, per_node: int, wished: Wishes) -> None:
    found = planned(config, gpu, per_node, wished)
    if isinstance(found, Refusal):
        assert found.reason
        assert found.message
        return
    assert found.gpus == found.tensor * found.pipeline <= per_node
    assert config.num_attention_heads % found.tensor == 0
    assert config.num_hidden_layers % found.pipeline == 0
    assert found.memory.kv_tokens >= found.context_length
    assert found.memory.total == gpu.memory_mib
    assert found.memory.weights < gpu.memory_mib
    assert 1 <= found.slots <= 256
    assert wished.calibration or found.artifact.calibration is None
    assert wished.tensor in (None, found.tensor)
    assert wished.pipeline in (None, found.pipeline)
    assert wished.max_batch_size in (None, found.slots)
    assert wished.max_total_tokens in (None, found.context_length)


@many
@given(shapes, gpus, nodes, wishes)
def test_whatever_is_planned_is_taken_by_the_tools(
    config: ModelConfig, gpu: Gpu, per_node: int, wished: Wishes
) -> None:
    found = planned(config, gpu, per_node, wished)
    if isinstance(found, Refusal):
        return
    for command in found.commands:
        check_command(command, gpu.sm, context_length(config))
    if found.backend != "transformers":
        check_llm_args(found.backend, found.engine_args)
