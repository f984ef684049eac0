"""Hugging Face checkpoints, quantized or not, through TensorRT-LLM's PyTorch engine.

Its default sampler took penalties and min_p without a word and did nothing with them until July 2026 (pull request
16485 of NVIDIA/TensorRT-LLM), so they are refused unless the older sampler is chosen in the engine's arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ax_engines.triton.engines.llm_api import Flavour, LlmApiEngine
from ax_engines.wire import Sampling

FULL_SAMPLER = "TRTLLMSampler"


def load() -> Any:
    """Return the library's main class, which is PyTorch's."""
    from tensorrt_llm import LLM  # noqa: PLC0415  only this engine's image has it

    return LLM


def missing(sampling: Sampling, arguments: Mapping[str, Any]) -> dict[str, object]:
    """Return what the sampler would ignore, each only where its value would change the answer."""
    if arguments.get("sampler_type") == FULL_SAMPLER:
        return {}
    return {
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty not in (None, 1.0),
        "min_p": sampling.min_p,
    }


PYTORCH = Flavour("pytorch", load, {"enable_iter_perf_stats": True}, missing)
ENGINE = partial(LlmApiEngine, PYTORCH)
