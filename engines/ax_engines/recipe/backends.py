"""Which backend serves which architecture on which GPU, and which toolchain offers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ax_engines.contract import Backend, ModelConfig
from ax_engines.hardware import Toolchain
from ax_engines.recipe.formats import CONVERTED_AS_THEY_ARE, READY_MADE
from ax_engines.recipe.types import RefusalReason, Wishes

# `auto` tries them in this order; llamacpp is for GGUF alone.
GPU_BACKENDS: tuple[Backend, ...] = ("tensorrt", "pytorch", "transformers")

# Architectures with a converter of the 1.2 line, and its path below the image's examples.
CONVERTERS = MappingProxyType(
    {
        "Qwen2ForCausalLM": "models/core/qwen/convert_checkpoint.py",
        "LlamaForCausalLM": "models/core/llama/convert_checkpoint.py",
    }
)
# Ampere, Ada, Hopper and Blackwell: those that TensorRT-LLM's own documentation of the 1.2 line names.
TENSORRT_SMS = frozenset({80, 86, 89, 90, 100, 103, 120})
# Dense decoders of the PyTorch backend's model list.
PYTORCH_ARCHITECTURES = frozenset(
    {"Exaone4ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
)
LEAST_SM = 80  # bfloat16


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a backend is out of the question for a model on a GPU, and what kind of refusal that would be."""

    reason: RefusalReason
    message: str


def offer(
    backend: Backend, config: ModelConfig, sm: int | None, wishes: Wishes, toolchains: Sequence[Toolchain]
) -> Toolchain | Blocked:
    """Return the toolchain that serves this model with this backend, or what is in the way.

    `sm` is None for the CPU pool.
    """
    blocked = _model_blocks(backend, config) or _gpu_blocks(backend, sm)
    return blocked or toolchain_for(backend, wishes, toolchains, gpu=sm is not None)


def _model_blocks(backend: Backend, config: ModelConfig) -> Blocked | None:
    why = None
    if backend == "transformers":
        if config.quantization:
            why = f"the checkpoint is quantized as {config.quantization}; use pytorch"
    elif config.vision is not None:
        why = "TensorRT-LLM does not serve this model's images; use transformers"
    elif config.architecture not in (known := CONVERTERS if backend == "tensorrt" else PYTORCH_ARCHITECTURES):
        why = f"{config.architecture} is not among its architectures ({', '.join(sorted(known))})"
    elif config.quantization:
        why = _checkpoint_blocks(backend, config, config.quantization)
    return Blocked("InvalidSpec", why) if why else None


def _checkpoint_blocks(backend: Backend, config: ModelConfig, quantized: str) -> str | None:
    """Return why a checkpoint that is quantized already is not for this backend.

    Only the Qwen converter reads AWQ and GPTQ from the source's own config; what Model-Optimizer wrote is for the
    PyTorch backend.
    """
    name = quantized.lower()
    if name not in READY_MADE:
        return f"checkpoints quantized as {quantized} are not served ({', '.join(sorted(READY_MADE))} are)"
    for_converter = name in CONVERTED_AS_THEY_ARE
    if backend == "pytorch":
        return f"a checkpoint quantized as {quantized} needs the tensorrt backend" if for_converter else None
    if for_converter and config.architecture == "Qwen2ForCausalLM":
        return None
    return f"a checkpoint quantized as {quantized} is not converted to an engine"


def _gpu_blocks(backend: Backend, sm: int | None) -> Blocked | None:
    if sm is None:
        return None if backend == "transformers" else Blocked("NoRecipeForGPU", "needs GPUs")
    if sm < LEAST_SM:
        return Blocked("NoRecipeForGPU", f"SM {sm} has no bfloat16, which starts with SM {LEAST_SM}")
    if backend == "tensorrt" and sm not in TENSORRT_SMS:
        names = ", ".join(map(str, sorted(TENSORRT_SMS)))
        return Blocked("NoRecipeForGPU", f"TensorRT-LLM 1.2 builds engines for SM {names}, not for SM {sm}")
    return None


def toolchain_for(backend: Backend, wishes: Wishes, toolchains: Sequence[Toolchain], gpu: bool) -> Toolchain | Blocked:
    """Return the first toolchain of the chart's list that offers the backend, or the one that is wished for."""
    listed = ", ".join(f"{t.name} ({', '.join(t.backends)})" for t in toolchains) or "none"
    named = [t for t in toolchains if wishes.toolchain in (None, t.name)]
    if not named:
        message = f"engine.toolchain {wishes.toolchain} is not in the chart's list, which has {listed}"
        return Blocked("ToolchainIncompatible", message)
    offering = [t for t in named if backend in t.backends and (t.gpu or not gpu)]
    if not offering:
        who = f"toolchain {wishes.toolchain} does not offer" if wishes.toolchain else "no toolchain offers"
        where = " on GPUs" if gpu else ""
        return Blocked("ToolchainIncompatible", f"{who} backend {backend}{where}; the chart lists {listed}")
    if backend != "tensorrt":
        return offering[0]
    building = next((t for t in offering if t.builds_engines), None)
    if building is None:
        newest = offering[0]
        return Blocked(
            "ToolchainIncompatible",
            f"TensorRT-LLM {newest.tensorrt_llm or 'of unknown version'} in toolchain {newest.name} cannot build"
            " engines: 1.2 is the last line with trtllm-build; use backend pytorch, or a toolchain of the 1.2 line",
        )
    return building
