"""What every adaptor that counts tokens itself does with one choice: refuse, cut at stop strings, end exactly once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ax_engines.triton.adaptor import OnAnswer
from ax_engines.triton.stops import StopFilter
from ax_engines.wire import Chunk, EngineError, Finish, Sampling, Usage

BROKEN = "\ufffd"
"""What tokenizers print for bytes that are no character yet."""


class Choice:
    """One choice on its way out; used by one thread at a time.

    `prompt_tokens` and `cached_tokens` are the adaptor's to set before the first text.
    """

    def __init__(self, index: int, sampling: Sampling, on_answer: OnAnswer) -> None:
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.ended = False
        self._index = index
        self._on_answer = on_answer
        self._stops = StopFilter(sampling.stop, include=sampling.include_stop)
        self._sent = ""
        self._tokens = 0
        self._unsent_tokens = 0

    def add(self, text: str, tokens: int = 1, logprobs: list[dict[str, Any]] | None = None) -> bool:
        """Send new text of `tokens` tokens; True when a stop string has ended the choice."""
        self._tokens += tokens
        self._unsent_tokens += tokens
        ready, stopped = self._stops.push(text)
        if stopped:
            self._finish(ready, "stop", logprobs)
        elif ready or logprobs:
            self._send(Chunk(self._index, ready, self._take_tokens(), None, None, logprobs))
        return stopped

    def add_until(self, text: str, tokens: int, logprobs: list[dict[str, Any]] | None = None) -> bool:
        """Send what is new of an answer told from its beginning; half a character waits for its other half."""
        whole = text.rstrip(BROKEN)
        new = whole[len(self._sent) :]
        self._sent += new
        return self.add(new, tokens - self._tokens, logprobs)

    def withheld(self, text: str) -> str:
        """Return the end of a whole answer that `add_until` has not sent."""
        return text[len(self._sent) :]

    def end(self, finish: Finish, rest: str = "") -> None:
        """Send the last chunk, with `rest` and what was held back; nothing happens when the choice has ended."""
        if self.ended:
            return
        if finish != "cancelled":
            ready, stopped = self._stops.push(rest)
            rest = ready if stopped else ready + self._stops.flush()
        self._finish(rest, finish, None)

    def fail(self, error: EngineError) -> None:
        """Send an error as the last answer; nothing happens when the choice has ended."""
        if not self.ended:
            self.ended = True
            self._on_answer(error)

    def _finish(self, text: str, finish: Finish, logprobs: list[dict[str, Any]] | None) -> None:
        self.ended = True
        usage = Usage(self.prompt_tokens, self._tokens, self.cached_tokens)
        self._send(Chunk(self._index, text, self._take_tokens(), finish, usage, logprobs))

    def _take_tokens(self) -> int:
        tokens, self._unsent_tokens = self._unsent_tokens, 0
        return tokens

    def _send(self, chunk: Chunk) -> None:
        self._on_answer(chunk)


def refuse_size(prompt_tokens: int, max_tokens: int, context: int) -> EngineError | None:
    """Return the 400 for a prompt that leaves no room for the answer that was asked for, else None."""
    if not prompt_tokens:
        return EngineError(400, "The prompt is empty.", "invalid_prompt")
    room = context - prompt_tokens
    if room >= max(1, max_tokens):
        return None
    asked = f" and {max_tokens} were asked for the answer" if room >= 1 else ""
    return EngineError(
        400,
        f"This model's context is {context} tokens; the prompt has {prompt_tokens}{asked}. "
        "Shorten the messages or lower max_tokens.",
        "context_length_exceeded",
    )


def refuse_fields(engine: str, asked: Mapping[str, object]) -> EngineError | None:
    """Return the 400 for the first field that was asked for and that the engine has no means for, else None."""
    name = next((name for name, value in asked.items() if value), None)
    return EngineError(400, f"{engine} does not know '{name}'; leave it out.", "unsupported") if name else None


def token_logprob(token: str, logprob: float) -> dict[str, Any]:
    """Return one token's log probability as the wire carries it."""
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}
