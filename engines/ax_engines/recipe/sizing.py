"""How many GPUs, which split, how long a context and how many requests: what fits a pool's GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ax_engines.contract import Backend, ModelConfig
from ax_engines.hardware import Device
from ax_engines.memory import MemoryBudget, Split, gpu_budget
from ax_engines.recipe.formats import Format
from ax_engines.recipe.types import Wishes

FREE_FRACTION = 0.9
STEP_TOKENS = 8192
"""Most tokens that one step computes; longer prompts are cut into chunks."""
MAX_SLOTS = 256
TRANSFORMERS_SLOTS = 8
WORKING_TOKENS = 2048
"""Tokens that a request holds on average, for choosing how many may run at once."""
LEAST_CONTEXT = 4096
"""`auto` does not shorten a context below this to make a model fit."""
GOOD_SHARE = 0.5
"""A larger group of GPUs is only worth it if a smaller one does not reach this share of its concurrency per GPU."""


@dataclass(frozen=True, slots=True)
class Fit:
    """One split that fits, with its limits; `concurrency` is full-context requests per GPU."""

    split: Split
    context: int
    slots: int
    step_tokens: int
    free_fraction: float
    budget: MemoryBudget

    @property
    def concurrency(self) -> float:
        """Requests of the whole context that fit at once, per GPU."""
        return self.budget.concurrency(self.context) / self.split.ranks


def split_error(config: ModelConfig, fmt: Format, split: Split) -> str | None:
    """Return why the model cannot be split this way, None if it can."""
    tensor, heads, kv_heads = split.tensor, config.num_attention_heads, config.num_key_value_heads
    if heads % tensor:
        return f"{tensor} tensor ranks do not divide {heads} attention heads"
    if kv_heads % tensor and tensor % kv_heads:
        return f"{tensor} tensor ranks neither divide {kv_heads} key/value heads nor are a multiple of them"
    for what, size in (("feed-forward", config.intermediate_size), ("attention", heads * config.head_dim)):
        if size % tensor or size // tensor % fmt.group:
            share = f"{what} size {size}" if tensor == 1 else f"{size / tensor:g}, {what} size {size} over {tensor},"
            return f"{share} is no multiple of {fmt.group}, the group of {fmt.name}"
    if config.num_hidden_layers % split.pipeline:
        return f"{split.pipeline} pipeline ranks do not divide {config.num_hidden_layers} layers"
    return None


def splits(
    config: ModelConfig, fmt: Format, backend: Backend, wishes: Wishes, device: Device, most: int
) -> Iterator[Split | str]:
    """Yield the splits to try, fewest GPUs first, and a reason for every size that none exists for.

    A wish fixes its part. Otherwise sizes are powers of two; tensor ranks are preferred up to the GPUs that NVLink
    joins (2 without it), the rest are pipeline ranks.
    """
    if backend == "transformers":  # spreads layers over GPUs by itself
        yield from (Split(1, n) for n in _powers(most) if n <= config.num_hidden_layers)
        return
    if wishes.tensor is not None:
        split = Split(wishes.tensor, wishes.pipeline or 1)
        yield split_error(config, fmt, split) or split
        return
    reach = max(2, device.nvlink)
    for size in _powers(most):
        pipelines = [wishes.pipeline] if wishes.pipeline else _powers(size)
        tried = [Split(size // p, p) for p in pipelines if size % p == 0 and size // p <= reach]
        valid = next((s for s in tried if split_error(config, fmt, s) is None), None)
        if valid:
            yield valid
        elif tried:
            yield str(split_error(config, fmt, tried[0]))


def _powers(most: int) -> list[int]:
    return [2**k for k in range(most.bit_length()) if 2**k <= most]


def fit(
    config: ModelConfig,
    fmt: Format,
    backend: Backend,
    kv_bytes: float,
    wishes: Wishes,
    device: Device,
    split: Split,
    context: int,
    linear_bytes: float,
) -> Fit:
    """Return limits and budget of one split; whether they suffice is the caller's to see."""
    fraction = wishes.free_memory_fraction or FREE_FRACTION
    batch = wishes.max_batch_size or (TRANSFORMERS_SLOTS if backend == "transformers" else MAX_SLOTS)
    step = max(STEP_TOKENS, batch)
    if backend == "transformers":  # computes a prompt in one go
        step = context
    budget = gpu_budget(config, device.memory_mib, backend, split, linear_bytes, kv_bytes, step, batch, fraction)
    held = context if backend == "transformers" else min(context, WORKING_TOKENS)
    room = max(1, budget.kv_tokens // held)
    slots = wishes.max_batch_size or min(batch, 2 ** (room.bit_length() - 1))
    return Fit(split, context, slots, step, fraction, budget)


def best_fit(fits: list[Fit]) -> Fit | None:
    """Return the fewest GPUs that reach a good share of the best concurrency per GPU, None if nothing fits.

    Concurrency per GPU grows with every GPU that shares the weights, but so do waiting for each other and what one
    broken GPU stops; half of the best is where more GPUs in one replica stop being worth it.
    """
    good = [f for f in fits if f.budget.kv_tokens >= f.context]
    if not good:
        return None
    best = max(f.concurrency for f in good)
    return min((f for f in good if f.concurrency >= GOOD_SHARE * best), key=lambda f: f.split.ranks)
