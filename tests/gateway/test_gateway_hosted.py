"""The hosted API: what it is told, how its faults are met, and that its key is seen nowhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.connect_proxy import ConnectProxy
from tests.gateway.hybrid import KEY, Hybrid, becomes
from tests.gateway.replica import Replica
from tests.gateway.rig import Rig, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
Start = Callable[..., Awaitable[Replica]]


async def test_without_replica_hosted_answers_and_learns_little(hybrid: Hybrid) -> None:
    await hybrid.serve(api={"dropFields": ["logit_bias", "user"]})
    own = {
        "Authorization": "Bearer client-key",
        "Cookie": "session=1",
        "X-Forwarded-For": "10.1.2.3",
        "X-Real-IP": "10.1.2.3",
        "X-Custom": "secret",
        "OpenAI-Organization": "org",
        "x-ax-model": "other",
        "x-ax-api-model": "other",
    }
    fields: dict[str, Any] = {"logit_bias": {"1": 2}, "user": "alice", "seed": 9007199254740993, "temperature": 0.1}
    fields |= {"stop": ['}"],\\"model":"x"'], "metadata": {"model": "inner", "user": "inner"}}
    assert await hybrid.by(own, **fields) == (200, "hosted")
    seen = hybrid.hosted.seen[-1]
    assert seen.path == "/api/v1/chat/completions"
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["host"] == f"localhost:{hybrid.hosted.port}"
    assert set(seen.headers) <= {"authorization", "host", "content-type", "content-length", "accept"}
    kept = {key: value for key, value in fields.items() if key not in ("logit_bias", "user")}
    assert seen.body == hybrid.rig.body("ax4", **kept)


@pytest.mark.parametrize(
    "body",
    [
        ' \n{ "messages" : [ { "content" : "{\\"model\\":\\"x\\"}" } ] , "model" : "MODEL" } \n',
        '{"a":{"model":"in"},"b":[{"model":["]"]}],"c":"\\\\","d":"\\"","model":"MODEL","e":1e5,"f":-0.0,"g":null}',
        '{"model":"MODEL","us\\u0065r":"bob"}',
        '{"model":"MODEL"}',
        '{"한국어":"안녕 \\ud83d\\ude00 😀","model":"MODEL"}',
    ],
)
async def test_rewritten_body_is_what_it_was_but_for_the_model(hybrid: Hybrid, body: str) -> None:
    await hybrid.serve(api={"dropFields": ["user"]})
    data = body.replace("MODEL", hybrid.key).encode()
    async with hybrid.rig.session.post(
        hybrid.rig.url + "/v1/chat/completions", data=data, headers={"Content-Type": "application/json"}
    ) as response:
        assert response.status == 200, await response.text()
    wanted = json.loads(data) | {"model": "ax4"}
    if "u0065" in body:
        wanted = {"model": "ax4"}
    assert hybrid.hosted.seen[-1].body == wanted


@pytest.mark.parametrize("body", ['{"model":"other","model":"MODEL"}', '{"mod\\u0065l":"other","model":"MODEL"}'])
async def test_two_models_are_none(hybrid: Hybrid, body: str) -> None:
    await hybrid.serve()
    async with hybrid.rig.session.post(
        hybrid.rig.url + "/v1/chat/completions",
        data=body.replace("MODEL", hybrid.key).encode(),
        headers={"Content-Type": "application/json"},
    ) as response:
        assert response.status == 400
    assert not hybrid.hosted.seen


async def test_stream_asks_hosted_for_usage(hybrid: Hybrid) -> None:
    await hybrid.serve()
    events = await hybrid.rig.stream(hybrid.key, stream_options={"include_usage": False, "other": 1})
    assert hybrid.hosted.seen[-1].body["stream_options"] == {"include_usage": True}
    assert json.loads(events[-2])["usage"]["completion_tokens"] == 3


async def test_rate_limit_of_hosted_is_passed_on_and_not_repeated(hybrid: Hybrid) -> None:
    await hybrid.serve()
    hybrid.hosted.behave = hybrid.hosted.status(429, Retry_After="17", Set_Cookie="a=b")
    async with hybrid.rig.post(hybrid.key) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "17")
        assert "Set-Cookie" not in response.headers
        assert not [name for name in response.headers if name.lower().startswith("x-envoy")]
    assert len(hybrid.hosted.seen) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_other_errors_of_hosted_pass_and_eject_nobody(hybrid: Hybrid, status: int) -> None:
    await hybrid.serve()
    hybrid.hosted.behave = hybrid.hosted.status(status)
    assert [await hybrid.by() for _ in range(8)] == [(status, "hosted")] * 8
    assert len(hybrid.hosted.seen) == 8


@pytest.mark.parametrize("fault", ["500", "503", "reset", "refused", "garbage", "hang"])
async def test_failing_hosted_is_ejected_and_on_prem_answers(hybrid: Hybrid, replica: Start, fault: str) -> None:
    one = await replica()
    await hybrid.serve(one, slots=1, policy="HostedFirst")
    if fault == "refused":
        await hybrid.hosted.stop()
    else:
        faults = {"hang": hybrid.hosted.hang, "reset": hybrid.hosted.reset, "garbage": hybrid.hosted.garbage}
        hybrid.hosted.behave = faults[fault] if fault in faults else hybrid.hosted.status(int(fault))
    assert await asyncio.gather(*(hybrid.by() for _ in range(6))) == [(200, "onprem")] * 6
    seen = len(hybrid.hosted.seen)
    assert [await hybrid.by() for _ in range(6)] == [(200, "onprem")] * 6
    assert len(hybrid.hosted.seen) == seen, "an ejected API is left alone"


async def test_slow_hosted_is_waited_for(hybrid: Hybrid, replica: Start) -> None:
    """Longer in all than its first byte may take, and silent in between; the bound is for the first byte alone."""
    await hybrid.serve(await replica(), slots=1, policy="HostedFirst")
    hybrid.hosted.chunks, hybrid.hosted.interval = 4, 0.7
    events = await hybrid.rig.stream(hybrid.key)
    assert [json.loads(event)["choices"][0]["delta"]["content"] for event in events[:4]] == [
        f"hosted {number}" for number in range(4)
    ]


async def test_client_that_leaves_is_noticed_by_hosted(hybrid: Hybrid) -> None:
    await hybrid.serve()
    hybrid.hosted.chunks, hybrid.hosted.interval = 1000, 0.05
    async with hybrid.rig.post(hybrid.key, stream=True) as response:
        await response.content.readany()
    await until(lambda: hybrid.hosted.left == 1, "the hosted API sees that nobody listens")


async def test_api_that_is_forbidden_or_missing_is_not_used(hybrid: Hybrid, replica: Start) -> None:
    one = await replica()
    await hybrid.serve(one, slots=4, policy="HostedFirst", api={"allowedNamespaces": ["other"]})
    assert await hybrid.by() == (200, "onprem")
    hybrid.rig.hosted_api(hybrid.api, hybrid.hosted)
    await until(lambda: becomes(hybrid.by(), (200, "hosted")), "a permission opens it")
    hybrid.rig.secret(f"{hybrid.api}-key", another="entry")
    await until(lambda: becomes(hybrid.by(), (200, "onprem")), "a missing key closes it")


async def test_name_that_leads_to_a_metadata_address_is_refused(hybrid: Hybrid, replica: Start) -> None:
    one = await replica()
    await hybrid.serve(one, slots=4, policy="HostedFirst")
    assert await hybrid.by() == (200, "hosted")
    hybrid.rig.hosted_api(hybrid.api, None, baseUrl="https://169.254.169.254/v1")
    await until(lambda: becomes(hybrid.by(), (200, "onprem")), "the address is refused")
    assert "169.254.169.254" not in await hybrid.rig.admin("clusters")


async def test_certificate_of_hosted_is_verified(hybrid: Hybrid, replica: Start) -> None:
    one = await replica()
    await hybrid.serve(one, slots=4, policy="HostedFirst")
    hybrid.rig.hosted_api(hybrid.api, None, baseUrl=f"https://127.0.0.1:{hybrid.hosted.port}/v1")
    await until(lambda: becomes(hybrid.by(), (200, "onprem")), "a certificate for another name does not count")
    assert not hybrid.hosted.seen or hybrid.hosted.seen[-1].headers["host"].startswith("localhost")


async def test_key_is_rotated_without_a_restart_and_seen_nowhere(hybrid: Hybrid) -> None:
    await hybrid.serve()
    assert await hybrid.by() == (200, "hosted")
    hybrid.rig.secret(f"{hybrid.api}-key", api_key="another-key")

    async def rotated() -> bool:
        await hybrid.by()
        return hybrid.hosted.seen[-1].headers["authorization"] == "Bearer another-key"

    await until(rotated, "the new key is used")
    assert KEY not in hybrid.rig.log()
    assert "another-key" not in hybrid.rig.log()
    assert KEY not in await hybrid.rig.admin("config_dump")


async def test_proxy_is_asked_for_the_name(tmp_path: Path, hosted: Replica, hosted_settings: dict[str, Any]) -> None:
    """Also for one that nobody else resolves; the API's certificate is verified through the tunnel."""
    proxy = await ConnectProxy(hosted.port).start()
    rig = Rig(tmp_path, **hosted_settings, proxy=f"localhost:{proxy.port}")
    try:
        await rig.start()
        hybrid = Hybrid(rig, hosted)
        await hybrid.serve(holdTimeout="1s")
        await until(lambda: becomes(hybrid.by(), (200, "hosted")), "the proxy leads to the API")
        assert set(proxy.asked) == {f"localhost:{hosted.port}"}
        rig.hosted_api(hybrid.api, None, baseUrl="https://only-the-proxy-knows.invalid/v1")
        await until(lambda: _asked(hybrid, proxy, "only-the-proxy-knows.invalid:443"), "the proxy is asked")
        assert len(hosted.seen) >= 1
    finally:
        await rig.stop()
        await proxy.stop()


async def _asked(hybrid: Hybrid, proxy: ConnectProxy, name: str) -> bool:
    status, _ = await hybrid.by()
    return name in proxy.asked and status == 503
