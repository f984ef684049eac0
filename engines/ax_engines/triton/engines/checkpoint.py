"""Loads a checkpoint of transformers: the model, what reads prompts, what writes answers, what ends them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ax_engines.contract import ServingOptions


@dataclass(frozen=True)
class Checkpoint:
    """What was loaded; `processor` is None for models of text alone.

    A tokenizer must not be used by two threads: `tokenizer` reads prompts, `reader` says answers.
    """

    model: Any
    tokenizer: Any
    reader: Any
    processor: Any
    ends: frozenset[int]


def load_checkpoint(options: ServingOptions, folder: Path, sees: bool) -> Checkpoint:
    """Load everything from the artifact's folder alone; raises what transformers raises."""
    import transformers  # noqa: PLC0415  only this engine's image has it

    places: dict[str, Any] = {"trust_remote_code": options.trust_remote_code, "local_files_only": True}
    reader = transformers.AutoTokenizer.from_pretrained(folder, **places)
    config = transformers.AutoConfig.from_pretrained(folder, **places)
    kind = model_class(transformers, config, sees)
    model = kind.from_pretrained(folder, use_safetensors=True, **places, **options.engine_args).eval()
    return Checkpoint(
        model=model,
        tokenizer=transformers.AutoTokenizer.from_pretrained(folder, **places),
        reader=reader,
        processor=transformers.AutoProcessor.from_pretrained(folder, **places) if sees else None,
        ends=end_tokens(model, reader),
    )


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


def tensors_of(tokens: list[int]) -> dict[str, Any]:
    """Return a prompt of text as the model takes it."""
    import torch  # noqa: PLC0415  at use

    ids = torch.tensor([tokens])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
