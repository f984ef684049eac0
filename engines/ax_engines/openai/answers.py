"""What goes back to the client: choices that fill up, as one object or as events of a stream. Pure."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

from ax_engines.openai.chat import ToolPlan
from ax_engines.openai.tools import Broken, CallArguments, CallStart, Event, Text, ToolParser
from ax_engines.wire import Chunk, Usage

FINISH = {"stop": "stop", "length": "length", "cancelled": "stop"}


class Choice:
    """One answer under way; `take` turns generated text into events and remembers the whole."""

    def __init__(self, index: int, plan: ToolPlan, parser: ToolParser | None) -> None:
        self.index = index
        self.finish: str | None = None
        self.logprobs: list[dict[str, Any]] = []
        self.usage: Usage | None = None
        self._plan = plan
        self._parser = parser
        self._texts: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._broken: set[int] = set()

    @property
    def text(self) -> str:
        """The text so far, without tool calls but for broken ones."""
        return "".join(self._texts)

    def take(self, chunks: Sequence[Chunk]) -> list[Event]:
        """Take this choice's chunks of one response; return what they mean."""
        text = "".join([chunk.text for chunk in chunks]) if len(chunks) > 1 else chunks[0].text
        last = chunks[-1]
        events = self._parse(text, last.finish is not None)
        for event in events:
            self._remember(event)
        for chunk in chunks:
            if chunk.logprobs:
                self.logprobs += chunk.logprobs
        if last.finish:
            self.usage = last.usage
            called = len(self._calls) > len(self._broken) and not self._plan.forced and last.finish == "stop"
            self.finish = "tool_calls" if called else FINISH[last.finish]
        return events

    def message(self) -> dict[str, Any]:
        """Return the whole chat message: broken calls are text; content is null when the model only called tools."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text, "refusal": None}
        calls = [call for index, call in enumerate(self._calls) if index not in self._broken]
        if calls:
            message["content"] = self.text or None
            message["tool_calls"] = calls
        return message

    def call_delta(self, event: CallStart | CallArguments) -> dict[str, Any]:
        """Return a tool call's event as an entry of a delta's `tool_calls`."""
        call = self._calls[event.index]
        if isinstance(event, CallArguments):
            return {"index": event.index, "function": {"arguments": event.text}}
        function = {"name": event.name, "arguments": ""}
        return {"index": event.index, "id": call["id"], "type": "function", "function": function}

    def _parse(self, text: str, last: bool) -> list[Event]:
        if self._plan.forced:
            start: list[Event] = [] if self._calls else [CallStart(0, self._plan.forced)]
            return [*start, CallArguments(0, text)] if text else start
        if self._parser is None:
            return [Text(text)] if text else []
        events = self._parser.push(text)
        return events + self._parser.finish() if last else events

    def _remember(self, event: Event) -> None:
        if isinstance(event, Text):
            self._texts.append(event.text)
        elif isinstance(event, Broken):
            self._broken.add(event.index)
            self._texts.append(event.text)
        elif isinstance(event, CallStart):
            function = {"name": event.name, "arguments": ""}
            self._calls.append({"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function})
        else:
            self._calls[event.index]["function"]["arguments"] += event.text


def usage_json(usages: Sequence[Usage | None], prompts: int = 1) -> dict[str, Any]:
    """Return the usage of all choices; each of the `prompts` prompts counts once, whatever n is."""
    known = [usage or Usage() for usage in usages]
    per_prompt = max(1, len(known) // prompts)
    first = known[::per_prompt]
    prompt = sum(usage.prompt_tokens for usage in first)
    completion = sum(usage.completion_tokens for usage in known)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in first)},
    }


def chat_logprobs(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the log probabilities as a chat carries them."""
    if not entries:
        return None
    return {"content": [logprob(entry) | {"top_logprobs": top(entry)} for entry in entries], "refusal": None}


def completion_logprobs(entries: list[dict[str, Any]], offset: int) -> dict[str, Any] | None:
    """Return the log probabilities as a completion carries them; `offset` is where the first token's text starts."""
    if not entries:
        return None
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [{one["token"]: one["logprob"] for one in top(entry)} for entry in entries],
        "text_offset": offsets,
    }


def logprob(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a token with its log probability and bytes."""
    return {"token": entry["token"], "logprob": entry["logprob"], "bytes": entry.get("bytes")}


def top(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the alternatives of a token."""
    return [logprob(one) for one in entry.get("top_logprobs") or []]


def to_json(value: Any) -> str:
    """Return compact JSON with Korean as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
