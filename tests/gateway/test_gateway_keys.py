"""Client keys: who may ask, for what, how often; changed without a restart and without breaking a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ax_operator.api.names import CLIENT_KEY
from ax_operator.kinds import SECRET
from tests.gateway.replica import Replica
from tests.gateway.rig import Rig, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
Start = Callable[..., Awaitable[Replica]]


def key_of(client: str) -> str:
    return f"sk-{client}-" + "k" * 32


def client(rig: Rig, name: str, key: str = "", **policy: Any) -> dict[str, str]:
    """Make a client; return the headers that it sends."""
    found = key or key_of(name)
    rig.secret(name, {CLIENT_KEY: "true"}, key=found, policy=json.dumps(policy))
    return {"Authorization": f"Bearer {found}"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(
    tmp_path_factory: pytest.TempPathFactory, hosted_settings: dict[str, Any]
) -> AsyncIterator[tuple[Rig, Replica]]:
    """A gateway that wants keys, with one model and one client `owner`."""
    rig = Rig(tmp_path_factory.mktemp("guarded"), client_keys="required", replicas=2, **hosted_settings)
    one = await Replica("one").start()
    try:
        await rig.start()
        rig.session.headers.update(client(rig, "owner"))
        await until(lambda: _passes(rig, {}), "the owner's key is known")
        await rig.serve("open", one, servedNames=["open-name"])
        yield rig, one
    finally:
        await rig.stop()
        await one.stop()


async def _status(rig: Rig, headers: dict[str, str], model: str = "t/open") -> int:
    async with rig.post(model, headers=headers) as response:
        return response.status


async def _passes(rig: Rig, headers: dict[str, str]) -> bool:
    return await _status(rig, headers, "nobody's") == 404


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic b3duZXI6", "bearer x", key_of("nobody")]
)
async def test_without_a_known_key_there_is_a_401(guarded: tuple[Rig, Replica], value: str) -> None:
    rig, one = guarded
    seen = len(one.seen)
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/nothing")):
        async with rig.session.request(method, rig.url + path, headers={"Authorization": value}) as response:
            assert response.status == 401
            assert (await response.json())["error"]["code"] == "invalid_api_key"
    spoofed = {"Authorization": value, "x-ax-client": "--:owner"}
    assert await _status(rig, spoofed) == 401
    assert len(one.seen) == seen


async def test_key_and_cookies_end_at_the_gateway(guarded: tuple[Rig, Replica]) -> None:
    rig, one = guarded
    assert await _status(rig, {"Cookie": "session=1", "x-ax-client": "--:other"}) == 200
    headers = one.seen[-1].headers
    assert "authorization" not in headers
    assert "cookie" not in headers
    assert headers["x-ax-client"] == "--:owner"


async def test_client_with_a_list_uses_what_is_on_it(guarded: tuple[Rig, Replica]) -> None:
    rig, one = guarded
    limited = client(rig, "limited", models=["open-name"])
    other = await rig.serve("closed", one)
    await until(lambda: _passes(rig, limited), "the key is known")
    await until(lambda: _is(_status(rig, limited), 200), "a listed name opens its model under every name")
    async with rig.post(other, headers=limited) as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "model_not_found"
    assert await _status(rig, {}, other) == 200


async def test_requests_per_minute_are_this_gateway_s_share(guarded: tuple[Rig, Replica]) -> None:
    rig, _ = guarded
    slow = client(rig, "slow", requestsPerMinute=7)
    await until(lambda: _is(_answer(rig, slow), "known"), "the key is known")
    answers = [await _status(rig, slow) for _ in range(6)]
    assert answers.count(429) >= 2
    async with rig.post("t/open", headers=slow) as response:
        assert response.status == 429
        assert int(response.headers["Retry-After"]) > 0
        assert (await response.json())["error"]["code"] == "rate_limit_exceeded"
    assert await _status(rig, {}) == 200, "others are not slowed"


async def test_resident_client_never_leaves(guarded: tuple[Rig, Replica], hosted: Replica) -> None:
    rig, _ = guarded
    rig.secret("res-api-key", api_key="k" * 40)
    rig.hosted_api("res-api", hosted)
    routing: dict[str, Any] = {"dataResidency": "Any", "hosted": {"apiRef": "res-api"}, "whileUnavailable": "Hosted"}
    routing["holdTimeout"] = "1s"
    resident = client(rig, "resident", dataResidency="OnPrem")
    key = await rig.serve("leaving", **routing)
    await until(lambda: _passes(rig, resident), "the key is known")
    await until(lambda: _is(_status(rig, {}, key), 200), "others are served by the hosted API")
    seen = len(hosted.seen)
    assert await _status(rig, resident, key) == 503
    assert len(hosted.seen) == seen


async def test_keys_come_and_go_without_breaking_streams(guarded: tuple[Rig, Replica]) -> None:
    rig, one = guarded
    old, new = key_of("rotating"), key_of("rotated")
    labels = {CLIENT_KEY: "true"}
    rig.secret("rotating", labels, key=old)
    await until(lambda: _passes(rig, {"Authorization": f"Bearer {old}"}), "the first key is known")
    one.chunks, one.interval = 20, 0.05
    stream = asyncio.create_task(rig.stream("t/open", headers={"Authorization": f"Bearer {old}"}))
    await until(lambda: one.running == 1, "a stream runs")
    rig.secret("rotating", labels, key_old=old, key=new)
    await until(lambda: _passes(rig, {"Authorization": f"Bearer {new}"}), "the second key is known")
    assert await _passes(rig, {"Authorization": f"Bearer {old}"})
    rig.secret("rotating", labels, key=new)
    await until(lambda: _is(_status(rig, {"Authorization": f"Bearer {old}"}), 401), "the first key is gone")
    rig.api.delete(SECRET, "ax-system", "rotating")
    await until(lambda: _is(_status(rig, {"Authorization": f"Bearer {new}"}), 401), "the client is gone")
    one.chunks, one.interval = 3, 0.0
    assert len(await stream) == 22


@pytest.mark.parametrize(
    "data",
    [
        {"key": "short"},
        {"key": "with space " + "k" * 40},
        {"key": "é" * 40},
        {"policy": "{}"},
        {"key": "k" * 40, "policy": '{"dataResidency": "Anywhere"}'},
    ],
)
async def test_bad_secret_hurts_nobody(guarded: tuple[Rig, Replica], data: dict[str, str]) -> None:
    rig, _ = guarded
    rig.secret("bad", {CLIENT_KEY: "true"}, **data)
    good = client(rig, "good-after-bad")
    await until(lambda: _passes(rig, good), "a good key after it is known")
    assert "object=bad" in rig.log()
    assert await _status(rig, {"Authorization": "Bearer " + "k" * 40}) == 401
    assert "k" * 32 not in rig.log()


async def test_command_makes_a_secret_that_works(guarded: tuple[Rig, Replica]) -> None:
    rig, _ = guarded
    printed = await rig.command("key", "--name", "made", "--model", "open-name", "--requests-per-minute", "600")
    manifest = json.loads(printed)
    rig.secret("made", manifest["metadata"]["labels"], **manifest["stringData"])
    headers = {"Authorization": f"Bearer {manifest['stringData']['key']}"}
    await until(lambda: _is(_status(rig, headers), 200), "the key works")
    other = json.loads(await rig.command("key", "--name", "made"))
    assert len(other["stringData"]["key"]) >= 43
    assert other["stringData"]["key"] != manifest["stringData"]["key"]


async def test_keys_survive_a_restart_without_the_api_server(tmp_path: Path, replica: Start) -> None:
    rig = Rig(tmp_path, client_keys="required")
    try:
        await rig.start()
        headers = client(rig, "kept")
        rig.session.headers.update(headers)
        await until(lambda: _passes(rig, {}), "the key is known")
        key = await rig.serve("model", await replica())
        world = tmp_path / "state" / "world.json"
        await until(lambda: world.exists() and "kept" in world.read_text(), "the world is saved")
        await rig.api.stop()
        await rig.end(rig.envoy)
        await rig.end(rig.agent)
        await rig.start_agent()
        await rig.start_envoy()
        await until(rig.is_ready, "the gateway is back")
        assert await _status(rig, {}, key) == 200
        assert await _status(rig, {"Authorization": "Bearer x"}, key) == 401
    finally:
        await rig.stop()


async def _answer(rig: Rig, headers: dict[str, str]) -> str:
    """Learn whether a key is known without using up its requests."""
    config = await rig.admin("config_dump?resource=ecds_filters")
    return "known" if "--:slow" in config else "unknown"


async def _is(found: Awaitable[Any], wanted: Any) -> bool:
    return bool(await found == wanted)
