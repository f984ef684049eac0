"""One option: a pool, a backend and a format, with what fits there, or the line that says why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ax_engines.contract import Backend, ModelConfig, ResolvedSource, Source
from ax_engines.hardware import Device, Pool, Toolchain
from ax_engines.memory import Split, weights_bytes
from ax_engines.models import CatalogueEntry, context_length
from ax_engines.recipe.formats import FORMATS, READY_MADE, Format
from ax_engines.recipe.sizing import LEAST_CONTEXT, Fit, best_fit, fit, splits
from ax_engines.recipe.types import Wishes

Kv = Literal["model", "fp8", "int8"]
KV_BYTES = {"model": 2.0, "fp8": 1.0, "int8": 1.0}
# Share of the GPUs' memory that weights may take while a format is calibrated; the rest holds activations.
CALIBRATION_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Ask:
    """What is to be served, and how it is wished for."""

    source: Source
    resolved: ResolvedSource
    entry: CatalogueEntry | None
    wishes: Wishes

    @property
    def config(self) -> ModelConfig:
        """The model's real shape."""
        return self.resolved.config

    @property
    def ready_made(self) -> bool:
        """Whether the checkpoint is quantized already and served as it is."""
        return (self.config.quantization or "").lower() in READY_MADE


@dataclass(frozen=True, slots=True)
class Option:
    """Something that would work."""

    pool: Pool
    device: Device
    backend: Backend
    toolchain: Toolchain
    format: Format
    kv: Kv
    calibrates: bool
    build_gpus: int
    fit: Fit

    @property
    def label(self) -> str:
        """The option's name in messages."""
        return f"{self.format.name} on {self.pool.gpu_product} ({self.backend})"


def evaluate(ask: Ask, pool: Pool, device: Device, backend: Backend, toolchain: Toolchain, fmt: Format) -> Option | str:
    """Return the option with its best fit, or why it is none."""
    blocked = _tool_blocks(ask, backend, toolchain, fmt) or _gpu_blocks(device, fmt)
    if blocked:
        return blocked
    kv = _kv(ask, backend, fmt, device)
    if kv not in KV_BYTES:
        return kv
    found = _best(ask, pool, device, backend, fmt, KV_BYTES[kv])
    if isinstance(found, str):
        return found
    calibrates = not ask.ready_made and (fmt.calibrated or (kv != "model" and backend == "tensorrt"))
    if calibrates and ask.wishes.calibration is None:
        return "needs calibration data: set engine.calibration to a data set on a claim"
    calibration_gpus = _calibration_gpus(ask.config, device) if calibrates else 0
    if calibration_gpus > pool.gpus_per_node:
        need = weights_bytes(ask.config) >> 20
        held = pool.gpus_per_node * device.memory_mib
        return f"calibration loads {need} MiB of unquantized weights, one node's GPUs have {held} MiB in all"
    compile_gpus = found.split.ranks if backend == "tensorrt" else 0
    return Option(
        pool=pool,
        device=device,
        backend=backend,
        toolchain=toolchain,
        format=fmt,
        kv="fp8" if kv == "fp8" else "int8" if kv == "int8" else "model",
        calibrates=calibrates,
        build_gpus=max(calibration_gpus, compile_gpus),
        fit=found,
    )


def _tool_blocks(ask: Ask, backend: Backend, toolchain: Toolchain, fmt: Format) -> str | None:
    if ask.ready_made or fmt.name == "none":
        return None
    if backend == "transformers":
        return "transformers serves unquantized weights only"
    if backend == "pytorch" and fmt.pytorch is None:
        return "the pytorch backend has no tool that makes it"
    if backend == "pytorch" and toolchain.model_optimizer is None:
        return f"toolchain {toolchain.name} has no Model-Optimizer, which makes it"
    return None


def _gpu_blocks(device: Device, fmt: Format) -> str | None:
    if not fmt.runs_on(device.sm):
        others = ", ".join(f.name for f in FORMATS.values() if f.runs_on(device.sm))
        return f"runs on {fmt.where}; the GPU has SM {device.sm}, which runs {others}"
    return None


def _kv(ask: Ask, backend: Backend, fmt: Format, device: Device) -> str:
    """Return the KV cache's type, a key of KV_BYTES, or why the wished one is out of the question."""
    wished = ask.wishes.kv_dtype
    if wished == "auto":
        return "fp8" if fmt.fp8_kv and not ask.ready_made and device.sm >= 89 else "model"
    if backend == "transformers":
        return f"transformers keeps the KV cache in the model's type, kvCache.dtype {wished} is not offered"
    if wished == "int8":
        return "int8" if backend == "tensorrt" else "kvCache.dtype int8 is offered by the tensorrt backend only"
    return "fp8" if device.sm >= 89 else f"kvCache.dtype fp8 needs SM 89 or newer, the GPU has SM {device.sm}"


def _best(ask: Ask, pool: Pool, device: Device, backend: Backend, fmt: Format, kv_bytes: float) -> Fit | str:
    """Return the best fit at the whole context, else at the longest shorter one, else why nothing fits."""
    config, wishes = ask.config, ask.wishes
    most = 1 if pool.mig else pool.gpus_per_node
    sizes = list(splits(config, fmt, backend, wishes, device, most))
    possible = [s for s in sizes if isinstance(s, Split)]
    if not possible:
        return next((s for s in sizes if isinstance(s, str)), f"one node has {pool.gpus_per_node} GPUs")
    needed = possible[0].ranks
    if needed > most:
        each = "a slice works alone" if pool.mig else f"one node of the pool has {pool.gpus_per_node}"
        return f"needs {needed} GPUs on one node, {each}"
    full = wishes.max_total_tokens or context_length(config)
    linear_bytes = fmt.linear_bytes * _excess(ask, fmt)
    context = full
    while True:
        fits = [fit(config, fmt, backend, kv_bytes, wishes, device, split, context, linear_bytes) for split in possible]
        best = best_fit(fits)
        if best:
            return best
        if wishes.max_total_tokens or context // 2 < LEAST_CONTEXT:
            return _too_large(fits[-1], device)
        context //= 2


def _excess(ask: Ask, fmt: Format) -> float:
    """Return how much larger the real files are than the language model's count, at least 1.

    A vision tower, for instance, is not in the count.
    """
    computed = weights_bytes(ask.config)
    return max(1.0, ask.resolved.bytes / computed) if fmt.name == "none" else 1.0


def _too_large(widest: Fit, device: Device) -> str:
    budget, ranks = widest.budget, widest.split.ranks
    wanted = budget.kv_bytes_per_token * widest.context >> 20
    where = "one GPU" if ranks == 1 else f"each of {ranks} GPUs"
    return (
        f"{where} has {device.memory_mib} MiB: {budget.weights} for weights, {budget.activations + budget.runtime} for"
        f" activations and runtime leave {max(0, budget.kv_cache)} of the {wanted} that {widest.context} tokens need"
    )


def _calibration_gpus(config: ModelConfig, device: Device) -> int:
    """Return how many GPUs hold the unquantized weights while a format is calibrated; a power of two."""
    need = weights_bytes(config) / (CALIBRATION_SHARE * device.memory_mib * 2**20)
    count = 1
    while count < need:
        count *= 2
    return count
