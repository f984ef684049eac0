"""Recipes for GGUF files: llama.cpp on CPUs, nothing to build but the download."""

from __future__ import annotations

from ax_engines.contract import ArtifactSpec, Phase, ResolvedSource, Source, slug
from ax_engines.hardware import CPU_POOL, Pool, Toolchain
from ax_engines.memory import host_budget, mib
from ax_engines.models import CatalogueEntry, context_length
from ax_engines.recipe.quantities import cpu_cores, mebibytes
from ax_engines.recipe.types import Recipe, RefusedError, Wishes

DEFAULT_CONTEXT = 8192
DEFAULT_SLOTS = 4
MAX_SLOTS = 64


def llamacpp_recipe(
    source: Source,
    resolved: ResolvedSource,
    entry: CatalogueEntry | None,
    wishes: Wishes,
    pool: Pool,
    toolchain: Toolchain,
) -> Recipe:
    """Return the recipe for a GGUF file on the CPU pool, or raise what to change.

    llama.cpp keeps the KV cache of every slot from the start, so slots times context is memory that is requested.
    """
    if wishes.quantization not in ("auto", "none"):
        message = (
            f"a GGUF file is quantized already, engine.quantization {wishes.quantization} cannot be made from it"
        )
        raise RefusedError("InvalidSpec", f"{message}; use auto, or a source with safetensors")
    if (wishes.tensor or 1) > 1 or (wishes.pipeline or 1) > 1:
        raise RefusedError("InvalidSpec", "engine.parallelism needs GPUs; remove it for a GGUF file")
    limit = context_length(resolved.config)
    if wishes.max_total_tokens and wishes.max_total_tokens > limit:
        message = f"engine.limits.maxTotalTokens {wishes.max_total_tokens} exceeds the model's context"
        raise RefusedError("InvalidSpec", f"{message}; use at most {limit}")
    cores = cpu_cores(wishes.cpu or "1")
    if cores is None:
        raise RefusedError(
            "InvalidSpec", f"placement.pod.cpu {wishes.cpu} is not an amount of CPU; write 2 or 500m"
        )
    slots = wishes.max_batch_size or DEFAULT_SLOTS
    if slots > MAX_SLOTS:
        message = f"engine.limits.maxBatchSize {slots} exceeds llama.cpp's {MAX_SLOTS}"
        raise RefusedError("InvalidSpec", f"{message}; use more replicas instead")
    context = wishes.max_total_tokens or min(limit, DEFAULT_CONTEXT)
    budget = host_budget(resolved.config, resolved.bytes, context, slots)
    if pool.memory_mib and budget.total > pool.memory_mib:
        message = f"{slots} requests of {context} tokens need {budget.total} MiB"
        advice = "lower engine.limits.maxBatchSize or engine.limits.maxTotalTokens"
        raise RefusedError(
            "NoRecipeForGPU", f"{message}, the largest CPU node has {pool.memory_mib} MiB; {advice}"
        )
    notes = []
    if context < limit and not wishes.max_total_tokens:
        notes.append(f"context {context} of {limit} tokens: memory for every slot is taken at start")
    if wishes.kv_dtype != "auto":
        notes.append(f"kvCache.dtype {wishes.kv_dtype} is not used by llama.cpp")
    artifact = ArtifactSpec(
        slug=slug(entry.name if entry else source.label),
        source=source,
        revision=resolved.revision,
        artifact="gguf",
        architecture=resolved.config.architecture,
        bytes=resolved.bytes,
        toolchain=toolchain.name,
        phases=(Phase(name="fetch"), Phase(name="publish")),
    )
    return Recipe(
        backend="llamacpp",
        quantization="none",
        toolchain=toolchain.name,
        pool=CPU_POOL,
        gpu_product=None,
        gpus=0,
        tensor=1,
        pipeline=1,
        artifact=artifact,
        slots=slots,
        context_length=context,
        threads=max(1, int(cores)),
        engine_args={},
        # A low request lets small models share a machine; the thread count bounds what one of them can take.
        cpu_request=wishes.cpu or "250m",
        memory_request=wishes.memory or mebibytes(budget.total),
        build_cpu_request="100m",
        build_memory_request=mebibytes(256 + min(mib(resolved.bytes) // 16, 1024)),
        memory=budget,
        capacity_per_replica=slots,
        notes=tuple(notes),
    )
