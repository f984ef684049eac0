"""Requests to replicas through the real Envoy: routing by the body, errors, balancing, retries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from tests.gateway.replica import Replica, together
from tests.gateway.rig import Rig, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
Start = Callable[..., Awaitable[Replica]]


async def test_model_in_the_body_decides(rig: Rig, replica: Start) -> None:
    one, two = await replica("one"), await replica("two")
    first = await rig.serve("first", one, servedNames=["First.Model/v1"])
    second = await rig.serve("second", two)
    assert (await rig.ask("First.Model/v1"))[1]["choices"][0]["message"]["content"] == "one"
    assert (await rig.ask(second))[1]["choices"][0]["message"]["content"] == "two"
    assert one.seen[-1].body["model"] == "First.Model/v1"
    async with rig.post(second, path="/v1/completions") as response:
        assert (response.status, two.seen[-1].path) == (200, "/v1/completions")
    assert len(await rig.stream(first)) == 5


async def test_unknown_model_is_a_404_in_openai_shape(rig: Rig) -> None:
    status, body = await rig.ask('no "such" model\n')
    assert status == 404
    assert body["error"]["code"] == "model_not_found"
    assert body["error"]["type"] == "invalid_request_error"
    assert 'no "such" model' in body["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"model": ', b"[]", b'"text"', b"{}", b'{"messages": []}', b'{"model": null}', b'{"model": NaN}',
     b'{"model": ""}',      b'{"model": "a", "model": "b"', b"\xff\xfe", b'{"x": ' + b"[" * 5000],
)  # fmt: skip
async def test_body_without_a_model_is_a_400(rig: Rig, body: bytes) -> None:
    async with rig.session.post(
        rig.url + "/v1/chat/completions", data=body, headers={"Content-Type": "application/json"}
    ) as response:
        assert response.status == 400, await response.text()
        assert "model" in (await response.json())["error"]["message"]


@pytest.mark.parametrize("model", [5, 1.5, True, ["x"], {"a": "b"}, "x" * 100_000, "é\u0000\r\nx: y", "../t/first"])
async def test_model_of_another_kind_is_nobody_s(rig: Rig, model: object) -> None:
    status, body = await rig.ask(model)
    assert status == 404
    assert len(body["error"]["message"]) < 500


async def test_text_with_a_spoofed_model_is_a_404(rig: Rig, replica: Start) -> None:
    one = await replica()
    key = await rig.serve("spoofed", one)
    seen = len(one.seen)
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/json"}):
        spoofed = headers | {"x-ax-model": key, "X-Ax-Model": key}
        async with rig.session.post(rig.url + "/v1/chat/completions", data=b"hello", headers=spoofed) as response:
            assert response.status == (404 if "text" in headers["Content-Type"] else 400)
    assert len(one.seen) == seen


async def test_too_large_body_is_a_413(rig: Rig) -> None:
    status, body = await rig.ask("any", padding="x" * (11 * 1024 * 1024))
    assert (status, body["error"]["code"]) == (413, "request_too_large")


async def test_large_body_arrives_whole(rig: Rig, replica: Start) -> None:
    one = await replica()
    key = await rig.serve("large", one)
    padding = "x" * (9 * 1024 * 1024)
    assert (await rig.ask(key, padding=padding))[0] == 200
    assert one.seen[-1].body["padding"] == padding


async def test_other_paths_and_methods(rig: Rig) -> None:
    async with rig.session.get(rig.url + "/v1/chat/completions") as response:
        assert response.status == 405
    async with rig.session.get(rig.url + "/admin") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "not_found")
    async with rig.session.get(rig.url + "/v1/models", headers={"x": "y" * 70_000}) as response:
        assert response.status == 431


async def test_models_lists_every_name(rig: Rig) -> None:
    rig.model("listed", servedNames=["listed-name"])
    await until(lambda: rig.is_listed("t/listed"), "the model is listed")
    assert await rig.is_listed("listed-name")
    rig.remove("t/listed")

    async def gone() -> bool:
        return not await rig.is_listed("t/listed") and not await rig.is_listed("listed-name")

    await until(gone, "both names are gone")


async def test_requests_go_to_the_least_busy_replica(rig: Rig, replica: Start) -> None:
    one, two = await replica(), await replica()
    key = await rig.serve("balanced", one, two)
    together(40, one, two)
    await asyncio.gather(*(rig.stream(key) for _ in range(40)))
    assert 10 <= one.most <= 30
    assert 10 <= two.most <= 30


async def test_user_stays_at_a_replica_that_is_not_too_busy(rig: Rig, replica: Start) -> None:
    replicas = [await replica(str(number)) for number in range(3)]
    key = await rig.serve("sticky", *replicas, sessionAffinity="User")

    async def answered(user: str) -> str:
        return str((await rig.ask(key, user=user))[1]["choices"][0]["message"]["content"])

    chosen = {user: {await answered(user) for _ in range(5)} for user in map(str, range(30))}
    assert all(len(names) == 1 for names in chosen.values()), "one user is always answered by the same replica"
    assert len(set.union(*chosen.values())) == 3, "users are spread over all replicas"
    assert not any("x-ax-user" in seen.headers for each in replicas for seen in each.seen)
    together(13, *replicas)
    crowd = []
    for number in range(12):
        crowd.append(asyncio.create_task(rig.ask(key, user="one")))
        await until(lambda: sum(each.running for each in replicas) > number, "the next one is there")  # noqa: B023
    await asyncio.gather(rig.ask(key, user="one"), *crowd)
    assert max(each.most for each in replicas) <= 7, "a crowd of one user is spread: a quarter above the mean, and one"
    assert (await rig.ask(key, user="x" * 100_000))[0] == 200


@pytest.mark.parametrize("fault", ["500", "503", "429", "reset", "refused"])
async def test_one_retry_goes_to_another_replica(rig: Rig, replica: Start, fault: str) -> None:
    bad, good = await replica("bad"), await replica("good")
    key = await rig.serve(f"retried-{fault}", bad, good)
    bad.seen.clear()
    if fault == "refused":
        await bad.stop()
    else:
        bad.behave = bad.reset if fault == "reset" else bad.status(int(fault))
    answers = [(await rig.ask(key))[1]["choices"][0]["message"]["content"] for _ in range(12)]
    assert answers == ["good"] * 12


async def test_retries_end_after_one(rig: Rig, replica: Start) -> None:
    one, two = await replica(), await replica()
    key = await rig.serve("failing", one, two)
    one.behave = one.status(429, Retry_After="7")
    two.behave = two.status(429, Retry_After="7")
    before = len(one.seen) + len(two.seen)
    async with rig.post(key) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
    assert len(one.seen) + len(two.seen) == before + 2


async def test_bad_request_is_passed_on_and_not_retried(rig: Rig, replica: Start) -> None:
    one = await replica("one")
    key = await rig.serve("refusing", one)
    one.seen.clear()
    one.behave = one.status(400)
    assert await rig.ask(key) == (400, {"error": {"message": "one", "code": 400}})
    assert len(one.seen) == 1


async def test_stream_that_breaks_is_never_complete_nor_retried(rig: Rig, replica: Start) -> None:
    one = await replica()
    key = await rig.serve("breaking", one)
    one.seen.clear()
    one.behave = one.break_off
    async with rig.post(key, stream=True) as response:
        assert response.status == 200
        with pytest.raises(Exception, match=r"payload|Response"):
            await response.read()
    assert len(one.seen) == 1


async def test_error_of_the_engine_in_a_stream_arrives_and_ends_it(rig: Rig, replica: Start) -> None:
    """As the frontend says it: an event with an error, and no `[DONE]`."""
    one = await replica()
    key = await rig.serve("erring", one)
    one.seen.clear()
    event = b'data: {"error":{"message":"The engine failed.","type":"server_error","code":"engine_error"}}\n\n'

    async def err(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await one.event(response, {"choices": [{"index": 0, "delta": {"content": "a"}}]})
        await response.write(event)
        return response

    one.behave = err
    async with rig.post(key, stream=True) as response:
        text = await response.read()
    assert text.endswith(b'"a"}}]}\n\n' + event)
    assert len(one.seen) == 1


async def test_client_that_leaves_is_noticed_by_the_replica(rig: Rig, replica: Start) -> None:
    one = await replica()
    key = await rig.serve("left", one)
    one.chunks, one.interval = 1000, 0.05
    async with rig.post(key, stream=True) as response:
        await response.content.readany()
        assert one.running == 1
    await until(lambda: one.left == 1, "the replica sees that nobody listens")


async def test_terminating_replica_gets_no_new_request_and_keeps_its_streams(rig: Rig, replica: Start) -> None:
    old, new = await replica("old"), await replica("new")
    key = await rig.serve("rolling", old)
    old.chunks, old.interval = 30, 0.05
    running = asyncio.create_task(rig.stream(key))
    await until(lambda: old.running == 1, "a stream runs")
    await rig.scale(key, new, terminating=(old,))
    seen = len(old.seen)
    await asyncio.gather(*(rig.stream(key) for _ in range(10)))
    assert len(old.seen) == seen
    assert [json.loads(event)["choices"][0]["delta"]["content"] for event in (await running)[:-2]] == [
        f"old {number}" for number in range(30)
    ]


async def test_bare_name_belongs_to_the_older_model(rig: Rig, replica: Start) -> None:
    one, two = await replica("older"), await replica("younger")
    younger = await rig.serve("a-younger", two, created="2026-02-02T00:00:00Z", servedNames=["shared-name"])
    assert (await rig.ask("shared-name"))[1]["choices"][0]["message"]["content"] == "younger"
    await rig.serve("z-older", one, created="2026-01-01T00:00:00Z", servedNames=["shared-name"])

    async def moved() -> bool:
        return bool((await rig.ask("shared-name"))[1]["choices"][0]["message"]["content"] == "older")

    await until(moved, "the older one takes the name")
    assert (await rig.ask(younger))[1]["choices"][0]["message"]["content"] == "younger"


async def test_envoy_takes_every_resource(rig: Rig) -> None:
    found = await rig.load()
    assert (found["complete"], found["rejected"]) == (True, {})
