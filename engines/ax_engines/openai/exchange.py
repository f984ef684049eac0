"""One exchange under way: its choices, its times, and the way from Triton's chunks to the client's connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import HttpVersion11, web

from ax_engines.openai.answers import Choice, usage_json
from ax_engines.openai.errors import ApiError
from ax_engines.openai.metrics import Metrics
from ax_engines.openai.upstream import Stream
from ax_engines.wire import Chunk, GenerateRequest

TELL_EVERY = 16
"""Tokens after which the gateway is told the usage so far: what it may miss of a stream that is left."""


@dataclass(slots=True)
class Exchange:
    """One request under way: what was asked, what came, and when."""

    id: str
    model: str
    requests: list[GenerateRequest]
    choices: list[Choice]
    since: float
    created: int = field(default_factory=lambda: int(time.time()))
    timed: bool = False
    first: float = 0
    last: float = 0
    prompts: dict[int, int] = field(default_factory=dict)
    completions: dict[int, int] = field(default_factory=dict)
    told: int = 0

    def tally(self, chunks: list[Chunk]) -> tuple[int, int] | None:
        """Count the tokens of these chunks; return those of prompts and answers so far when it is time to tell them.

        That is every few tokens and at a choice's end, when the engine's own counts correct the sum of pieces and
        the estimate of the prompt's.
        """
        ended = False
        for chunk in chunks:
            so_far = self.completions.get(chunk.index, 0)
            self.completions[chunk.index] = chunk.usage.completion_tokens if chunk.usage else so_far + chunk.tokens
            if chunk.usage:
                ended = True
                self.prompts[chunk.index // self.requests[0].n] = chunk.usage.prompt_tokens
        completion = sum(self.completions.values())
        if not ended and completion - self.told < TELL_EVERY:
            return None
        self.told = completion
        prompts = (self.prompts.get(number) or estimated(asked) for number, asked in enumerate(self.requests))
        return sum(prompts), completion

    def tick(self) -> None:
        """Note that tokens have come."""
        self.last = time.perf_counter()
        if not self.first:
            self.first = self.last

    def finish(self, metrics: Metrics) -> dict[str, Any]:
        """Count the answer; return its usage, with times when they were asked for."""
        usage = usage_json([choice.usage for choice in self.choices], len(self.requests))
        metrics.count(usage, [choice.text for choice in self.choices])
        metrics.ttft.observe(self.first - self.since)
        steps = usage["completion_tokens"] / len(self.choices) - 1
        between = (self.last - self.first) / steps if steps > 0 else 0.0
        if steps > 0:
            metrics.itl.observe(between)
        if self.timed:
            queued = max((choice.usage.queue_seconds for choice in self.choices if choice.usage), default=0.0)
            usage["timing"] = {
                "queue_ms": round(1000 * queued, 3),
                "first_token_ms": round(1000 * (self.first - self.since), 3),
                "between_tokens_ms": round(1000 * between, 3),
                "total_ms": round(1000 * (self.last - self.since), 3),
            }
        return usage


def estimated(request: GenerateRequest) -> int:
    """Return about how many tokens a prompt has that the engine has not counted yet: a quarter of its bytes."""
    if request.token_ids is not None:
        return len(request.token_ids)
    return -(-len((request.prompt or "").encode()) // 4)


class Writer:
    """Writes a stream's events straight to the connection, as chunks of HTTP/1.1, without waking a task.

    What a slow client has not read yet waits in the connection's buffer: at most its whole answer.
    """

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response
        self._early: list[bytes] | None = []
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()

    async def begin(self) -> None:
        """Send the headers and what has gathered."""
        await self._response.prepare(self._request)
        while self._early:
            early, self._early = self._early, []
            await self._response.write(b"".join(early))
        self._early = None

    def __call__(self, data: bytes) -> None:
        """Write events; nothing happens when the client has left."""
        if self._early is not None:
            self._early.append(data)
            return
        transport = self._request.transport
        if transport is None or transport.is_closing():
            return
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._response.chunked else data)


def shifted(sink: Callable[[list[Chunk]], None], offset: int) -> Callable[[list[Chunk]], None]:
    """Return a sink that renumbers the choices of a later prompt."""
    if not offset:
        return sink

    def renumbered(chunks: list[Chunk]) -> None:
        for chunk in chunks:
            chunk.index += offset
        sink(chunks)

    return renumbered


async def any_begun(streams: list[Stream]) -> None:
    """Wait for the first answer to any of the prompts; raises ApiError when it is an error."""
    if len(streams) == 1:
        await streams[0].begun()
        return
    tasks = [asyncio.create_task(stream.begun()) for stream in streams]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def all_ended(streams: list[Stream]) -> None:
    """Wait for the end of every prompt's answer; raises the first ApiError."""
    if len(streams) == 1:
        await streams[0].ended()
        return
    tasks = [asyncio.create_task(stream.ended()) for stream in streams]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def grouped(chunks: list[Chunk]) -> list[tuple[int, list[Chunk]]]:
    """Return chunks by choice, in order."""
    if len(chunks) == 1:
        return [(chunks[0].index, chunks)]
    groups: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        groups.setdefault(chunk.index, []).append(chunk)
    return list(groups.items())


def check_complete(exchange: Exchange) -> None:
    """Raise ApiError 500 when Triton ended a request before its last token."""
    if any(choice.finish is None for choice in exchange.choices):
        raise ApiError(500, "The engine ended before the answer was complete.", code="engine_error")
