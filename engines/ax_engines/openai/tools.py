"""Tool calls in a stream of text. Pure.

The hermes format wraps each call as `<tool_call>{"name": …, "arguments": {…}}</tool_call>`. Text goes out as it
comes, except what could still become a tag; arguments stream once the name is known; what turns out not to be a
call goes out as the text it was, or, when pieces of its arguments have gone out already, is told to be broken.
Another format is one more class with `push` and `finish`, entered in PARSERS.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Protocol

OPEN, CLOSE = "<tool_call>", "</tool_call>"
HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')


@dataclass(frozen=True, slots=True)
class Text:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call begins."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of a tool call's arguments: the pieces make one JSON text."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The last call is none, its arguments are no JSON: cut off, or wrong. `text` is what the model wrote."""

    index: int
    text: str


Event = Text | CallStart | CallArguments | Broken


class ToolParser(Protocol):
    """Turns pieces of generated text into events; the result does not depend on where the pieces are cut."""

    def push(self, text: str) -> list[Event]:
        """Take the next piece."""

    def finish(self) -> list[Event]:
        """Take the end of the answer."""


class JsonSpan:
    """Finds the end of a JSON object that arrives in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._string = False
        self._escape = False

    def feed(self, text: str) -> int:
        """Return how many characters belong to the object when it ends within `text`, else -1."""
        for at, char in enumerate(text):
            if self._string:
                if self._escape:
                    self._escape = False
                elif char == "\\":
                    self._escape = True
                elif char == '"':
                    self._string = False
            elif char == '"':
                self._string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return at + 1
        return -1


class HermesParser:
    """The hermes format; with `inside` the stream is one bare call without its tags (a forced tool choice)."""

    def __init__(self, *, inside: bool = False) -> None:
        self._held = ""
        self._calls = 0
        self._inside = inside
        self._bare = inside
        self._span: JsonSpan | None = None
        self._closing = False
        self._arguments: list[str] = []
        self._raw: list[str] = []

    def push(self, text: str) -> list[Event]:
        """Take the next piece."""
        self._held += text
        events: list[Event] = []
        while self._step(events):
            pass
        return events

    def finish(self) -> list[Event]:
        """Take the end: an unfinished call becomes a call if it is complete JSON, else text."""
        events: list[Event] = []
        held, self._held = self._held, ""
        if self._closing or self._span:  # arguments have gone out already
            self._end_call(held, events)
        elif self._inside:
            self._whole(held, "" if self._bare else OPEN, "", events)
        elif held.strip() or not self._calls:
            self._text(held, events)
        return events

    def _step(self, events: list[Event]) -> bool:
        """Take one step; False when more text is needed."""
        if self._closing:
            return self._close(events)
        if self._span:
            return self._stream(events)
        return self._call(events) if self._inside else self._outside(events)

    def _outside(self, events: list[Event]) -> bool:
        at = self._held.find(OPEN)
        if at >= 0:
            before, self._held = self._held[:at].rstrip(), self._held[at + len(OPEN) :]
            self._text(before, events)
            self._inside = True
            return True
        keep = len(self._held) - overlap(self._held, OPEN)
        keep = len(self._held[:keep].rstrip())  # blanks before a call are no content
        self._text(self._held[:keep], events)
        self._held = self._held[keep:]
        return False

    def _call(self, events: list[Event]) -> bool:
        head = HEAD.match(self._held)
        name = read_string(head.group(1)) if head else None
        if head and name:
            events.append(CallStart(self._calls, name))
            self._raw = ["" if self._bare else OPEN, head.group()]
            self._arguments = []
            self._held = self._held[head.end() :]
            self._span = JsonSpan()
            return True
        at = self._held.find(CLOSE)
        if at < 0:
            return False
        raw, self._held = self._held[:at], self._held[at + len(CLOSE) :]
        self._inside = False
        self._whole(raw, OPEN, CLOSE, events)
        return True

    def _stream(self, events: list[Event]) -> bool:
        if not self._held or self._span is None:
            return False
        end = self._span.feed(self._held)
        piece = self._held if end < 0 else self._held[:end]
        self._held = self._held[len(piece) :]
        events.append(CallArguments(self._calls, piece))
        self._arguments.append(piece)
        if end >= 0:
            self._span, self._closing = None, True
        return end >= 0

    def _close(self, events: list[Event]) -> bool:
        """Skip what follows the arguments up to the closing tag, or to the next opening one when it is missing."""
        close, again = self._held.find(CLOSE), self._held.find(OPEN)
        if close < 0 and again < 0:
            return False
        self._closing = self._inside = False
        closed = close >= 0 and (again < 0 or close < again)
        end = close + len(CLOSE) if closed else again
        rest, self._held = self._held[:end], self._held[end:]
        self._end_call(rest, events)
        return True

    def _end_call(self, rest: str, events: list[Event]) -> None:
        """Take what the model wrote after a call's arguments; say so when these are no JSON."""
        if not is_json("".join(self._arguments)):
            events.append(Broken(self._calls, "".join([*self._raw, *self._arguments, rest])))
        self._calls += 1

    def _whole(self, raw: str, before: str, after: str, events: list[Event]) -> None:
        """Take a call that could not stream: a call if it is one, else the text it was."""
        call = read_call(raw)
        if call is None:
            self._text(before + raw + after, events)
            return
        events += [CallStart(self._calls, call[0]), CallArguments(self._calls, call[1])]
        self._calls += 1

    def _text(self, text: str, events: list[Event]) -> None:
        if text:
            events.append(Text(text))


def overlap(text: str, tag: str) -> int:
    """Return the length of the longest end of `text` that begins `tag`."""
    return next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:n])), 0)


def is_json(text: str) -> bool:
    """Say whether a text is JSON."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def read_string(text: str) -> str | None:
    """Return a JSON string's value, None if it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def read_call(raw: str) -> tuple[str, str] | None:
    """Return name and arguments (JSON text) of a whole call, None if it is none."""
    try:
        call: Any = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):  # some models quote the object
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            return None
    return call["name"], json.dumps(arguments, ensure_ascii=False)


PARSERS = {"hermes": HermesParser}
