"""What a checkpoint of transformers says about how it is loaded and when an answer ends."""

from __future__ import annotations

from typing import Any


def model_class(transformers: Any, config: Any, sees: bool) -> Any:
    """Return the class that loads the model: what its own code names, else transformers' for text or images."""
    named = getattr(config, "auto_map", None) or {}
    kinds = ("AutoModelForImageTextToText", "AutoModelForVision2Seq", "AutoModelForCausalLM")
    if not sees:
        return transformers.AutoModelForCausalLM
    found = next((kind for kind in kinds if kind in named and hasattr(transformers, kind)), kinds[0])
    return getattr(transformers, found)


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer, by the model's generation config and its tokenizer."""
    given = getattr(model.generation_config, "eos_token_id", None)
    ends = list(given) if isinstance(given, list | tuple) else [given]
    return frozenset(int(token) for token in [*ends, tokenizer.eos_token_id] if token is not None)
