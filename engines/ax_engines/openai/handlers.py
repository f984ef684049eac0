"""One request from its body to its last byte.

Nothing is sent before the engine's first chunk, so that an error can still set the status; a later error becomes an
event in the stream. When the client leaves, aiohttp cancels the handler, which cancels the call to Triton.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from ax_engines.openai import sse
from ax_engines.openai.answers import Choice, chat_logprobs, completion_logprobs, to_json, usage_json
from ax_engines.openai.chat import ToolPlan, chat_request
from ax_engines.openai.completions import completion_requests
from ax_engines.openai.errors import ApiError
from ax_engines.openai.metrics import Metrics
from ax_engines.openai.model import ServedModel
from ax_engines.openai.schema import ChatBody, CompletionBody, SamplingBody, read_body
from ax_engines.openai.tools import HermesParser
from ax_engines.openai.upstream import Upstream
from ax_engines.wire import Chunk, GenerateRequest

TIMEOUT_HEADER = "x-envoy-expected-rq-timeout-ms"
TIMEOUT_SECONDS = 1800.0
SSE_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
MAX_CHOICES = 128


@dataclass(slots=True)
class Exchange:
    """One request under way: what was asked, what came, and when."""

    id: str
    model: str
    requests: list[GenerateRequest]
    choices: list[Choice]
    since: float
    created: int = field(default_factory=lambda: int(time.time()))
    first: float = 0
    last: float = 0


class Handlers:
    """The API's handlers; all state is the model, the channel to Triton and the metrics."""

    def __init__(self, model: ServedModel, upstream: Upstream, metrics: Metrics) -> None:
        self._model = model
        self._upstream = upstream
        self._metrics = metrics
        self._started = int(time.time())

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        since = time.perf_counter()
        body = read_body(ChatBody, await request.read())
        self._model.check_name(body.model)
        request_id = f"chatcmpl-{uuid.uuid4().hex}"
        asked, plan = chat_request(body, self._model, request_id, deadline(request))
        parsers: Callable[[], Any] = (lambda: HermesParser(inside=True)) if plan.required else self._model.parser
        choices = [Choice(n, plan, parsers() if plan.parse and not plan.forced else None) for n in range(body.n or 1)]
        exchange = Exchange(request_id, body.model, [asked], choices, since)
        if body.stream:
            usage = wants_usage(body)
            events = sse.ChatEvents(request_id, body.model, exchange.created, usage)
            return await self._stream(request, exchange, events, usage)
        await self._collect(exchange)
        answers = [
            {
                "index": choice.index,
                "message": choice.message(),
                "logprobs": chat_logprobs(choice.logprobs),
                "finish_reason": choice.finish,
            }
            for choice in choices
        ]
        return self._whole(exchange, "chat.completion", answers)

    async def completion(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/completions."""
        since = time.perf_counter()
        body = read_body(CompletionBody, await request.read())
        self._model.check_name(body.model)
        request_id = f"cmpl-{uuid.uuid4().hex}"
        asked = completion_requests(body, self._model, request_id, deadline(request))
        count = len(asked) * (body.n or 1)
        if count > MAX_CHOICES:
            message = f"Invalid value for 'n': prompts times n must not exceed {MAX_CHOICES}."
            raise ApiError(400, message, param="n", code="invalid_value")
        choices = [Choice(n, ToolPlan(), None) for n in range(count)]
        exchange = Exchange(request_id, body.model, asked, choices, since)
        echo = body.prompt if body.echo and isinstance(body.prompt, str) else ""
        if body.stream:
            usage = wants_usage(body)
            events = sse.CompletionEvents(request_id, body.model, exchange.created, usage, echo)
            return await self._stream(request, exchange, events, usage)
        await self._collect(exchange)
        answers = [
            {
                "index": choice.index,
                "text": echo + choice.text,
                "logprobs": completion_logprobs(choice.logprobs, 0),
                "finish_reason": choice.finish,
            }
            for choice in choices
        ]
        return self._whole(exchange, "text_completion", answers)

    async def models(self, _: web.Request) -> web.Response:
        """GET /v1/models."""
        data = [self._model_json(name) for name in self._model.names]
        return json_response({"object": "list", "data": data})

    async def one_model(self, request: web.Request) -> web.Response:
        """GET /v1/models/{name}."""
        name = request.match_info["name"]
        self._model.check_name(name)
        return json_response(self._model_json(name))

    def _model_json(self, name: str) -> dict[str, Any]:
        options = self._model.options
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": options.model.partition("/")[0],
            "root": options.engine,
            "parent": None,
            "max_model_len": options.context_length,
        }

    async def _chunks(self, exchange: Exchange) -> AsyncGenerator[list[Chunk], None]:
        """Yield the chunks of all prompts, renumbered to the choices."""
        if len(exchange.requests) == 1:
            source = self._upstream.generate(exchange.requests[0])
        else:
            source = self._merged(exchange.requests)
        async with aclosing(source) as lists:
            async for chunks in lists:
                exchange.last = time.perf_counter()
                if not exchange.first:
                    exchange.first = exchange.last
                yield chunks

    async def _merged(self, requests: Sequence[GenerateRequest]) -> AsyncGenerator[list[Chunk], None]:
        """Yield the chunks of several requests as they come."""
        queue: asyncio.Queue[list[Chunk] | ApiError | None] = asyncio.Queue(maxsize=256)

        async def pump(at: int, one: GenerateRequest) -> None:
            try:
                async with aclosing(self._upstream.generate(one)) as lists:
                    async for chunks in lists:
                        for chunk in chunks:
                            chunk.index += at * one.n
                        await queue.put(chunks)
                await queue.put(None)
            except ApiError as error:
                await queue.put(error)

        tasks = [asyncio.create_task(pump(at, one)) for at, one in enumerate(requests)]
        try:
            left = len(tasks)
            while left:
                item = await queue.get()
                if isinstance(item, ApiError):
                    raise item
                if item is None:
                    left -= 1
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _collect(self, exchange: Exchange) -> None:
        async with aclosing(self._chunks(exchange)) as lists:
            async for chunks in lists:
                for index, group in grouped(chunks):
                    exchange.choices[index].take(group)
        check_complete(exchange)

    def _whole(self, exchange: Exchange, kind: str, answers: list[dict[str, Any]]) -> web.Response:
        usage = self._finish(exchange)
        return json_response(
            {
                "id": exchange.id,
                "object": kind,
                "created": exchange.created,
                "model": exchange.model,
                "choices": answers,
                "usage": usage,
            }
        )

    async def _stream(
        self, request: web.Request, exchange: Exchange, events: sse.Events, usage: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=SSE_HEADERS)
        try:
            async with aclosing(self._chunks(exchange)) as lists:
                async for chunks in lists:
                    if not response.prepared:
                        await response.prepare(request)
                    data = [events.of(exchange.choices[index], group) for index, group in grouped(chunks)]
                    await response.write(data[0] if len(data) == 1 else b"".join(data))
            check_complete(exchange)
        except ApiError as error:
            if not response.prepared:
                raise
            await response.write(sse.error_event(error))
            await response.write_eof()
            return response
        counts = self._finish(exchange)
        tail = sse.usage_event(events, counts) + sse.DONE if usage else sse.DONE
        await response.write(tail)
        await response.write_eof()
        return response

    def _finish(self, exchange: Exchange) -> dict[str, Any]:
        usage = usage_json([choice.usage for choice in exchange.choices], len(exchange.requests))
        metrics, tokens = self._metrics, usage["completion_tokens"]
        metrics.prompt_tokens.inc(usage["prompt_tokens"])
        metrics.completion_tokens.inc(tokens)
        metrics.cached_tokens.inc(usage["prompt_tokens_details"]["cached_tokens"])
        metrics.ttft.observe(exchange.first - exchange.since)
        per_choice = tokens / len(exchange.choices)
        if per_choice > 1:
            metrics.itl.observe((exchange.last - exchange.first) / (per_choice - 1))
        return usage


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


def deadline(request: web.Request) -> float:
    """Return when nobody waits for the answer any more, as Unix time: the gateway says how long it waits."""
    header = request.headers.get(TIMEOUT_HEADER, "")
    seconds = int(header) / 1000 if header.isascii() and header.isdigit() and len(header) < 12 else 0
    return time.time() + (seconds or TIMEOUT_SECONDS)


def wants_usage(body: SamplingBody) -> bool:
    """Say whether a stream ends with its usage."""
    return bool(body.stream_options and body.stream_options.include_usage)


def json_response(value: Any, status: int = 200) -> web.Response:
    """Return JSON with Korean as it is."""
    return web.Response(body=to_json(value).encode(), status=status, content_type="application/json")
