"""From a chosen option to a recipe: artifact, phases, the backend's arguments, requests."""

from __future__ import annotations

from typing import Any

from ax_engines.contract import ArtifactSpec, Limits, Phase, Target, slug
from ax_engines.memory import mib, weights_bytes
from ax_engines.recipe.commands import build_command, checkpoint_command, ptq_command, weight_type
from ax_engines.recipe.options import Ask, Option
from ax_engines.recipe.quantities import mebibytes
from ax_engines.recipe.types import Recipe, Rejected

# Requests of a serving pod: tokenizing and sampling on the host, and pinned buffers per rank.
CPUS_PER_RANK = 2
HOST_MIB = 8192
HOST_MIB_PER_RANK = 4096


def gpu_recipe(
    ask: Ask, option: Option, trust_remote_code: bool, notes: tuple[str, ...], rejected: tuple[Rejected, ...]
) -> Recipe:
    """Return the recipe for an option that was chosen."""
    found, split = option.fit, option.fit.split
    artifact = _artifact(ask, option, trust_remote_code)
    return Recipe(
        backend=option.backend,
        quantization=option.format.name,
        toolchain=option.toolchain.name,
        pool=option.pool.name,
        gpu_product=option.pool.gpu_product,
        gpus=split.ranks,
        tensor=split.tensor,
        pipeline=split.pipeline,
        artifact=artifact,
        slots=found.slots,
        context_length=found.context,
        threads=0,
        engine_args=_engine_args(ask, option),
        cpu_request=ask.wishes.cpu or str(CPUS_PER_RANK * split.ranks),
        memory_request=ask.wishes.memory or mebibytes(HOST_MIB + HOST_MIB_PER_RANK * split.ranks),
        build_cpu_request="2" if option.build_gpus else "500m",
        build_memory_request=mebibytes(_build_memory(ask, option)),
        memory=found.budget,
        capacity_per_replica=found.slots,
        trust_remote_code=trust_remote_code,
        notes=notes,
        rejected=rejected,
    )


def _limits(ask: Ask, option: Option) -> Limits:
    context = option.fit.context
    return Limits(
        max_batch_size=option.fit.slots,
        max_input_tokens=ask.wishes.max_input_tokens or context - 1,
        max_total_tokens=context,
    )


def _artifact(ask: Ask, option: Option, trust_remote_code: bool) -> ArtifactSpec:
    calibration = ask.wishes.calibration if option.calibrates else None
    target = None
    middle: tuple[Phase, ...] = ()
    name = ask.entry.name if ask.entry else ask.source.label
    if option.backend == "tensorrt":
        limits, split = _limits(ask, option), option.fit.split
        version = option.toolchain.tensorrt_llm or ""
        target = Target(
            sm=option.device.sm, tensorrt_llm=version, tensor=split.tensor, pipeline=split.pipeline, limits=limits
        )
        checkpoint = checkpoint_command(option, ask.config, calibration)
        build = build_command(option.format, option.device.sm, version, split, limits, option.fit.step_tokens, name)
        if calibration:
            middle = Phase(name="quantize", commands=(checkpoint,)), Phase(name="compile", commands=(build,))
        else:
            middle = (Phase(name="compile", commands=(checkpoint, build)),)
    elif calibration:
        middle = (Phase(name="quantize", commands=(ptq_command(option, calibration, trust_remote_code),)),)
    return ArtifactSpec(
        slug=slug(name),
        source=ask.source,
        revision=ask.resolved.revision,
        artifact="tensorrt" if option.backend == "tensorrt" else "safetensors",
        architecture=ask.config.architecture,
        bytes=ask.resolved.bytes,
        quantization=option.format.name,
        calibration=calibration,
        target=target,
        toolchain=option.toolchain.name,
        gpus=option.build_gpus,
        gpu_product=option.pool.gpu_product if option.build_gpus else None,
        phases=(Phase(name="fetch"), *middle, Phase(name="publish")),
        trust_remote_code=trust_remote_code,
    )


def _engine_args(ask: Ask, option: Option) -> dict[str, Any]:
    """Return the constructor's arguments; model, tokenizer and remote code are the adaptor's to add."""
    found, split = option.fit, option.fit.split
    if option.backend == "transformers":
        place = "cuda" if split.ranks == 1 else "auto"
        return {"dtype": weight_type(ask.config), "device_map": place, "attn_implementation": "sdpa"}
    common = {
        "tensor_parallel_size": split.tensor,
        "pipeline_parallel_size": split.pipeline,
        "max_batch_size": found.slots,
        "max_num_tokens": found.step_tokens,
        "enable_chunked_prefill": True,
        "guided_decoding_backend": "xgrammar",
        "kv_cache_config": {"enable_block_reuse": True, "free_gpu_memory_fraction": found.free_fraction},
    }
    if option.backend == "tensorrt":  # everything else is in the engine
        return common
    limits = _limits(ask, option)
    kv_type = "fp8" if option.kv == "fp8" else "auto"
    return {
        **common,
        "dtype": "auto" if ask.ready_made or option.calibrates else weight_type(ask.config),
        "max_input_len": limits.max_input_tokens,
        "max_seq_len": limits.max_total_tokens,
        "kv_cache_config": {**common["kv_cache_config"], "dtype": kv_type},  # type: ignore[dict-item]
        "cuda_graph_config": {"max_batch_size": found.slots, "enable_padding": True},
        "enable_iter_perf_stats": True,
    }


def _build_memory(ask: Ask, option: Option) -> int:
    """Return the build Job's host memory in MiB: converting and quantizing read the whole model into it."""
    if option.backend == "tensorrt" or option.calibrates:
        return HOST_MIB + int(1.2 * mib(weights_bytes(ask.config)))
    return 1024
