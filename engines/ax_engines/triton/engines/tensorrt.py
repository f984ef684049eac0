"""TensorRT engines, through the LLM API of TensorRT-LLM 1.2, the last line that has them.

An engine holds its own limits and data type; what the recipe gives is bounded by them. Log probabilities would need
logits that the engines are not built to return.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ax_engines.triton.engines.llm_api import Flavour, LlmApiEngine
from ax_engines.wire import Sampling

KEPT_ITERATIONS = 100
"""Iterations whose statistics wait to be read; without a number the library keeps none."""


def load() -> Any:
    """Return the class that loads engine folders; `tensorrt_llm.LLM` is PyTorch's and does not."""
    from tensorrt_llm._tensorrt_engine import LLM  # noqa: PLC0415  only this engine's image has it

    return LLM


def missing(sampling: Sampling, _: Mapping[str, Any]) -> dict[str, object]:
    """Return what an engine built by our recipes cannot do."""
    return {"logprobs": sampling.logprobs is not None}


TENSORRT = Flavour("tensorrt", load, {"iter_stats_max_iterations": KEPT_ITERATIONS}, missing)
ENGINE = partial(LlmApiEngine, TENSORRT)
