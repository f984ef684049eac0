"""One request from its body to its last byte.

Nothing is sent before the engine's first chunk, so that an error can still set the status; a later error becomes an
event in the stream. When the client leaves, aiohttp cancels the handler, which cancels the call to Triton.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from aiohttp import HttpVersion11, web

from ax_engines.openai import sse
from ax_engines.openai.answers import Choice, chat_logprobs, completion_logprobs, to_json, usage_json
from ax_engines.openai.chat import ToolPlan, chat_request
from ax_engines.openai.completions import completion_requests
from ax_engines.openai.errors import ApiError
from ax_engines.openai.metrics import Metrics
from ax_engines.openai.model import ServedModel
from ax_engines.openai.schema import ChatBody, CompletionBody, SamplingBody, read_body
from ax_engines.openai.tools import HermesParser
from ax_engines.openai.upstream import Stream, Upstream
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

    def tick(self) -> None:
        """Note that tokens have come."""
        self.last = time.perf_counter()
        if not self.first:
            self.first = self.last


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

    async def _collect(self, exchange: Exchange) -> None:
        """Wait for every choice; raises ApiError."""

        def sink(chunks: list[Chunk]) -> None:
            exchange.tick()
            for index, group in grouped(chunks):
                exchange.choices[index].take(group)

        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(self._upstream.stream(one)) for one in exchange.requests]
            for at, stream in enumerate(streams):
                stream.into(shifted(sink, at * stream.request.n))
            await all_ended(streams)
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
        write = Writer(request, response)

        def sink(chunks: list[Chunk]) -> None:
            exchange.tick()
            data = [events.of(exchange.choices[index], group) for index, group in grouped(chunks)]
            write(data[0] if len(data) == 1 else b"".join(data))

        try:
            async with AsyncExitStack() as stack:
                streams = [await stack.enter_async_context(self._upstream.stream(one)) for one in exchange.requests]
                await any_begun(streams)
                for at, stream in enumerate(streams):
                    stream.into(shifted(sink, at * stream.request.n))
                await write.begin()
                await all_ended(streams)
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
