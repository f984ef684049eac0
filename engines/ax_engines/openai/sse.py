"""Server-sent events of a stream, made once per response of the engine. Pure.

The constant parts of a text event are made once per choice, because this runs for every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from json.encoder import encode_basestring as quote
from typing import Any, Protocol

from ax_engines.openai.answers import Choice, chat_logprobs, completion_logprobs, to_json
from ax_engines.openai.errors import ApiError
from ax_engines.openai.tools import CallArguments, CallStart, Text
from ax_engines.wire import Chunk

DONE = b"data: [DONE]\n\n"


class Events(Protocol):
    """What turns chunks into events."""

    def head(self) -> dict[str, Any]:
        """Return what every event begins with."""

    def of(self, choice: Choice, chunks: Sequence[Chunk]) -> bytes:
        """Return the events of one choice's chunks."""

    def tell(self, usage: tuple[int, int] | None) -> None:
        """Put this usage (prompt, completion) into the next events; None puts what the client asked for."""


class ChatEvents:
    """Events of a chat: the first of each choice names the role, the last one why it ended."""

    def __init__(self, request_id: str, model: str, created: int, usage: bool) -> None:
        head = {"id": request_id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._head = head
        self._start = f'data: {to_json(head)[:-1]},"choices":[{{"index":'
        self._plain = self._tail = ',"usage":null}\n\n' if usage else "}\n\n"
        self._begun: set[int] = set()

    def head(self) -> dict[str, Any]:
        """Return what every event begins with."""
        return self._head

    def tell(self, usage: tuple[int, int] | None) -> None:
        """Put this usage (prompt, completion) into the next events; None puts what the client asked for."""
        self._tail = _usage_tail(*usage) if usage else self._plain

    def of(self, choice: Choice, chunks: Sequence[Chunk]) -> bytes:
        """Return the events of one choice's chunks."""
        seen = len(choice.logprobs)
        out = []
        if choice.index not in self._begun:
            self._begun.add(choice.index)
            out.append(self._event(choice, '{"role":"assistant","content":""}'))
        events = choice.take(chunks)
        logprobs = chat_logprobs(choice.logprobs[seen:]) if choice.logprobs else None
        for event in events:
            if isinstance(event, Text):
                out.append(self._event(choice, f'{{"content":{quote(event.text)}}}', logprobs))
                logprobs = None
            elif isinstance(event, CallStart | CallArguments):
                out.append(self._event(choice, to_json({"tool_calls": [choice.call_delta(event)]})))
        if choice.finish:
            out.append(self._event(choice, "{}", logprobs, f'"{choice.finish}"'))
        return "".join(out).encode()

    def _event(self, choice: Choice, delta: str, logprobs: Any = None, finish: str = "null") -> str:
        known = to_json(logprobs) if logprobs else "null"
        rest = f'{choice.index},"delta":{delta},"logprobs":{known},"finish_reason":{finish}}}]'
        return self._start + rest + self._tail


class CompletionEvents:
    """Events of a completion."""

    def __init__(self, request_id: str, model: str, created: int, usage: bool, echo: str = "") -> None:
        head = {"id": request_id, "object": "text_completion", "created": created, "model": model}
        self._head = head
        self._start = f'data: {to_json(head)[:-1]},"choices":[{{"index":'
        self._plain = self._tail = ',"usage":null}\n\n' if usage else "}\n\n"
        self._echo = echo
        self._begun: set[int] = set()

    def head(self) -> dict[str, Any]:
        """Return what every event begins with."""
        return self._head

    def tell(self, usage: tuple[int, int] | None) -> None:
        """Put this usage (prompt, completion) into the next events; None puts what the client asked for."""
        self._tail = _usage_tail(*usage) if usage else self._plain

    def of(self, choice: Choice, chunks: Sequence[Chunk]) -> bytes:
        """Return the events of one choice's chunks: one, with the end in it."""
        seen, offset = len(choice.logprobs), len(choice.text) if choice.logprobs else 0
        text = "".join(event.text for event in choice.take(chunks) if isinstance(event, Text))
        if self._echo and choice.index not in self._begun:
            self._begun.add(choice.index)
            text = self._echo + text
        logprobs = completion_logprobs(choice.logprobs[seen:], offset) if choice.logprobs else None
        known = to_json(logprobs) if logprobs else "null"
        finish = f'"{choice.finish}"' if choice.finish else "null"
        rest = f'{choice.index},"text":{quote(text)},"logprobs":{known},"finish_reason":{finish}}}]'
        return (self._start + rest + self._tail).encode()


def _usage_tail(prompt: int, completion: int) -> str:
    """Return the end of an event with the usage so far; the prompt's tokens are known at its end alone (else 0)."""
    known = f'"prompt_tokens":{prompt},' if prompt else ""
    return f',"usage":{{{known}"completion_tokens":{completion},"total_tokens":{prompt + completion}}}}}\n\n'


def usage_event(events: Events, usage: dict[str, Any]) -> bytes:
    """Return the last event of a stream that was asked for its usage."""
    return f"data: {to_json(events.head() | {'choices': [], 'usage': usage})}\n\n".encode()


def error_event(error: ApiError) -> bytes:
    """Return an error inside a stream; nothing follows it, not even [DONE]."""
    return b"data: " + error.body() + b"\n\n"
