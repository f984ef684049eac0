"""Tokens: counted from answers of every shape, told as metrics and in the access log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from tests.gateway.accounting import PRICES, counts, hosted_model, total
from tests.gateway.replica import Behaviour, Replica, together
from tests.gateway.rig import Rig, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
Start = Callable[..., Awaitable[Replica]]
SLACK = (0, 1)
"""Two workers of Envoy may each let the last one in."""


async def test_tokens_of_json_and_streams_are_counted(counting: Rig, replica: Start) -> None:
    one = await replica()
    key = await counting.serve("counted", one, servedNames=["counted-name"])
    await counting.ask(key)
    await counting.stream("counted-name")
    await until(lambda: counts(counting, key, 14, 6), "two answers of 7 + 3 tokens are counted")
    found = {"model": key, "backend": "onprem", "client": "owner", "code": "200", "way": "onprem"}
    assert await total(counting, "ax_gateway_requests_total", **found) == 2


DELTA = '{"choices":[{"index":0,"delta":{"content":"a"}}],"usage":null}'
USAGE = '{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}'
LIES = json.dumps({"choices": [{"index": 0, "delta": {"content": '"prompt_tokens": 99, "completion_tokens": 99'}}]})
LARGE = json.dumps({"choices": [{"index": 0, "delta": {"content": 'x"' * 200_000}}]})[:-1] + f",{USAGE[1:]}"
SHAPES = {
    "null in other events": f"data: {DELTA}\n\ndata: {USAGE}\n\ndata: [DONE]\n\n",
    "CRLF": f"data: {DELTA}\r\n\r\ndata: {USAGE}\r\n\r\ndata: [DONE]\r\n\r\n",
    "spaces": f"data: {json.dumps(json.loads(USAGE))}\n\ndata: {DELTA}\n\n",
    "several lines": "".join(f"data: {line}\n" for line in json.dumps(json.loads(USAGE), indent=1).split("\n")) + "\n",
    "content like a count": f"data: {LIES}\n\ndata: {USAGE}\n\ndata: {LIES}\n\n",
    "a large event": f"data: {LARGE}\n\ndata: [DONE]\n\n",
    "JSON": json.dumps({"choices": [{"message": {"content": LIES}}], **json.loads(USAGE)}),
    "JSON of many lines": json.dumps(json.loads(USAGE), indent=1).replace(": ", ":\n"),
    "no end": f"data: {DELTA}\n\ndata: {USAGE}",
}


@pytest.mark.parametrize("cut", [1, 65536])
async def test_usage_is_found_in_answers_of_any_shape(counting: Rig, replica: Start, cut: int) -> None:
    """Also where the network cuts it anywhere: into single bytes around the counts."""

    def pieces(text: bytes) -> Behaviour:
        near = text.index(b'"usage":{') if b'"usage":{' in text else text.index(b'"usage"')
        cuts = [0, *range(near, near + 100, cut), *range(near + 100, len(text), 65536), len(text)]

        async def behave(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
            kind = "application/json" if text.startswith(b"{") else "text/event-stream"
            response = web.StreamResponse(headers={"Content-Type": f"{kind}; charset=utf-8"})
            await response.prepare(request)
            for begin, end in pairwise(cuts):
                await response.write(text[begin:end])
                await asyncio.sleep(0.001)
            return response

        return behave

    async def asked(number: int, text: bytes) -> str:
        one = await replica()
        one.behave = pieces(text)
        key = await counting.serve(f"shape-{cut}-{number}", one)
        async with counting.post(key, stream=True) as response:
            assert await response.read() == text, "nothing is lost or changed on the way"
        return key

    keys = await asyncio.gather(*(asked(*each) for each in enumerate(text.encode() for text in SHAPES.values())))

    async def counted() -> bool:
        return all([await counts(counting, key, 7, 3) for key in keys])

    await until(counted, "7 + 3 tokens are counted for each")


async def test_tokens_of_a_stream_that_is_left_are_counted(counting: Rig, replica: Start) -> None:
    one = await replica()
    one.chunks, one.interval = 1000, 0.02
    key = await counting.serve("left", one)
    async with counting.post(key, stream=True) as response:
        while b'"completion_tokens": 5' not in await response.content.readany():
            continue
    await until(lambda: one.left == 1, "the replica sees it")

    async def counted() -> bool:
        tokens = await total(counting, "ax_gateway_completion_tokens_total", model=key)
        return 5 <= tokens <= 1000 and await total(counting, "ax_gateway_prompt_tokens_total", model=key) == 7

    await until(counted, "the tokens so far are counted")


@pytest.mark.parametrize("case", ["left", "untold", "untold-crlf"])
async def test_hosted_stream_without_usage_is_counted_by_its_events(counting: Rig, hosted: Replica, case: str) -> None:
    """A client that always leaves before the end would otherwise never pay; an API may tell no usage."""
    key = await hosted_model(counting, hosted, f"broken-{case}")
    hosted.line_end = "\r\n" if case == "untold-crlf" else "\n"
    hosted.tells_usage = case == "left"
    if case == "left":
        hosted.chunks, hosted.interval = 1000, 0.02
        async with counting.post(key, stream=True) as response:
            while b"hosted 8" not in await response.content.readany():
                continue
        await until(lambda: hosted.left == 1, "the hosted API sees that nobody listens")
    else:
        hosted.chunks = 9
        async with counting.post(key, stream=True) as response:
            await response.read()

    async def counted() -> bool:
        tokens = await total(counting, "ax_gateway_completion_tokens_total", model=key, backend="hosted")
        paid = await total(counting, "ax_gateway_krw_total", model=key, client="owner")
        return 9 <= tokens <= 1000 and paid >= 2 * tokens

    await until(counted, "about a token for each event is counted and paid")


async def test_ways_are_told_apart(counting: Rig, hosted: Replica, replica: Start) -> None:
    one = await replica()
    counting.secret("ways-key", api_key="k" * 40)
    counting.hosted_api("ways", hosted, **PRICES)
    routing: dict[str, Any] = {"dataResidency": "Any", "hosted": {"apiRef": "ways"}, "whileUnavailable": "Hosted"}
    key = await counting.serve("ways", one, slots=2, **routing)
    await until(lambda: counting.may_leave(key), "requests may leave")
    together(6, one, hosted)
    await asyncio.gather(*(counting.ask(key) for _ in range(6)))
    one.behave = one.status(500)
    await counting.ask(key)
    await counting.scale(key, slots=2)
    await counting.ask(key)

    async def ways() -> dict[str, float]:
        found = await counting.metrics("ax_gateway_requests_total")
        return {dict(k)["way"]: v for k, v in found.items() if dict(k)["model"] == key}

    async def counted() -> bool:
        return sum((await ways()).values()) == 8

    await until(counted, "all of them are counted")
    found = await ways()
    assert found["onprem"] - 2 in SLACK
    assert found == {"onprem": found["onprem"], "overflow": 6 - found["onprem"], "failover": 1, "unavailable": 1}
    assert (await counting.load())["models"][key]["overflowed"] == found["overflow"]


async def test_histograms_are_in_seconds(counting: Rig, replica: Start) -> None:
    one = await replica()
    one.chunks, one.interval = 10, 0.1
    key = await counting.serve("timed", one)
    await counting.stream(key)

    async def timed() -> bool:
        wait = await total(counting, "ax_gateway_time_between_tokens_seconds_sum", model=key, backend="onprem")
        first = await total(counting, "ax_gateway_time_to_first_byte_seconds_count", model=key, backend="onprem")
        return first == 1 and 0.05 < wait < 1

    await until(timed, "about 0.1 s between tokens")
    buckets = await counting.metrics("ax_gateway_time_between_tokens_seconds_bucket")
    assert {dict(k)["le"] for k in buckets} >= {"0.001", "0.1", "1", "+Inf"}


async def test_an_answer_in_one_piece_has_no_time_between_its_tokens(counting: Rig, replica: Start) -> None:
    key = await counting.serve("whole", await replica())
    await counting.stream(key)
    for _ in range(2):
        await counting.ask(key)

    async def told(name: str, times: int) -> bool:
        return await total(counting, f"ax_gateway_{name}_seconds_count", model=key, backend="onprem") == times

    await until(lambda: told("time_to_first_byte", 3), "three answers had a first byte")
    assert await told("time_between_tokens", 1)


async def test_access_log_tells_all_but_content(counting: Rig, replica: Start) -> None:
    one = await replica()
    key = await counting.serve("logged", one)
    secret = "a-secret-sentence"
    await counting.ask(key, messages=[{"role": "user", "content": secret}], user=secret)
    headers = {"x-ax-data-residency": "yes"}
    async with counting.post(key, headers=headers) as response:
        assert response.status == 200

    def lines() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in counting.log().splitlines() if line.startswith('{"')]
        return [line for line in found if line["model"] == key]

    await until(lambda: len(lines()) == 2, "two lines are logged")
    wanted = {"client": "owner", "asked_for": key, "status": 200, "served_by": "onprem", "residency": "OnPrem"}
    wanted |= {"prompt_tokens": 7, "completion_tokens": 3, "path": "/v1/chat/completions", "residency_asked": None}
    first, second = sorted(lines(), key=lambda line: str(line["residency_asked"]))
    assert {name: first[name] for name in wanted} == wanted
    assert second["residency_asked"] == "yes"
    assert secret not in counting.log()
    assert "k" * 32 not in counting.log()
