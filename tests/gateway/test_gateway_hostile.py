"""Malformed HTTP and spoofed headers: Envoy's strict verdict, and never another route."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from tests.gateway.replica import Replica
from tests.gateway.rig import Rig, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
Start = Callable[..., Awaitable[Replica]]


async def _raw(rig: Rig, data: bytes) -> bytes:
    """Send bytes on a connection of their own and return all that comes until it is closed or quiet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(data)
    found = b""
    try:
        while piece := await asyncio.wait_for(reader.read(65536), 1.0):
            found += piece
    except TimeoutError:
        found += b"<quiet>"
    finally:
        writer.close()
    return found


def _post(headers: str, body: str) -> bytes:
    return _request("/v1/chat/completions", headers, body)


def _request(path: str, headers: str, body: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}\r\n\r\n"
    return (head + body).encode()


@pytest_asyncio.fixture(loop_scope="session")
async def two(rig: Rig, replica: Start) -> tuple[str, Replica, str, Replica]:
    allowed, secret = await replica("allowed"), await replica("secret")
    first, second = await rig.serve("allowed", allowed), await rig.serve("secret", secret)
    allowed.seen.clear()
    secret.seen.clear()
    return first, allowed, second, secret


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: {short}\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: {short}",
        "Transfer-Encoding: xchunked\r\nContent-Length: {short}",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding : chunked\r\nContent-Length: {short}",
        "Content-Length: {short}\r\nContent-Length: {whole}",
        "Content-Length: {short},{whole}",
        "Content-Length: -1",
        "Content-Length: 0x10",
        "Content-Length: {short}\r\n Transfer-Encoding: chunked",
    ],
)
async def test_smuggled_request_reaches_nobody(rig: Rig, two: tuple[str, Replica, str, Replica], headers: str) -> None:
    first, _, second, secret = two
    inner = _post(f"Content-Length: {len(json.dumps(rig.body(second)))}", json.dumps(rig.body(second))).decode()
    outer = json.dumps(rig.body(first))
    chunked = f"{len(outer):x}\r\n{outer}\r\n0\r\n\r\n"
    body = (chunked if "hunked" in headers else outer) + inner
    lengths = {"short": len(outer), "whole": len(body)}
    answer = await _raw(rig, _post(headers.format(**lengths), body))
    assert b"HTTP/1.1 400" in answer or b"HTTP/1.1 501" in answer or b"HTTP/1.1 413" in answer, answer
    assert answer.count(b"HTTP/1.1 ") == 1, "nothing after it is taken for a request"
    assert not secret.seen


async def test_spoofed_headers_are_gone(rig: Rig, two: tuple[str, Replica, str, Replica]) -> None:
    first, allowed, second, secret = two
    spoofed = {
        "x-ax-model": second,
        "X-AX-Model": second,
        "x_ax_model": second,
        "x-ax-client": "--:root",
        "x-ax-user": "root",
        "x-ax-needs": "tools",
        "x-ax-hold": "released",
        "x-ax-usage": "none",
        "x-ax-served-by": "x",
        "x-envoy-max-retries": "100",
        "x-envoy-retry-on": "5xx",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-original-path": "/admin",
        "x-envoy-expected-rq-timeout-ms": "1",
        "x-forwarded-for": "1.2.3.4",
    }
    async with rig.post(first, headers=spoofed, user="x" * 20_000) as response:
        assert response.status == 200
        assert response.headers["x-ax-served-by"] == "onprem"
    headers = allowed.seen[-1].headers
    assert headers["x-ax-model"] == first
    assert headers["x-ax-usage"] == "continuous"
    assert not {"x-ax-client", "x-ax-needs", "x-ax-hold", "x_ax_model", "x-ax-user"} & set(headers)
    assert {name for name in headers if name.startswith("x-envoy")} <= {"x-envoy-attempt-count"}
    assert not secret.seen


@pytest.mark.parametrize("path", ["/v1/chat/../completions/../chat/completions", "//v1/chat/completions",
                                  "/v1/chat%2Fcompletions", "/v1/chat/completions%00", "/v1/chat/completions;x=/admin",
                                  "/V1/chat/completions", "http://other/v1/chat/completions"])  # fmt: skip
async def test_odd_paths_reach_the_model_or_nobody(rig: Rig, two: tuple[str, Replica, str, Replica], path: str) -> None:
    first, allowed, _, secret = two
    body = json.dumps(rig.body(first))
    answer = await _raw(rig, _request(path, f"Content-Length: {len(body)}", body))
    status = int(answer.split()[1])
    assert status in (200, 400, 404)
    assert (len(allowed.seen) == 1) == (status == 200)
    assert {seen.path for seen in allowed.seen} <= {"/v1/chat/completions"}
    assert not secret.seen


async def test_slow_or_silent_clients_hold_nothing_up(rig: Rig, two: tuple[str, Replica, str, Replica]) -> None:
    first = two[0]
    writers = []
    for _ in range(50):
        _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Le")
        writers.append(writer)
    assert (await rig.ask(first))[0] == 200
    for writer in writers:
        writer.close()


async def test_served_names_of_every_allowed_shape(rig: Rig, replica: Start) -> None:
    one = await replica()
    names = ["A", "0", "a.b-c_d/e", "x" * 63, "t/other-model", "Z..//__--"]
    key = await rig.serve("name.with.dots", one, servedNames=names)
    for name in (*names, key):
        assert (await rig.ask(name))[0] == 200, name
        assert one.seen[-1].body["model"] == name
    for name in ("a", "A ", " A", "A\n", "A,0", "x" * 64):
        assert (await rig.ask(name))[0] == 404, name
    assert (await rig.load())["rejected"] == {}


async def test_hosted_model_of_any_text_arrives_as_it_is(rig: Rig, hosted: Replica) -> None:
    model = 'a"b\\c]]{}$%REQ(x)%\u0001\n한국어😀' + "x" * 100
    rig.secret("odd-key", api_key="k" * 40)
    rig.hosted_api("odd", hosted, model=model, dropFields=["logit_bias", "user"])
    routing: dict[str, Any] = {"dataResidency": "Any", "hosted": {"apiRef": "odd"}, "whileUnavailable": "Hosted"}
    key = await rig.serve("odd", **routing)
    await until(lambda: rig.may_leave(key), "requests may leave")
    assert await _ok(rig, key)
    assert hosted.seen[-1].body["model"] == model
    padding = "\\" * 1_000_000 + '"' * 1_000_000
    async with rig.post(key, padding=padding, user="x") as response:
        assert response.status == 200
    assert hosted.seen[-1].body == rig.body(model, padding=padding)


async def _ok(rig: Rig, key: str) -> bool:
    return (await rig.ask(key))[0] == 200
