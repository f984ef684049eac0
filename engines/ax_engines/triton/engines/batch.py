"""Choices that a model extends together, one token each per step; they join and leave between steps.

Each row of the KV cache is one choice, padded on its left to the longest; a mask hides the padding and positions
count without it, so a choice's tokens do not depend on its neighbours. Works with every model of transformers that
takes a mask, positions and a growing cache, also with those whose images shift positions (`rope_deltas`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from transformers import DynamicCache

T = TypeVar("T")
TEXT_INPUTS = frozenset({"input_ids", "attention_mask", "mm_token_type_ids"})
"""What a processor makes of text alone."""


@dataclass(eq=False, slots=True)
class Row(Generic[T]):
    """One choice in the batch: whose it is, its tokens in the cache, its position's shift, its next token."""

    owner: T
    length: int
    shift: int
    token: int = 0


class Batch(Generic[T]):
    """The rows that are extended together."""

    def __init__(self, model: Any) -> None:
        self.rows: list[Row[T]] = []
        self._model = model
        self._cache: Any = None
        self._mask: Any = None
        parameters = inspect.signature(model.forward).parameters
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def prefill(self, owner: T, inputs: Mapping[str, Any]) -> tuple[Row[T], Any, Any]:
        """Run a prompt by itself; return its row, its cache and its last logits; the batch is left as it is."""
        out = self._model(**inputs, past_key_values=DynamicCache(), use_cache=True, **self._last_only)
        cache = out.past_key_values
        shift = self._shift(out) if inputs.keys() - TEXT_INPUTS else 0
        return Row(owner, cache.get_seq_length(), shift), cache, out.logits[0, -1]

    def join(self, row: Row[T], cache: Any) -> None:
        """Add a row with the cache that `prefill` returned; its `token` is fed in the next step."""
        mask = torch.ones((1, row.length), dtype=torch.long, device=self._model.device)
        if self.rows:
            width = max(row.length, self._mask.shape[1])
            mask = torch.cat([filled(self._mask, width), filled(mask, width)])
            pairs = zip(self._cache.layers, cache.layers, strict=True)
            cache = cache_of(
                (
                    torch.cat([widened(old.keys, width), widened(new.keys, width)]),
                    torch.cat([widened(old.values, width), widened(new.values, width)]),
                )
                for old, new in pairs
            )
        self._cache, self._mask = cache, mask
        self.rows.append(row)

    def leave(self, gone: Sequence[Row[T]]) -> None:
        """Take rows away, and the padding that nobody needs any more."""
        kept = [at for at, row in enumerate(self.rows) if row not in gone]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[at] for at in kept]
        if not kept:
            self._cache = self._mask = None
            return
        spare = self._mask.shape[1] - max(row.length for row in self.rows)
        layers = self._cache.layers
        self._cache = cache_of((one.keys[kept, :, spare:], one.values[kept, :, spare:]) for one in layers)
        self._mask = self._mask[kept, spare:]

    def step(self) -> Any:
        """Feed every row's token; return the logits of what comes next, one row each; if it fails nothing changes."""
        device = self._model.device
        before = self._mask.shape[1]
        mask = torch.cat([self._mask, self._mask.new_ones((len(self.rows), 1))], dim=1)
        try:
            out = self._model(
                input_ids=torch.tensor([[row.token] for row in self.rows], device=device),
                attention_mask=mask,
                position_ids=torch.tensor([[row.length + row.shift] for row in self.rows], device=device),
                past_key_values=self._cache,
                use_cache=True,
            )
        except Exception:
            self._cache.crop(before)  # the first layers may have grown
            raise
        self._cache, self._mask = out.past_key_values, mask
        for row in self.rows:
            row.length += 1
        return out.logits[:, -1]

    def _shift(self, out: Any) -> int:
        """Return by how much images shift the positions after them; newer versions keep it in the model alone."""
        for holder in (out, self._model, getattr(self._model, "model", None)):
            deltas = getattr(holder, "rope_deltas", None)
            if deltas is not None:
                return int(deltas.reshape(-1)[0])
        return 0


def cache_of(layers: Iterable[tuple[Any, Any]]) -> Any:
    """Return a cache of these keys and values, layer by layer."""
    cache = DynamicCache()
    for at, (keys, values) in enumerate(layers):
        cache.update(keys, values, at)
    return cache


def widened(states: Any, width: int) -> Any:
    """Return keys or values [rows, heads, tokens, size] with zeros on the left up to `width` tokens."""
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[2], 0))


def filled(mask: Any, width: int) -> Any:
    """Return a mask [rows, tokens] with zeros on the left up to `width` tokens."""
    return torch.nn.functional.pad(mask, (width - mask.shape[1], 0))
