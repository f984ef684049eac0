"""One request from its body to its last byte.

Nothing is sent before the engine's first chunk, so that an error can still set the status; a later error becomes an
event in the stream. When the client leaves, aiohttp cancels the handler, which cancels the call to Triton.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from aiohttp import web

from ax_engines.openai import sse
from ax_engines.openai.answers import Choice, chat_logprobs, completion_logprobs, to_json
from ax_engines.openai.chat import ToolPlan, chat_request
from ax_engines.openai.completions import completion_requests
from ax_engines.openai.document import document
from ax_engines.openai.errors import ApiError
from ax_engines.openai.exchange import Exchange, Writer, all_ended, any_begun, check_complete, grouped, shifted
from ax_engines.openai.metrics import Metrics
from ax_engines.openai.model import ServedModel
from ax_engines.openai.schema import ChatBody, CompletionBody, SamplingBody, TokenizeBody, read_body, read_json
from ax_engines.openai.tools import HermesParser
from ax_engines.openai.upstream import Upstream
from ax_engines.wire import Chunk, CountTokens

TIMEOUT_HEADER = "x-envoy-expected-rq-timeout-ms"
TIMEOUT_SECONDS = 1800.0
TIMING_HEADER = "x-ax-timing"
USAGE_HEADER = "x-ax-usage"
"""The gateway asks with `continuous` for the usage so far now and then, to count streams that are left too."""
SSE_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
MAX_CHOICES = 128


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
        exchange = Exchange(request_id, body.model, [asked], choices, since, timed=wants_timing(request))
        if body.stream:
            usage = exchange.timed or wants_usage(body)
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
        exchange = Exchange(request_id, body.model, asked, choices, since, timed=wants_timing(request))
        echo = body.prompt if body.echo and isinstance(body.prompt, str) else ""
        if body.stream:
            usage = exchange.timed or wants_usage(body)
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

    async def document(self, _: web.Request) -> web.Response:
        """GET /openapi.json."""
        return json_response(document(self._model.names))

    async def tokenize(self, request: web.Request) -> web.Response:
        """POST /tokenize, as vLLM has it: how many tokens a prompt or a chat is to the model."""
        raw = await request.read()
        if "messages" in read_json(raw):
            body: ChatBody | TokenizeBody = read_body(ChatBody, raw)
        else:
            body = read_body(TokenizeBody, raw)
        self._model.check_name(body.model)
        request_id = f"tok-{uuid.uuid4().hex}"
        if isinstance(body, ChatBody):
            asked, _ = chat_request(body, self._model, request_id, deadline(request))
            text = asked.prompt or ""
        else:
            text = body.prompt
        counted: list[Chunk] = []
        async with self._upstream.stream(CountTokens(request_id, text)) as stream:
            stream.into(counted.extend)
            await stream.ended()
        count = sum(chunk.usage.prompt_tokens for chunk in counted if chunk.usage)
        return json_response({"count": count, "max_model_len": self._model.options.context_length})

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
                stream.into(shifted(sink, at * exchange.requests[at].n))
            await all_ended(streams)
        check_complete(exchange)

    def _whole(self, exchange: Exchange, kind: str, answers: list[dict[str, Any]]) -> web.Response:
        usage = exchange.finish(self._metrics)
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

        counted = request.headers.get(USAGE_HEADER) == "continuous"

        def sink(chunks: list[Chunk]) -> None:
            exchange.tick()
            if counted:
                events.tell(exchange.tally(chunks))
            data = [events.of(exchange.choices[index], group) for index, group in grouped(chunks)]
            write(data[0] if len(data) == 1 else b"".join(data))

        try:
            async with AsyncExitStack() as stack:
                streams = [await stack.enter_async_context(self._upstream.stream(one)) for one in exchange.requests]
                await any_begun(streams)
                for at, stream in enumerate(streams):
                    stream.into(shifted(sink, at * exchange.requests[at].n))
                await write.begin()
                await all_ended(streams)
            check_complete(exchange)
        except ApiError as error:
            if not response.prepared:
                raise
            await response.write(sse.error_event(error))
            await response.write_eof()
            return response
        counts = exchange.finish(self._metrics)
        tail = sse.usage_event(events, counts) + sse.DONE if usage else sse.DONE
        await response.write(tail)
        await response.write_eof()
        return response


def deadline(request: web.Request) -> float:
    """Return when nobody waits for the answer any more, as Unix time: the gateway says how long it waits."""
    header = request.headers.get(TIMEOUT_HEADER, "")
    seconds = int(header) / 1000 if header.isascii() and header.isdigit() and len(header) < 12 else 0
    return time.time() + (seconds or TIMEOUT_SECONDS)


def wants_timing(request: web.Request) -> bool:
    """Say whether the client asked for times beside the usage."""
    return request.headers.get(TIMING_HEADER, "").lower() in ("1", "true")


def wants_usage(body: SamplingBody) -> bool:
    """Say whether a stream ends with its usage."""
    return bool(body.stream_options and body.stream_options.include_usage)


def json_response(value: Any, status: int = 200) -> web.Response:
    """Return JSON with Korean as it is."""
    return web.Response(body=to_json(value).encode(), status=status, content_type="application/json")
