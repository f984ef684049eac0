"""The rules of `auto`: which pool, backend, toolchain and format; `docs/recipes.md` tells them to users."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ax_engines.contract import Backend, Quantization, ResolvedSource, Source
from ax_engines.hardware import CPU_POOL, Gpu, Pool, Toolchain, device_of
from ax_engines.memory import Split
from ax_engines.models import CatalogueEntry, context_length
from ax_engines.recipe.backends import GPU_BACKENDS, Blocked, offer, toolchain_for
from ax_engines.recipe.cpu import llamacpp_recipe, transformers_recipe
from ax_engines.recipe.formats import FORMATS, READY_MADE, Format
from ax_engines.recipe.gpu import gpu_recipe
from ax_engines.recipe.options import Ask, Option, evaluate
from ax_engines.recipe.sizing import split_error
from ax_engines.recipe.types import Recipe, Refusal, RefusalReason, RefusedError, Rejected, Wishes

# Formats that `auto` may pick for a model without a catalogue entry.
INDISTINCT = 0.1
"""Concurrencies closer than this share are equal as far as the estimate can tell."""
USUAL_FORMATS: tuple[Quantization, ...] = ("none", "fp8")


def recipe(
    source: Source,
    resolved: ResolvedSource,
    entry: CatalogueEntry | None,
    wishes: Wishes,
    pools: Sequence[Pool],
    toolchains: Sequence[Toolchain],
    gpus: Sequence[Gpu],
) -> Recipe | Refusal:
    """Return how to make and serve a model, or the reason why it cannot be and what to change.

    Deterministic, and independent of how many GPUs are free: a plan that followed them would rebuild whenever
    something else came or went.
    """
    ask = Ask(source, resolved, entry, wishes)
    try:
        if resolved.format == "gguf":
            return _for_gguf(ask, pools, toolchains)
        _check(ask)
        if _wants_cpu(wishes, pools):
            return _on_cpus(ask, pools, toolchains)
        return _on_gpus(ask, _wanted_pools(wishes, pools), toolchains, gpus)
    except RefusedError as refused:
        return refused.refusal


def _for_gguf(ask: Ask, pools: Sequence[Pool], toolchains: Sequence[Toolchain]) -> Recipe:
    wishes = ask.wishes
    if wishes.backend not in ("auto", "llamacpp"):
        message = f"engine.backend {wishes.backend} cannot read a GGUF file; use auto or llamacpp"
        raise RefusedError("InvalidSpec", message)
    if wishes.gpu not in ("auto", CPU_POOL):
        message = f"placement.gpu {wishes.gpu} is of no use to a GGUF file, which runs on CPUs; remove it"
        raise RefusedError("InvalidSpec", message)
    toolchain = toolchain_for("llamacpp", wishes, toolchains, gpu=False)
    if isinstance(toolchain, Blocked):
        raise RefusedError(toolchain.reason, toolchain.message)
    return llamacpp_recipe(ask, _cpu_pool(pools), toolchain)


def _wants_cpu(wishes: Wishes, pools: Sequence[Pool]) -> bool:
    """CPUs serve safetensors only when they are asked for, or for transformers where there is no GPU at all."""
    no_gpus = all(pool.is_cpu for pool in pools)
    return wishes.gpu == CPU_POOL or (wishes.backend == "transformers" and wishes.gpu == "auto" and no_gpus)


def _on_cpus(ask: Ask, pools: Sequence[Pool], toolchains: Sequence[Toolchain]) -> Recipe:
    backend: Backend = "transformers" if ask.wishes.backend == "auto" else ask.wishes.backend
    toolchain = offer(backend, ask.config, None, ask.wishes, toolchains)
    if isinstance(toolchain, Blocked):
        raise RefusedError(toolchain.reason, f"backend {backend} on CPUs: {toolchain.message}")
    return transformers_recipe(ask, _cpu_pool(pools), toolchain, _trusts(ask))


def _cpu_pool(pools: Sequence[Pool]) -> Pool:
    pool = next((pool for pool in pools if pool.is_cpu), None)
    if pool is None:
        raise RefusedError("NoSuchPool", "there is no CPU pool; add a node that takes ordinary pods")
    return pool


def _wanted_pools(wishes: Wishes, pools: Sequence[Pool]) -> list[Pool]:
    """Return the GPU pools to look at: all of them, or those of the product (or pool name) that is wished for."""
    having = [pool for pool in pools if not pool.is_cpu]
    if not having:
        message = "no node that this model may use offers GPUs (label nvidia.com/gpu.product); add one, or see"
        raise RefusedError("NoSuchPool", f"{message} placement.nodeSelector and placement.tolerations")
    wanted = [pool for pool in having if wishes.gpu in ("auto", pool.gpu_product, pool.name)]
    if not wanted:
        names = ", ".join(sorted({str(pool.gpu_product) for pool in having}))
        message = f"placement.gpu {wishes.gpu}: no node that this model may use has it; there are {names}"
        raise RefusedError("NoSuchPool", message)
    return wanted


def _check(ask: Ask) -> None:
    """Refuse wishes that no pool could fulfil, naming value, limit and choices."""
    wishes, config = ask.wishes, ask.config
    if wishes.backend == "llamacpp":
        raise RefusedError("InvalidSpec", "engine.backend llamacpp serves GGUF files, the source has safetensors")
    full = context_length(config)
    if wishes.max_total_tokens and wishes.max_total_tokens > full:
        message = f"engine.limits.maxTotalTokens {wishes.max_total_tokens} exceeds the model's context"
        raise RefusedError("InvalidSpec", f"{message} as its config states it; use at most {full}")
    if wishes.max_input_tokens and wishes.max_input_tokens >= (wishes.max_total_tokens or full):
        total = wishes.max_total_tokens or full
        message = f"engine.limits.maxInputTokens {wishes.max_input_tokens} leaves no room for an answer"
        raise RefusedError("InvalidSpec", f"{message}; use less than {total}")
    _check_format(ask)
    if wishes.tensor or wishes.pipeline:
        _check_split(ask)
    if wishes.calibration:
        path = wishes.calibration.path
        if path.startswith("/") or ".." in path.split("/"):
            message = f"engine.calibration.path {path} has to lie below the claim's root; remove the .. or the /"
            raise RefusedError("InvalidSpec", message)


def _check_format(ask: Ask) -> None:
    wishes, given = ask.wishes, ask.config.quantization
    if given and ask.ready_made:
        own = READY_MADE[given.lower()]
        if wishes.quantization not in ("auto", "none", own):
            message = f"engine.quantization {wishes.quantization}: the checkpoint is quantized as {given} already"
            raise RefusedError("InvalidSpec", f"{message} and served as it is; use auto")
        return
    if wishes.quantization != "auto" and FORMATS[wishes.quantization].calibrated and not wishes.calibration:
        message = f"engine.quantization {wishes.quantization} needs calibration data; set engine.calibration"
        others = ", ".join(f.name for f in FORMATS.values() if not f.calibrated)
        raise RefusedError("InvalidSpec", f"{message} to a data set on a claim, or use one of {others}")


def _check_split(ask: Ask) -> None:
    split = Split(ask.wishes.tensor or 1, ask.wishes.pipeline or 1)
    formats = list(_formats(ask))
    error = split_error(ask.config, formats[0], split)
    if error and all(split_error(ask.config, fmt, split) for fmt in formats):
        fmt = formats[0]
        tensors = [str(t) for t in range(1, 17) if split_error(ask.config, fmt, Split(t, 1)) is None]
        pipelines = [str(p) for p in range(1, 17) if split_error(ask.config, fmt, Split(1, p)) is None]
        choices = f"tensor can be {', '.join(tensors)}; pipeline {', '.join(pipelines)}"
        if not tensors:
            fitting = [f.name for f in FORMATS.values() if split_error(ask.config, f, Split(1)) is None]
            choices = f"no split of this model takes {fmt.name}; use engine.quantization {', '.join(fitting)}"
        raise RefusedError("InvalidSpec", f"engine.parallelism: {error}; {choices}")


def _formats(ask: Ask) -> Iterator[Format]:
    """Yield the formats that are looked at: the wished one, the checkpoint's own, or the recommended ones."""
    given = ask.config.quantization
    if given and ask.ready_made:
        yield FORMATS[READY_MADE[given.lower()]]
    elif ask.wishes.quantization != "auto":
        yield FORMATS[ask.wishes.quantization]
    else:
        recommended = ask.entry.quantizations if ask.entry else USUAL_FORMATS
        yield from (FORMATS[name] for name in recommended)
        if ask.wishes.prefer == "quality" and "none" not in recommended:
            yield FORMATS["none"]


def _trusts(ask: Ask) -> bool:
    """Whether the repository's own code runs: the author or the catalogue says so, and a commit pins it."""
    if not (ask.wishes.trust_remote_code or (ask.entry is not None and ask.entry.trust_remote_code)):
        return False
    if not re.fullmatch(r"[0-9a-f]{40}", ask.resolved.revision):
        message = "the model runs code of its repository, which has to be pinned to a commit"
        raise RefusedError("InvalidSpec", f"{message}; use a huggingFace source")
    return True


def _on_gpus(ask: Ask, pools: list[Pool], toolchains: Sequence[Toolchain], gpus: Sequence[Gpu]) -> Recipe:
    rejected: dict[Rejected, None] = {}
    reasons: set[RefusalReason] = set()
    options: list[Option] = []
    for pool in pools:
        device = device_of(pool, gpus)
        if device is None or pool.shared:
            why = "pods would share its memory" if pool.shared else "neither labels nor the table tell its memory"
            rejected[Rejected(str(pool.gpu_product), why)] = None
            reasons.add("NoRecipeForGPU")
            continue
        chosen = _backend(ask, pool, device.sm, toolchains, rejected, reasons)
        if chosen is None:
            continue
        backend, toolchain = chosen
        for fmt in _formats(ask):
            found = evaluate(ask, pool, device, backend, toolchain, fmt)
            if isinstance(found, Option):
                options.append(found)
            else:
                label = f"{fmt.name} on {pool.gpu_product} ({backend})"
                rejected[Rejected(label, found)] = None
                reasons.add("NoRecipeForGPU")
    if not options:
        raise RefusedError(_worst(reasons), _summary(ask, rejected), tuple(rejected))
    return _choose(ask, options, list(rejected))


def _backend(
    ask: Ask,
    pool: Pool,
    sm: int,
    toolchains: Sequence[Toolchain],
    rejected: dict[Rejected, None],
    reasons: set[RefusalReason],
) -> tuple[Backend, Toolchain] | None:
    """Return the first backend that serves this model on this GPU, noting why those before it do not."""
    wished = ask.wishes.backend
    for backend in GPU_BACKENDS if wished == "auto" else (wished,):
        toolchain = offer(backend, ask.config, sm, ask.wishes, toolchains)
        if isinstance(toolchain, Toolchain):
            return backend, toolchain
        of_gpu = toolchain.reason == "NoRecipeForGPU"
        option = f"backend {backend} on {pool.gpu_product}" if of_gpu else f"backend {backend}"
        rejected[Rejected(option, toolchain.message)] = None
        reasons.add(toolchain.reason)
    return None


def _worst(reasons: set[RefusalReason]) -> RefusalReason:
    """A GPU that does not fit is said first, since another GPU is what helps; then the toolchain, then the spec."""
    order: tuple[RefusalReason, ...] = ("NoRecipeForGPU", "ToolchainIncompatible", "InvalidSpec")
    return next(reason for reason in order if reason in reasons)


def _summary(ask: Ask, rejected: dict[Rejected, None]) -> str:
    lines = [f"{r.option}: {r.reason}" for r in rejected]
    shown = "; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else "")
    name = ask.entry.name if ask.entry else ask.source.label
    return f"nothing serves {name} here: {shown}"


def _choose(ask: Ask, options: list[Option], rejected: list[Rejected]) -> Recipe:
    """Take the option that the preference asks for, and tell of each other one why it was not taken.

    The longest context comes first. Then `throughput` takes the most concurrency per GPU, and where the estimate
    cannot tell options apart, the more precise one; `quality` takes precision first.
    """
    quality = ask.wishes.prefer == "quality"
    longest = [o for o in options if o.fit.context == max(o.fit.context for o in options)]
    if quality:
        most_precise = min(o.format.precision for o in longest)
        longest = [o for o in longest if o.format.precision == most_precise]
    most = max(o.fit.concurrency for o in longest)
    equal = [o for o in longest if o.fit.concurrency >= (1 - INDISTINCT) * most]
    best = min(equal, key=lambda o: (o.format.precision, o.fit.split.ranks, -o.device.bandwidth_gb_s))
    rejected += [Rejected(o.label, _why_not(o, best, quality)) for o in options if o is not best]
    full = ask.wishes.max_total_tokens or context_length(ask.config)
    return gpu_recipe(ask, best, _trusts(ask), tuple(_notes(ask, best, full)), tuple(rejected))


def _why_not(other: Option, best: Option, quality: bool) -> str:
    if other.fit.context < best.fit.context:
        return f"fits a context of {other.fit.context} tokens only"
    if quality and other.format.precision > best.format.precision:
        return f"less precise than {best.format.name}, which fits too"
    mine, theirs = other.fit.concurrency, best.fit.concurrency
    close = ", which is too close to tell apart" if mine >= (1 - INDISTINCT) * theirs else ""
    return f"{mine:.2f} full-context requests per GPU with {other.fit.split.ranks}, the choice has {theirs:.2f}{close}"


def _notes(ask: Ask, option: Option, full: int) -> Iterator[str]:
    found = option.fit
    if found.context < full:
        yield f"context shortened from {full} to {found.context} tokens, which is what fits {option.pool.gpu_product}"
    if ask.ready_made:
        yield f"the checkpoint is quantized as {ask.config.quantization} and served as it is"
    if option.build_gpus > found.split.ranks:
        yield f"calibration needs {option.build_gpus} GPUs of one node, serving {found.split.ranks}"
    if option.backend == "tensorrt":
        yield "TensorRT-LLM has dropped engines after 1.2: plan a move to backend pytorch, which is an ordinary roll"
    if option.kv == "fp8" and option.backend == "pytorch" and not option.calibrates:
        yield "the FP8 KV cache runs without calibrated scales"
    if option.backend == "transformers":
        yield "transformers serves few requests at once; it is for models that TensorRT-LLM does not support"
