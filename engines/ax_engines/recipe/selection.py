"""The rules of `auto`: backend, toolchain, pool, format, ranks and limits."""

from __future__ import annotations

from collections.abc import Sequence

from ax_engines.contract import Backend, ResolvedSource, Source
from ax_engines.hardware import CPU_POOL, Gpu, Pool, Toolchain
from ax_engines.models import CatalogueEntry
from ax_engines.recipe.llamacpp import llamacpp_recipe
from ax_engines.recipe.types import Recipe, Refusal, RefusedError, Wishes


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
    try:
        if resolved.format == "gguf":
            return _for_gguf(source, resolved, entry, wishes, pools, toolchains)
        return Refusal("NoRecipeForGPU", "recipes for safetensors are not written yet")
    except RefusedError as refused:
        return refused.refusal


def _for_gguf(
    source: Source,
    resolved: ResolvedSource,
    entry: CatalogueEntry | None,
    wishes: Wishes,
    pools: Sequence[Pool],
    toolchains: Sequence[Toolchain],
) -> Recipe:
    if wishes.backend not in ("auto", "llamacpp"):
        message = f"engine.backend {wishes.backend} cannot read a GGUF file; use auto or llamacpp"
        raise RefusedError("InvalidSpec", message)
    if wishes.gpu not in ("auto", CPU_POOL):
        message = f"placement.gpu {wishes.gpu} is of no use to a GGUF file, which runs on CPUs; remove it"
        raise RefusedError("InvalidSpec", message)
    pool = next((pool for pool in pools if pool.is_cpu), None)
    if pool is None:
        raise RefusedError("NoSuchPool", "there is no CPU pool; add a node that takes ordinary pods")
    toolchain = toolchain_for("llamacpp", wishes, toolchains)
    return llamacpp_recipe(source, resolved, entry, wishes, pool, toolchain)


def toolchain_for(backend: Backend, wishes: Wishes, toolchains: Sequence[Toolchain]) -> Toolchain:
    """Return the first toolchain of the list that offers the backend, or the one that is wished for."""
    offered = ", ".join(f"{t.name} ({', '.join(t.backends)})" for t in toolchains) or "none"
    named = [t for t in toolchains if wishes.toolchain in (None, t.name)]
    if not named:
        message = f"engine.toolchain {wishes.toolchain} is not in the chart's list; it has {offered}"
        raise RefusedError("ToolchainIncompatible", message)
    chosen = next((t for t in named if backend in t.backends), None)
    if chosen is None:
        who = f"toolchain {wishes.toolchain} does not offer" if wishes.toolchain else "no toolchain offers"
        raise RefusedError("ToolchainIncompatible", f"{who} backend {backend}; the chart lists {offered}")
    return chosen
