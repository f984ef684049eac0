"""Requests wait while a model has no replica, and go on the moment one is ready."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.gateway.replica import Replica
from tests.gateway.rig import PATIENCE, Rig, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
Start = Callable[..., Awaitable[Replica]]


async def test_requests_wait_for_the_first_replica(rig: Rig, replica: Start) -> None:
    one = await replica()
    key = await rig.serve("waking", whileUnavailable="Hold", servedNames=["waking-name"])
    waiting: list[asyncio.Task[object]] = [asyncio.create_task(rig.stream(key)) for _ in range(20)]
    waiting += [asyncio.create_task(rig.ask("waking-name", padding="x" * 1_000_000)) for _ in range(3)]
    await until(lambda: _is(rig.held(key), 23), "all of them wait")
    assert (await rig.load())["models"][key] == {"running": 0, "held": 23, "overflowed": 0}
    rig.replicas(key, one)
    ready = time.monotonic()
    await asyncio.gather(*waiting)
    assert time.monotonic() - ready < PATIENCE
    assert len(one.seen) == 23
    assert one.seen[-1].body["padding"] == "x" * 1_000_000 or len(one.seen[-1].body) == 3
    assert await rig.held(key) == 0


async def test_waiting_ends_with_503_and_retry_after(rig: Rig) -> None:
    key = await rig.serve("never", whileUnavailable="Hold", holdTimeout="1s")
    async with rig.post(key) as response:
        assert response.status == 503
        assert (await rig.ended(key)) == {"timeout": 1}
        assert int(response.headers["Retry-After"]) > 0
        assert not {"x-ax-hold", "x-envoy-ratelimited"} & set(response.headers)
        error = (await response.json())["error"]
    assert error["code"] == "model_unavailable"
    assert "within 1 s" in error["message"]


async def test_reject_answers_at_once(rig: Rig, replica: Start) -> None:
    key = await rig.serve("rejecting", whileUnavailable="Reject")
    async with rig.post(key) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        assert key in (await response.json())["error"]["message"]
    one = await replica()
    await rig.scale(key, one)
    await until(lambda: rig.served(key), "it answers once there is a replica")


async def test_client_that_leaves_waits_no_more(rig: Rig) -> None:
    key = await rig.serve("deserted")
    small = asyncio.create_task(rig.ask(key))
    large = asyncio.create_task(rig.ask(key, padding="x" * 5_000_000))
    await until(lambda: _is(rig.held(key), 2), "both wait")
    small.cancel()
    large.cancel()
    await until(lambda: _is(rig.held(key), 0), "nobody waits")


async def test_last_replica_goes_and_the_next_comes(rig: Rig, replica: Start) -> None:
    one, two = await replica("one"), await replica("two")
    key = await rig.serve("to-zero-and-back", one)
    await rig.scale(key)
    await one.stop()
    waiting = asyncio.create_task(rig.ask(key))
    await until(lambda: _is(rig.held(key), 1), "the request waits")
    rig.replicas(key, two)
    assert (await waiting)[1]["choices"][0]["message"]["content"] == "two"


async def test_replica_that_died_unnoticed_gives_503_within_bounds(rig: Rig, replica: Start) -> None:
    one = await replica("one")
    key = await rig.serve("dead-replica", one)
    await one.stop()
    async with rig.post(key) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        assert (await response.json())["error"]["type"] == "server_error"


async def test_long_poll_returns_when_somebody_waits(rig: Rig) -> None:
    key = await rig.serve("polled")
    version = (await rig.load())["version"]

    async def seen() -> bool:
        nonlocal version
        found = await rig.load(version, wait=5)
        version = found["version"]
        return bool(found["models"][key]["held"] == 1)

    waiting = asyncio.create_task(rig.ask(key))
    await until(seen, "the poll tells of it")
    waiting.cancel()
    rig.remove(key)


async def test_bounds_in_number_and_bytes(tmp_path: Path, replica: Start) -> None:
    rig = Rig(tmp_path, held_requests=3, held_bytes=1_000_000)
    try:
        await rig.start()
        key = await rig.serve("crowded")
        large = asyncio.create_task(rig.ask(key, padding="x" * 900_000))
        await until(lambda: _is(rig.held(key), 1), "a large one waits")
        status, body = await rig.ask(key, padding="x" * 200_000)
        assert (status, body["error"]["code"]) == (503, "model_unavailable")
        small = [asyncio.create_task(rig.ask(key)) for _ in range(2)]
        await until(lambda: _is(rig.held(key), 3), "three wait")
        assert (await rig.ask(key))[0] == 503
        rig.replicas(key, await replica())
        assert [status for status, _ in await asyncio.gather(large, *small)] == [200] * 3
    finally:
        await rig.stop()


async def test_burst_of_released_requests_is_not_cut_by_the_retry_budget(rig: Rig, replica: Start) -> None:
    key = await rig.serve("burst")
    waiting = [asyncio.create_task(rig.stream(key)) for _ in range(300)]
    await until(lambda: _is(rig.held(key), 300), "all of them wait")
    rig.replicas(key, await replica())
    for events in await asyncio.gather(*waiting):
        assert json.loads(events[-2])["usage"]["completion_tokens"] == 3


async def _is(found: Awaitable[int], wanted: int) -> bool:
    return await found == wanted
