"""Recipes for CPUs: llama.cpp for GGUF files, transformers where nothing else can; nothing to build but a download."""

from __future__ import annotations

from dataclasses import dataclass

from ax_engines.contract import Artifact, ArtifactSpec, Phase, slug
from ax_engines.hardware import CPU_POOL, Pool, Toolchain
from ax_engines.memory import MemoryBudget, host_budget, mib, weights_bytes
from ax_engines.models import context_length
from ax_engines.recipe.options import Ask
from ax_engines.recipe.quantities import cpu_cores, mebibytes
from ax_engines.recipe.types import Recipe, RefusedError

DEFAULT_CONTEXT = 8192
DEFAULT_SLOTS = 4
MAX_SLOTS = 64


@dataclass(frozen=True, slots=True)
class _HostFit:
    context: int
    slots: int
    threads: int
    budget: MemoryBudget
    notes: tuple[str, ...]


def llamacpp_recipe(ask: Ask, pool: Pool, toolchain: Toolchain) -> Recipe:
    """Return the recipe for a GGUF file on the CPU pool, or raise what to change.

    llama.cpp keeps the KV cache of every slot from the start, so slots times context is memory that is requested.
    """
    if ask.wishes.quantization not in ("auto", "none"):
        message = f"engine.quantization {ask.wishes.quantization} cannot be made from a GGUF file"
        raise RefusedError("InvalidSpec", f"{message}, which is quantized already; use auto, or safetensors")
    found = _fit(ask, pool, ask.resolved.bytes)
    artifact = _artifact(ask, toolchain, "gguf", trust_remote_code=False)
    notes = found.notes
    if ask.wishes.kv_dtype != "auto":
        notes += (f"kvCache.dtype {ask.wishes.kv_dtype} is not used by llama.cpp",)
    return _recipe(ask, toolchain, artifact, found, notes)


def transformers_recipe(ask: Ask, pool: Pool, toolchain: Toolchain, trust_remote_code: bool) -> Recipe:
    """Return the recipe for safetensors on the CPU pool, or raise what to change; for trials, not for traffic."""
    if ask.wishes.quantization not in ("auto", "none"):
        message = f"engine.quantization {ask.wishes.quantization} does not run on CPUs"
        raise RefusedError("InvalidSpec", f"{message}; use auto, or a GPU")
    found = _fit(ask, pool, max(ask.resolved.bytes, weights_bytes(ask.config)))
    notes = (*found.notes, "CPUs serve this model slowly")
    artifact = _artifact(ask, toolchain, "safetensors", trust_remote_code)
    return _recipe(ask, toolchain, artifact, found, notes)


def _fit(ask: Ask, pool: Pool, file_bytes: int) -> _HostFit:
    wishes = ask.wishes
    if (wishes.tensor or 1) > 1 or (wishes.pipeline or 1) > 1:
        raise RefusedError("InvalidSpec", "engine.parallelism needs GPUs; remove it for a model on CPUs")
    limit = context_length(ask.config)
    if wishes.max_total_tokens and wishes.max_total_tokens > limit:
        message = f"engine.limits.maxTotalTokens {wishes.max_total_tokens} exceeds the model's context"
        raise RefusedError("InvalidSpec", f"{message}; use at most {limit}")
    cores = cpu_cores(wishes.cpu or "1")
    if cores is None:
        raise RefusedError("InvalidSpec", f"placement.pod.cpu {wishes.cpu} is not an amount of CPU; write 2 or 500m")
    slots = wishes.max_batch_size or DEFAULT_SLOTS
    if slots > MAX_SLOTS:
        message = f"engine.limits.maxBatchSize {slots} exceeds the {MAX_SLOTS} of a CPU backend"
        raise RefusedError("InvalidSpec", f"{message}; use more replicas instead")
    context = wishes.max_total_tokens or min(limit, DEFAULT_CONTEXT)
    budget = host_budget(ask.config, file_bytes, context, slots)
    if pool.memory_mib and budget.total > pool.memory_mib:
        message = f"{slots} requests of {context} tokens need {budget.total} MiB"
        advice = "lower engine.limits.maxBatchSize or engine.limits.maxTotalTokens"
        raise RefusedError("NoRecipeForGPU", f"{message}, the largest CPU node has {pool.memory_mib} MiB; {advice}")
    notes: tuple[str, ...] = ()
    if context < limit and not wishes.max_total_tokens:
        notes = (f"context {context} of {limit} tokens: memory for every slot is taken at start",)
    return _HostFit(context, slots, max(1, int(cores)), budget, notes)


def _artifact(ask: Ask, toolchain: Toolchain, artifact: Artifact, trust_remote_code: bool) -> ArtifactSpec:
    return ArtifactSpec(
        slug=slug(ask.entry.name if ask.entry else ask.source.label),
        source=ask.source,
        revision=ask.resolved.revision,
        artifact=artifact,
        architecture=ask.config.architecture,
        bytes=ask.resolved.bytes,
        toolchain=toolchain.name,
        phases=(Phase(name="fetch"), Phase(name="publish")),
        trust_remote_code=trust_remote_code,
    )


def _recipe(ask: Ask, toolchain: Toolchain, artifact: ArtifactSpec, found: _HostFit, notes: tuple[str, ...]) -> Recipe:
    gguf = artifact.artifact == "gguf"
    return Recipe(
        backend="llamacpp" if gguf else "transformers",
        quantization="none",
        toolchain=toolchain.name,
        pool=CPU_POOL,
        gpu_product=None,
        gpus=0,
        tensor=1,
        pipeline=1,
        artifact=artifact,
        slots=found.slots,
        context_length=found.context,
        threads=found.threads,
        engine_args={} if gguf else {"dtype": "auto", "device_map": "cpu", "attn_implementation": "sdpa"},
        # A low request lets small models share a machine; the thread count bounds what one of them can take.
        cpu_request=ask.wishes.cpu or "250m",
        memory_request=ask.wishes.memory or mebibytes(found.budget.total),
        build_cpu_request="100m",
        build_memory_request=mebibytes(256 + min(mib(ask.resolved.bytes) // 16, 1024)),
        memory=found.budget,
        capacity_per_replica=found.slots,
        trust_remote_code=artifact.trust_remote_code,
        notes=notes,
    )
