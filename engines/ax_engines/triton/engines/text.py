"""Tokens to text, as they come."""

from __future__ import annotations

from typing import Any

from ax_engines.triton.engines.choice import BROKEN

PATIENCE = 8
"""Tokens after which bytes that are no character yet never will be: a character has four bytes at most."""


class Text:
    """Turns tokens into text as they come, whole characters only."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._begin = 0
        self._told = 0

    def push(self, token: int) -> str:
        """Return what can be said now; a token's text may depend on the one before it, so both are decoded."""
        self._tokens.append(token)
        new = self._new()
        if not new or (new.endswith(BROKEN) and len(self._tokens) - self._told < PATIENCE):
            return ""
        self._begin, self._told = self._told, len(self._tokens)
        return new

    def rest(self) -> str:
        """Return what was held back, when nothing more comes."""
        return self._new()

    def _new(self) -> str:
        known = self.decode(self._tokens[self._begin : self._told])
        return self.decode(self._tokens[self._begin :])[len(known) :]

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, without special ones."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
