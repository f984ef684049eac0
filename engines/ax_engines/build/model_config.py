"""Turns a source's config.json or GGUF metadata into a ModelConfig, refusing what no model can be."""

from __future__ import annotations

import json
from typing import Any

from ax_engines.build.errors import BuildError
from ax_engines.build.gguf_header import VOCABULARY, GgufHeader
from ax_engines.contract import ModelConfig

MAX_CONFIG_BYTES = 2 * 2**20

# Classes whose config.json uses the words read here. Others need their own code: `trustRemoteCode`.
KNOWN_ARCHITECTURES = frozenset(
    {
        *("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "MistralForCausalLM"),
        *("MixtralForCausalLM", "GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Phi3ForCausalLM"),
        *("ExaoneForCausalLM", "Exaone4ForCausalLM", "Qwen2VLForConditionalGeneration"),
        *("Qwen2_5_VLForConditionalGeneration", "LlavaForConditionalGeneration"),
        *("LlavaNextForConditionalGeneration", "LlavaOnevisionForConditionalGeneration"),
        "Gemma3ForConditionalGeneration",
    }
)
# GGUF's `general.architecture` to the Hugging Face class of the same layout.
GGUF_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3moe": "Qwen3MoeForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "exaone": "ExaoneForCausalLM",
    "exaone4": "Exaone4ForCausalLM",
}
# Families whose query, key and value projections have a bias that config.json does not mention.
_BIASED = ("Qwen2ForCausalLM", "Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration")
# `general.file_type` of llama.cpp: names of whole-file quantizations.
_FILE_TYPES = {
    **{
        2: "Q4_0",
        3: "Q4_1",
        7: "Q8_0",
        8: "Q5_0",
        9: "Q5_1",
        10: "Q2_K",
        11: "Q3_K_S",
        12: "Q3_K_M",
        13: "Q3_K_L",
    },
    **{
        14: "Q4_K_S",
        15: "Q4_K_M",
        16: "Q5_K_S",
        17: "Q5_K_M",
        18: "Q6_K",
        25: "IQ4_NL",
        30: "IQ4_XS",
        38: "MXFP4",
    },
}
_UNQUANTIZED = {0: "float32", 1: "float16", 32: "bfloat16"}
_LIMITS = {
    "num_hidden_layers": 1_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "head_dim": 10_000,
    "vocab_size": 10_000_000,
    "max_position_embeddings": 100_000_000,
}


def parse_json(data: bytes, label: str) -> dict[str, Any]:
    """Return a JSON object; BuildError ConfigInvalid if it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BuildError("ConfigInvalid", f"{label} is not JSON: {error!s:.200}") from error
    if not isinstance(value, dict):
        raise BuildError("ConfigInvalid", f"{label} holds a {type(value).__name__}, not an object")
    return value


def from_config_json(
    raw: dict[str, Any], quant: dict[str, Any] | None = None, trust_remote_code: bool = False
) -> ModelConfig:
    """Return the shape that config.json states; `quant` is hf_quant_config.json, where there is one.

    A multimodal config keeps its language model's shape under `text_config` or flat beside `vision_config`.
    """
    names = raw.get("architectures")
    if not (isinstance(names, list) and names and isinstance(names[0], str) and len(names[0]) <= 100):
        raise BuildError(
            "ArchitectureUnknown", f"config.json says architectures: {names!s:.100}; one class name is needed"
        )
    if names[0] not in KNOWN_ARCHITECTURES and not trust_remote_code:
        raise BuildError(
            "ArchitectureUnknown",
            f"{names[0]} is not an architecture that is served (known: {', '.join(sorted(KNOWN_ARCHITECTURES))}); "
            "a model with code of its own needs trustRemoteCode",
        )
    text = raw.get("text_config")
    flat = {**raw, **text} if isinstance(text, dict) else raw
    heads = flat.get("num_attention_heads")
    defaults = {"num_key_value_heads": heads}
    hidden = flat.get("hidden_size")
    if isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        defaults["head_dim"] = hidden // heads
    vision = raw.get("vision_config")
    return ModelConfig(
        architecture=names[0],
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", flat.get("tie_word_embeddings", False))),
        attention_bias=bool(flat.get("attention_bias", flat.get("qkv_bias", names[0] in _BIASED))),
        dtype=str(flat.get("torch_dtype") or flat.get("dtype") or raw.get("torch_dtype") or "bfloat16")[:20],
        rope_scaling=_scalars(flat.get("rope_scaling")) or _rope_parameters(flat.get("rope_parameters")),
        quantization=_quantization(raw, quant),
        vision=(_scalars(vision) or {}) if isinstance(vision, dict) else None,
        **{name: _positive(flat, name, limit, defaults) for name, limit in _LIMITS.items()},
    )


def _positive(raw: dict[str, Any], name: str, limit: int, defaults: dict[str, Any]) -> int:
    value = raw.get(name)
    value = defaults.get(name) if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= limit:
        raise BuildError("ConfigInvalid", f"{name} is {value!r:.60} in the model's config; 1 to {limit} is possible")
    return value


def _scalars(value: Any) -> dict[str, Any] | None:
    """Keep what plans read: numbers, flags and short words; long lists would not fit a termination message."""
    if not isinstance(value, dict) or not value:
        return None
    kept = {
        k: v
        for k, v in value.items()
        if len(k) <= 64 and (v is None or isinstance(v, int | float | bool) or (isinstance(v, str) and len(v) <= 64))
    }
    return dict(sorted(kept.items())[:24]) or None


def _rope_parameters(value: Any) -> dict[str, Any] | None:
    """Newer configs spell `rope_scaling` as `rope_parameters`, also when nothing is scaled."""
    kept = _scalars(value)
    return kept if kept and kept.get("rope_type") not in (None, "default") else None


def _quantization(raw: dict[str, Any], quant: dict[str, Any] | None) -> str | None:
    for found in ((quant or {}).get("quantization"), raw.get("quantization_config")):
        if isinstance(found, dict):
            name = found.get("quant_algo") or found.get("quant_method")
            if isinstance(name, str) and name:
                return name[:40]
    return None


def from_gguf(header: GgufHeader) -> ModelConfig:
    """Return the shape that GGUF metadata states."""
    meta = header.metadata
    family = meta.get("general.architecture")
    if family not in GGUF_ARCHITECTURES:
        raise BuildError(
            "ArchitectureUnknown",
            f"the GGUF says general.architecture: {family!s:.60}; known: {', '.join(sorted(GGUF_ARCHITECTURES))}",
        )

    def number(key: str) -> Any:
        return meta.get(f"{family}.{key}")

    if not header.tensors:
        raise BuildError("ConfigInvalid", "the GGUF has no tensors, only a vocabulary: take the model's own file")
    heads, hidden = number("attention.head_count"), number("embedding_length")
    words = meta.get(VOCABULARY)
    raw = {
        "num_hidden_layers": number("block_count"),
        "hidden_size": hidden,
        "intermediate_size": number("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": number("attention.head_count_kv"),
        "head_dim": number("attention.key_length") or number("rope.dimension_count"),
        "vocab_size": number("vocab_size") or (len(words) if isinstance(words, list) else None),
        "max_position_embeddings": number("context_length"),
    }
    defaults = {"num_key_value_heads": heads}
    if isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        defaults["head_dim"] = hidden // heads
    stated = meta.get("general.file_type")
    file_type = stated if isinstance(stated, int) else -1
    return ModelConfig(
        architecture=GGUF_ARCHITECTURES[family],
        tie_word_embeddings=not header.has_tensor("output.weight"),
        attention_bias=header.has_tensor("blk.0.attn_q.bias"),
        dtype=_UNQUANTIZED.get(file_type, "bfloat16"),
        rope_scaling=_gguf_rope(number),
        quantization=None if file_type in _UNQUANTIZED else _FILE_TYPES.get(file_type, "gguf"),
        **{name: _positive(raw, name, limit, defaults) for name, limit in _LIMITS.items()},
    )


def _gguf_rope(number: Any) -> dict[str, Any] | None:
    kind, factor = number("rope.scaling.type"), number("rope.scaling.factor")
    if kind in (None, "none") or not isinstance(factor, float):
        return None
    original = number("rope.scaling.original_context_length")
    return _scalars({"type": kind, "factor": factor, "original_max_position_embeddings": original})
