"""Parameters, weights, KV cache and budgets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ax_engines import catalogue
from ax_engines.memory import (
    LIBRARY,
    MIB,
    Split,
    activation_bytes,
    gpu_budget,
    host_budget,
    kv_bytes_per_token,
    parameter_count,
    weights_bytes,
)

ENTRIES = catalogue.load()
# Counted by hand from the published and inferred dimensions of each model: parameters of the language model, and
# bytes of 16-bit keys and values per token.
FIGURES = {
    "A.X-4.0": (71_892_508_672, 327_680),
    "A.X-4.0-Light": (7_259_624_960, 57_344),
    "A.X-3.1": (34_670_911_488, 196_608),
    "A.X-3.1-Light": (7_264_800_768, 524_288),
    "A.X-4.0-VL-Light": (7_259_624_960, 57_344),
}
PUBLISHED = {"A.X-4.0": 72e9, "A.X-4.0-Light": 7e9, "A.X-3.1": 34e9, "A.X-3.1-Light": 7e9}


@pytest.mark.parametrize("name", FIGURES)
def test_parameters_and_kv_bytes_are_those_of_the_dimensions(name: str) -> None:
    config = ENTRIES[name].assumed_config()
    parameters, kv_bytes = FIGURES[name]
    assert parameter_count(config) == pytest.approx(parameters, rel=0.005)
    assert kv_bytes_per_token(config) == kv_bytes
    assert kv_bytes_per_token(config, value_bytes=1.0) == kv_bytes // 2


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_round_to_the_published_size(name: str) -> None:
    assert parameter_count(ENTRIES[name].assumed_config()) == pytest.approx(PUBLISHED[name], rel=0.05)


def test_a_tied_head_is_counted_once_as_parameters_and_twice_as_memory() -> None:
    config = ENTRIES["A.X-4.0-Light"].assumed_config()
    tied = config.model_copy(update={"tie_word_embeddings": True})
    assert parameter_count(config) - parameter_count(tied) == config.vocab_size * config.hidden_size
    assert weights_bytes(tied) == weights_bytes(config) == 2 * parameter_count(config)


def test_key_value_heads_are_repeated_when_there_are_more_ranks_than_heads() -> None:
    config = ENTRIES["A.X-4.0-Light"].assumed_config()  # 4 key/value heads
    per_token = [kv_bytes_per_token(config, split=Split(tensor)) for tensor in (1, 2, 4, 8)]
    assert per_token == [57_344, 28_672, 14_336, 14_336]


def test_the_heaviest_rank_decides() -> None:
    config = ENTRIES["A.X-4.0"].assumed_config()
    whole = weights_bytes(config)
    for split in (Split(2, 1), Split(1, 2), Split(4, 2), Split(2, 4), Split(8, 1)):
        heaviest = weights_bytes(config, split=split)
        assert whole / split.ranks < heaviest < 1.15 * whole / split.ranks


def test_formats_shrink_the_layers_but_not_embedding_and_head() -> None:
    config = ENTRIES["A.X-4.0"].assumed_config()
    ends = 2 * 2 * config.vocab_size * config.hidden_size
    full, half = weights_bytes(config, 2.0), weights_bytes(config, 1.0)
    assert (half - ends) / (full - ends) == pytest.approx(0.5, abs=0.001)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(FIGURES)),
    st.sampled_from(sorted(LIBRARY)),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(10_000, 400_000),
    st.floats(0.05, 0.98),
)
def test_the_parts_of_a_budget_are_the_whole(
    name: str, library: str, tensor: int, pipeline: int, linear: float, memory: int, fraction: float
) -> None:
    config = ENTRIES[name].assumed_config()
    split = Split(tensor, pipeline)
    budget = gpu_budget(config, memory, library, split, linear, 2.0, 8192, 256, fraction)
    parts = budget.weights + budget.activations + budget.runtime + budget.kv_cache + budget.reserve
    assert parts == budget.total == memory
    assert budget.kv_tokens * budget.kv_bytes_per_token <= max(0, budget.kv_cache) * MIB
    assert budget.concurrency(1000) == budget.kv_tokens / 1000


def test_activations_grow_with_the_step_and_shrink_with_tensor_ranks() -> None:
    config = ENTRIES["A.X-4.0"].assumed_config()
    assert activation_bytes(config, 8192, 256) > 2 * activation_bytes(config, 2048, 256)
    assert activation_bytes(config, 8192, 256, tensor=4) < activation_bytes(config, 8192, 256)


def test_a_host_budget_counts_file_cache_buffers_and_processes() -> None:
    config = ENTRIES["SmolLM2-135M-Instruct"].assumed_config()
    budget = host_budget(config, 144_811_456, context=2048, slots=2)
    assert budget.weights == 139
    assert budget.kv_tokens == 4096
    assert budget.total == budget.weights + budget.kv_cache + budget.activations + budget.runtime
