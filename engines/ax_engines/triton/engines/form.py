"""The form of an answer, JSON or JSON of a schema, kept token by token through xgrammar."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import import_module
from typing import Any


class GrammarForm:
    """Where an answer stands in its form."""

    def __init__(self, compiled: Any, vocabulary: int) -> None:
        xgrammar = import_module("xgrammar")
        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._allowed = xgrammar.allocate_token_bitmask(1, vocabulary)
        self._apply = xgrammar.apply_token_bitmask_inplace

    def restrict(self, logits: Any) -> None:
        """Forbid, in place, what the form does not allow next."""
        if not self._matcher.is_terminated():
            self._matcher.fill_next_token_bitmask(self._allowed)
            self._apply(logits.unsqueeze(0), self._allowed.to(logits.device))

    def accept(self, token: int) -> None:
        """Note the token that came."""
        if not self._matcher.is_terminated():
            self._matcher.accept_token(token)


def form_of(guided: dict[str, Any], tokenizer: Any, model: Any) -> GrammarForm:
    """Return the form that a request asks for; raises ValueError when it cannot be kept."""
    vocabulary = model.config.get_text_config().vocab_size
    try:
        compiler = compiler_of(tokenizer, vocabulary)
    except ImportError as error:
        raise ValueError("this image has no xgrammar, so the form of an answer cannot be kept") from error
    schema = guided.get("json")
    try:
        if schema is None:
            compiled = compiler.compile_builtin_json_grammar()
        else:
            compiled = compiler.compile_json_schema(json.dumps(schema))
    except RuntimeError as error:
        raise ValueError(f"the form of the answer cannot be kept: {error}") from error
    return GrammarForm(compiled, vocabulary)


@lru_cache(maxsize=1)
def compiler_of(tokenizer: Any, vocabulary: int) -> Any:
    """Return the compiler for a model's tokens, made once."""
    xgrammar = import_module("xgrammar")  # only this engine's image has it
    return xgrammar.GrammarCompiler(xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary))
