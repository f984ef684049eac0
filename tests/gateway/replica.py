"""The engine's seam: an HTTP server that answers like a serving pod's frontend, records, and misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

Behaviour = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: Any


class Replica:
    """One replica on a port of its own; `behave` decides how the next requests are answered."""

    def __init__(self, name: str = "replica") -> None:
        self.name = name
        self.port = 0
        self.seen: list[Seen] = []
        self.running = 0
        self.most = 0
        self.left = 0
        self.behave: Behaviour = self.answer
        self.chunks = 3
        self.interval = 0.0
        self.tells_usage = True
        self.line_end = "\n"
        self._runner: web.AppRunner | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> Replica:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=tls).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        """Die: open streams break, the port refuses."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            body = json.loads(raw)
        except ValueError:
            body = raw
        self.seen.append(Seen(request.path, {k.lower(): v for k, v in request.headers.items()}, body))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await self.behave(request, body)
        except asyncio.CancelledError:
            self.left += 1
            raise
        finally:
            self.running -= 1

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        """Answer as asked: one JSON object, or a stream of `chunks` events, `interval` seconds apart."""
        usage = {"prompt_tokens": 7, "completion_tokens": self.chunks, "total_tokens": 7 + self.chunks}
        if not body.get("stream"):
            await asyncio.sleep(self.interval * self.chunks)
            message = {"role": "assistant", "content": self.name}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response(
                {"id": "x", "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}
            )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(self.chunks):
            delta = {"content": f"{self.name} {number}"}
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            chunk: dict[str, Any] = {"id": "x", "object": "chat.completion.chunk", "choices": [choice]}
            if request.headers.get("x-ax-usage") == "continuous":
                chunk["usage"] = {"prompt_tokens": 7, "completion_tokens": number + 1, "total_tokens": 8 + number}
            await self.event(response, chunk)
            await asyncio.sleep(self.interval)
        if self.tells_usage:
            await self.event(response, {"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def event(self, response: web.StreamResponse, data: Any) -> None:
        await response.write(f"data: {json.dumps(data)}{self.line_end * 2}".encode())

    def status(self, code: int, **headers: str) -> Behaviour:
        """Answer every request with this status."""

        async def behave(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
            names = {key.replace("_", "-"): value for key, value in headers.items()}
            return web.json_response({"error": {"message": self.name, "code": code}}, status=code, headers=names)

        return behave

    async def reset(self, request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        """Break the connection before a byte of the answer."""
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def break_off(self, request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        """Break the connection after the first event."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await self.event(response, {"choices": [{"index": 0, "delta": {"content": "a"}}]})
        await asyncio.sleep(0.05)
        assert request.transport is not None
        request.transport.abort()
        return response

    async def after_headers(self, request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        """Break the connection after the answer's headers."""
        assert request.transport is not None
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        request.transport.write(head)
        await asyncio.sleep(0.05)
        request.transport.abort()
        return web.Response()

    async def truncate(self, request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        """End in the middle of an event, shorter than announced."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'data: {"choices": [{"index": 0, "del')
        assert request.transport is not None
        request.transport.close()
        return response

    async def garbage(self, request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        """Answer with what is no HTTP."""
        assert request.transport is not None
        request.transport.write(b"\x00\xff no HTTP at all\r\n\r\n")
        request.transport.close()
        return web.Response()

    async def hang(self, _: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        """Never answer."""
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


def together(count: int, *replicas: Replica) -> None:
    """Let no request end before `count` of them are at these replicas: how they were spread is then exact."""
    arrived = asyncio.Event()

    def waiting(replica: Replica) -> Behaviour:
        async def behave(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
            if sum(each.running for each in replicas) >= count:
                arrived.set()
            await arrived.wait()
            return await replica.answer(request, body)

        return behave

    for each in replicas:
        each.behave = waiting(each)
