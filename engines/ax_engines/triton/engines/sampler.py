"""Picks the next token of one choice from its logits, as the OpenAI API and its common extras ask.

Order: form of the answer, bias, penalties, temperature, top-k, top-p, min-p. Log probabilities are the model's own,
before any of these.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ax_engines.wire import Sampling


class Form(Protocol):
    """What tokens the form of an answer allows."""

    def restrict(self, logits: Any) -> None:
        """Forbid, in place, what may not come next."""

    def accept(self, token: int) -> None:
        """Note the token that came."""


@dataclass(frozen=True, slots=True)
class Picked:
    """A token; with log probabilities its own and the most likely ones with theirs, if they were asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Picker:
    """The sampling of one choice and what it remembers of the tokens so far."""

    def __init__(
        self,
        sampling: Sampling,
        index: int,
        prompt: Sequence[int],
        ends: frozenset[int],
        form: Form | None = None,
    ) -> None:
        """`ends` are the tokens that end the answer, which are forbidden for `min_tokens` tokens."""
        self._sampling = sampling
        self._prompt = prompt
        self._ends = sorted(ends)
        self._form = form
        self._made = 0
        self._greedy = sampling.temperature == 0 or sampling.top_k == 1 or sampling.top_p == 0
        self._seed = secrets.randbits(63) if sampling.seed is None else (sampling.seed + index) % 2**63
        self._random: Any = None
        self._counts: Any = None
        self._seen: Any = None
        self._bias: Any = None

    @property
    def plain(self) -> bool:
        """Whether the most likely token is all that is asked for."""
        sampling = self._sampling
        return (
            self._greedy
            and not (self._form or sampling.logit_bias or self._penalized)
            and sampling.logprobs is None
            and sampling.min_tokens <= self._made
        )

    def note(self, token: int) -> None:
        """Remember a token that was picked elsewhere for a plain choice."""
        self._made += 1

    def pick(self, row: Any) -> Picked:
        """Return the next token for one row of logits, which is left as it is.

        Raises ValueError when the form of the answer goes on with what this model has no token for.
        """
        raw = row.float()
        token = int(self._choose(self._adjusted(raw.clone())))
        self._made += 1
        if self._counts is not None:
            self._counts[token] += 1
            self._seen[token] = True
        if self._form:
            self._form.accept(token)
        wanted = self._sampling.logprobs
        if wanted is None:
            return Picked(token)
        known = torch.log_softmax(raw, dim=-1)
        values, tokens = known.topk(min(wanted, len(known)))
        top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
        return Picked(token, float(known[token]), top)

    @property
    def _penalized(self) -> bool:
        sampling = self._sampling
        return bool(
            sampling.presence_penalty or sampling.frequency_penalty or sampling.repetition_penalty not in (None, 1.0)
        )

    def _adjusted(self, logits: Any) -> Any:
        sampling = self._sampling
        if sampling.min_tokens > self._made:
            logits[self._ends] = -torch.inf
        if self._form:
            self._form.restrict(logits)
            if not torch.isfinite(logits).any():
                raise ValueError("the model has no token with which the form of the answer could go on")
        if sampling.logit_bias:
            if self._bias is None:
                self._bias = torch.zeros_like(logits)
                for token, value in sampling.logit_bias.items():
                    self._bias[int(token)] = value
            logits += self._bias
        if self._penalized:
            self._penalize(logits)
        return logits

    def _penalize(self, logits: Any) -> None:
        """Push down what was said (presence, frequency), or said and asked (repetition)."""
        sampling = self._sampling
        if self._counts is None:
            self._counts = torch.zeros_like(logits)
            self._seen = torch.zeros_like(logits, dtype=torch.bool)
            self._seen[torch.tensor(list(self._prompt), device=logits.device)] = True
        repetition = sampling.repetition_penalty or 1.0
        if repetition != 1.0:
            pushed = torch.where(logits > 0, logits / repetition, logits * repetition)
            logits.copy_(torch.where(self._seen, pushed, logits))
        logits -= (sampling.frequency_penalty or 0.0) * self._counts
        logits -= (sampling.presence_penalty or 0.0) * (self._counts > 0)

    def _choose(self, logits: Any) -> Any:
        sampling = self._sampling
        if self._greedy:
            return logits.argmax()
        logits = logits / (1.0 if sampling.temperature is None else sampling.temperature)
        if sampling.top_k and 0 < sampling.top_k < len(logits):
            logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], -torch.inf)
        chances = torch.softmax(logits, dim=-1)
        if sampling.top_p is not None and sampling.top_p < 1:
            ordered, order = chances.sort(descending=True)
            cut = order[ordered.cumsum(-1) - ordered >= sampling.top_p]
            chances[cut] = 0
        if sampling.min_p:
            chances = chances.masked_fill(chances < sampling.min_p * chances.max(), 0)
        if self._random is None:
            self._random = torch.Generator(device=logits.device).manual_seed(self._seed)
        return torch.multinomial(chances, 1, generator=self._random)
