"""The catalogue's files, and how a real config is compared with them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ax_engines.catalogue import load
from ax_engines.contract import ModelConfig
from ax_engines.models import CatalogueEntry, Fact, compare, context_length

CATALOGUE = load()
# Parameters of a gated-MLP decoder with RMSNorm, from the published or inferred dimensions.
COUNTS = {
    "A.X-4.0": 71_892_508_672,
    "A.X-4.0-Light": 7_259_624_960,
    "A.X-3.1": 34_670_911_488,
    "A.X-3.1-Light": 7_264_800_768,
    "A.X-4.0-VL-Light": 7_259_624_960,
}


def parameters(c: ModelConfig) -> int:
    """Count a decoder's parameters."""
    kv = c.num_key_value_heads * c.head_dim
    q = c.num_attention_heads * c.head_dim
    attention = c.hidden_size * (2 * q + 2 * kv) + ((q + 2 * kv) if c.attention_bias else 0)
    layer = attention + 3 * c.hidden_size * c.intermediate_size + 2 * c.hidden_size
    head = 0 if c.tie_word_embeddings else c.vocab_size * c.hidden_size
    return c.num_hidden_layers * layer + c.vocab_size * c.hidden_size + head + c.hidden_size


def test_the_five_models_and_the_demo_are_there() -> None:
    assert set(CATALOGUE) == {*COUNTS, "SmolLM2-135M-Instruct"}


@pytest.mark.parametrize("name", COUNTS)
def test_dimensions_give_the_models_parameters(name: str) -> None:
    assert parameters(CATALOGUE[name].assumed_config()) == pytest.approx(COUNTS[name], rel=0.005)


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda e: e.name)
def test_served_names_are_names_that_the_api_allows(entry: CatalogueEntry) -> None:
    import re

    for name in entry.served_names:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}", name)


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda e: e.name)
def test_an_assumed_config_agrees_with_its_entry(entry: CatalogueEntry) -> None:
    errors, _ = compare(entry, entry.assumed_config())
    assert errors == ()
    assert context_length(entry.assumed_config()) == entry.context.value


def test_the_4_0_family_calls_tools_as_hermes_does() -> None:
    assert {n for n, e in CATALOGUE.items() if e.tool_parser == "hermes"} == {
        "A.X-4.0",
        "A.X-4.0-Light",
        "A.X-4.0-VL-Light",
    }


def test_a_published_difference_is_an_error_that_names_both() -> None:
    entry = CATALOGUE["A.X-3.1"]
    errors, _ = compare(entry, entry.assumed_config().model_copy(update={"num_hidden_layers": 47}))
    assert len(errors) == 1
    assert "num_hidden_layers is 47" in errors[0]
    assert "48 is published for A.X-3.1" in errors[0]


def test_an_inferred_difference_is_a_note() -> None:
    entry = CATALOGUE["A.X-4.0"]
    errors, notes = compare(entry, entry.assumed_config().model_copy(update={"intermediate_size": 29696}))
    assert errors == ()
    assert [n for n in notes if "29696" in n and "29568" in n]


def test_an_unknown_value_yields_a_note() -> None:
    entry = CATALOGUE["A.X-3.1"]
    errors, notes = compare(entry, entry.assumed_config())
    assert errors == ()
    assert any("architecture is LlamaForCausalLM" in n for n in notes)


def test_a_native_context_without_rope_scaling_is_a_note() -> None:
    entry = CATALOGUE["A.X-4.0"]
    errors, notes = compare(entry, entry.assumed_config().model_copy(update={"rope_scaling": None}))
    assert errors == ()
    assert any("32768" in n and "131072" in n for n in notes)


def test_a_shorter_context_than_published_is_an_error_and_a_longer_one_a_note() -> None:
    entry = CATALOGUE["A.X-3.1-Light"]
    config = entry.assumed_config()
    errors, _ = compare(entry, config.model_copy(update={"max_position_embeddings": 4096}))
    assert "4096" in errors[0]
    assert "32768" in errors[0]
    errors, notes = compare(entry, config.model_copy(update={"max_position_embeddings": 65536}))
    assert errors == ()
    assert any("65536" in n for n in notes)


def test_a_text_model_is_no_vision_model() -> None:
    errors, _ = compare(CATALOGUE["A.X-4.0-VL-Light"], CATALOGUE["A.X-4.0-Light"].assumed_config())
    assert "images" in errors[0]


def test_a_quantized_checkpoint_may_have_another_dtype() -> None:
    entry = CATALOGUE["A.X-4.0-Light"]
    config = entry.assumed_config().model_copy(update={"dtype": "float16", "quantization": "awq"})
    assert compare(entry, config) == ((), ())


@pytest.mark.parametrize(
    ("rope", "tokens"),
    [
        (None, 32768),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        ({"type": "yarn", "factor": 4.0}, 131072),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 32768),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}, 32768),
        ({"rope_type": "default"}, 32768),
    ],
)
def test_context_follows_rope_scaling(rope: dict[str, object] | None, tokens: int) -> None:
    config = CATALOGUE["A.X-4.0"].assumed_config()
    assert context_length(config.model_copy(update={"rope_scaling": rope})) == tokens


def test_marks_and_values_agree() -> None:
    with pytest.raises(ValidationError, match="left out exactly when"):
        Fact[int](mark="published", source="x")
    with pytest.raises(ValidationError, match="left out exactly when"):
        Fact[int](value=1, mark="unknown")
    with pytest.raises(ValidationError, match="names its source"):
        Fact[int](value=1, mark="published")
