"""On-prem first, hosted when it helps: overflow, failover and what a hosted API is told, through the real Envoy."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.gateway.connect_proxy import ConnectProxy
from tests.gateway.replica import Replica, together
from tests.gateway.rig import Rig, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
Start = Callable[..., Awaitable[Replica]]
SLACK = (0, 1)
"""Two workers of Envoy may each let the last one in."""
KEY = "hosted-secret-key-0123456789abcdef"


class Hybrid:
    """A model with replicas and a hosted API, each with a name of its own per test."""

    def __init__(self, rig: Rig, hosted: Replica) -> None:
        self.rig = rig
        self.hosted = hosted
        self.api = f"api-{uuid.uuid4().hex[:8]}"
        self.name = f"m-{uuid.uuid4().hex[:8]}"
        self.key = f"t/{self.name}"

    async def serve(self, *replicas: Replica, slots: int | None = None, api: Any = None, **routing: Any) -> None:
        self.rig.secret(f"{self.api}-key", api_key=KEY)
        self.rig.hosted_api(self.api, self.hosted, **(api or {}))
        wanted = {"dataResidency": "Any", "hosted": {"apiRef": self.api}, "whileUnavailable": "Hosted"}
        await self.rig.serve(self.name, *replicas, slots=slots, **(wanted | routing))
        if "allowedNamespaces" not in (api or {}):
            await until(lambda: self.rig.may_leave(self.key), "requests may leave")

    async def by(self, headers: dict[str, str] | None = None, **fields: Any) -> tuple[int, str]:
        """Return status and who served one request."""
        async with self.rig.post(self.key, headers=headers, **fields) as response:
            await response.read()
            return response.status, response.headers.get("x-ax-served-by", "-")


@pytest.fixture
def hybrid(rig: Rig, hosted: Replica) -> Hybrid:
    return Hybrid(rig, hosted)


async def test_with_room_on_prem_answers(hybrid: Hybrid, replica: Start) -> None:
    one = await replica()
    await hybrid.serve(one, slots=4)
    assert [await hybrid.by() for _ in range(5)] == [(200, "onprem")] * 5
    assert not hybrid.hosted.seen


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


async def test_full_replicas_overflow_exactly(hybrid: Hybrid, replica: Start) -> None:
    one = await replica()
    await hybrid.serve(one, slots=20)
    together(60, one, hybrid.hosted)
    answers = await asyncio.gather(*(hybrid.by() for _ in range(60)))
    assert answers.count((200, "onprem")) + answers.count((200, "hosted")) == 60
    assert one.most - 20 in SLACK


async def test_max_wait_lets_more_wait_on_prem(hybrid: Hybrid, replica: Start) -> None:
    one = await replica()
    await hybrid.serve(one, slots=4, overflow={"maxWait": "20s"})
    together(20, one, hybrid.hosted)
    answers = await asyncio.gather(*(hybrid.by() for _ in range(20)))
    assert answers.count((200, "onprem")) - 12 in SLACK


async def test_hosted_takes_no_more_than_its_concurrency(hybrid: Hybrid, replica: Start) -> None:
    one = await replica()
    await hybrid.serve(one, slots=2, api={"maxConcurrency": 5})
    together(20, one, hybrid.hosted)
    answers = await asyncio.gather(*(hybrid.by() for _ in range(20)))
    assert answers.count((200, "hosted")) == hybrid.hosted.most
    assert hybrid.hosted.most - 5 in SLACK
    assert answers.count((200, "onprem")) == 20 - hybrid.hosted.most


@pytest.mark.parametrize("fault", ["500", "503", "429", "reset", "refused", "garbage"])
async def test_failing_replica_is_replaced_by_hosted_before_the_first_byte(
    hybrid: Hybrid, replica: Start, fault: str
) -> None:
    one = await replica()
    await hybrid.serve(one, slots=10)
    if fault == "refused":
        await one.stop()
    else:
        faults = {"reset": one.reset, "garbage": one.garbage}
        one.behave = faults[fault] if fault in faults else one.status(int(fault))
    assert await hybrid.by() == (200, "hosted")
    assert len(one.seen) == (0 if fault == "refused" else 1)
    assert len(hybrid.hosted.seen) == 1


async def test_failing_both_is_one_error(hybrid: Hybrid, replica: Start) -> None:
    one = await replica()
    await hybrid.serve(one, slots=10)
    one.behave, hybrid.hosted.behave = one.status(500), hybrid.hosted.status(500)
    assert (await hybrid.by())[0] == 500
    assert (len(one.seen), len(hybrid.hosted.seen)) == (1, 1)


@pytest.mark.parametrize("fault", ["break_off", "truncate"])
async def test_broken_stream_is_neither_complete_nor_repeated(hybrid: Hybrid, replica: Start, fault: str) -> None:
    one = await replica()
    await hybrid.serve(one, slots=10)
    one.behave = getattr(one, fault)
    hybrid.hosted.behave = getattr(hybrid.hosted, fault)
    for wanted in ("onprem", "hosted"):
        if wanted == "hosted":
            await hybrid.rig.scale(hybrid.key)
        async with hybrid.rig.post(hybrid.key, stream=True) as response:
            assert (response.status, response.headers["x-ax-served-by"]) == (200, wanted)
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
    assert (len(one.seen), len(hybrid.hosted.seen)) == (1, 1)


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


@pytest.mark.parametrize("fault", ["500", "reset", "refused", "hang"])
async def test_failing_hosted_is_ejected_and_on_prem_answers(hybrid: Hybrid, replica: Start, fault: str) -> None:
    one = await replica()
    await hybrid.serve(one, slots=1, policy="HostedFirst")
    if fault == "refused":
        await hybrid.hosted.stop()
    elif fault == "500":
        hybrid.hosted.behave = hybrid.hosted.status(500)
    else:
        hybrid.hosted.behave = hybrid.hosted.hang if fault == "hang" else hybrid.hosted.reset
    assert await asyncio.gather(*(hybrid.by() for _ in range(6))) == [(200, "onprem")] * 6
    seen = len(hybrid.hosted.seen)
    assert [await hybrid.by() for _ in range(6)] == [(200, "onprem")] * 6
    assert len(hybrid.hosted.seen) == seen, "an ejected API is left alone"


async def test_policies(hybrid: Hybrid, replica: Start) -> None:
    one = await replica()
    await hybrid.serve(one, slots=4, policy="HostedFirst")
    assert await hybrid.by() == (200, "hosted")
    rig = hybrid.rig
    routing: dict[str, Any] = {"dataResidency": "Any", "hosted": {"apiRef": hybrid.api}}
    rig.model(hybrid.name, **routing, policy="OnPremOnly")
    await until(lambda: _is(hybrid.by(), (200, "onprem")), "the policy OnPremOnly holds")
    rig.model(hybrid.name, **routing, policy="HostedOnly", whileUnavailable="Hosted")
    await until(lambda: _is(hybrid.by(), (200, "hosted")), "the policy HostedOnly holds")
    await hybrid.hosted.stop()
    assert (await hybrid.by())[0] == 503


async def test_hold_waits_for_a_replica_although_there_is_a_hosted_api(hybrid: Hybrid, replica: Start) -> None:
    await hybrid.serve(whileUnavailable="Hold")
    waiting = asyncio.create_task(hybrid.by())
    await until(lambda: _held(hybrid.rig, hybrid.key), "the request waits")
    hybrid.rig.replicas(hybrid.key, await replica(), slots=4)
    assert await waiting == (200, "onprem")
    assert not hybrid.hosted.seen


async def test_client_that_leaves_is_noticed_by_hosted(hybrid: Hybrid) -> None:
    await hybrid.serve()
    hybrid.hosted.chunks, hybrid.hosted.interval = 1000, 0.05
    async with hybrid.rig.post(hybrid.key, stream=True) as response:
        await response.content.readany()
    await until(lambda: hybrid.hosted.left == 1, "the hosted API sees that nobody listens")


@pytest.mark.parametrize(
    ("lacking", "fields"),
    [
        ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("vision", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]}),
        ("json_schema", {"response_format": {"type": "json_schema"}}),
        ("logprobs", {"logprobs": True}),
        ("choices", {"n": 2}),
    ],
)
async def test_what_hosted_lacks_never_leaves(
    hybrid: Hybrid, replica: Start, lacking: str, fields: dict[str, Any]
) -> None:
    one = await replica()
    capabilities = sorted({"tools", "vision", "json_schema", "logprobs", "choices"} - {lacking})
    await hybrid.serve(one, slots=4, policy="HostedFirst", api={"capabilities": capabilities})
    assert await hybrid.by() == (200, "hosted")
    assert await hybrid.by(**fields) == (200, "onprem")
    assert await hybrid.by(messages=[{"role": "user", "content": json.dumps(fields)}]) == (200, "hosted")
    await hybrid.rig.scale(hybrid.key)
    assert (await hybrid.by(**fields))[0] == 503
    assert len(hybrid.hosted.seen) == 2


async def test_what_hosted_cannot_hold_never_leaves(hybrid: Hybrid, replica: Start) -> None:
    one = await replica()
    await hybrid.serve(one, slots=4, policy="HostedFirst", api={"contextLength": 1000})
    assert await hybrid.by(user="x" * 500) == (200, "hosted")
    assert await hybrid.by(user="x" * 500, max_tokens=700) == (200, "onprem")
    assert await hybrid.by(user="x" * 500, max_completion_tokens=700) == (200, "onprem")
    assert await hybrid.by(user="x" * 1000) == (200, "onprem")


async def test_api_that_is_forbidden_or_missing_is_not_used(hybrid: Hybrid, replica: Start) -> None:
    one = await replica()
    await hybrid.serve(one, slots=4, policy="HostedFirst", api={"allowedNamespaces": ["other"]})
    assert await hybrid.by() == (200, "onprem")
    hybrid.rig.hosted_api(hybrid.api, hybrid.hosted)
    await until(lambda: _is(hybrid.by(), (200, "hosted")), "a permission opens it")
    hybrid.rig.secret(f"{hybrid.api}-key", another="entry")
    await until(lambda: _is(hybrid.by(), (200, "onprem")), "a missing key closes it")


async def test_name_that_leads_to_a_metadata_address_is_refused(hybrid: Hybrid, replica: Start) -> None:
    one = await replica()
    await hybrid.serve(one, slots=4, policy="HostedFirst")
    assert await hybrid.by() == (200, "hosted")
    hybrid.rig.hosted_api(hybrid.api, None, baseUrl="https://169.254.169.254/v1")
    await until(lambda: _is(hybrid.by(), (200, "onprem")), "the address is refused")
    assert "169.254.169.254" not in await hybrid.rig.admin("clusters")


async def test_certificate_of_hosted_is_verified(hybrid: Hybrid, replica: Start) -> None:
    one = await replica()
    await hybrid.serve(one, slots=4, policy="HostedFirst")
    hybrid.rig.hosted_api(hybrid.api, None, baseUrl=f"https://127.0.0.1:{hybrid.hosted.port}/v1")
    await until(lambda: _is(hybrid.by(), (200, "onprem")), "a certificate for another name does not count")
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
        await hybrid.serve()
        await until(lambda: _is(hybrid.by(), (200, "hosted")), "the proxy leads to the API")
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


async def _is(found: Awaitable[Any], wanted: Any) -> bool:
    return bool(await found == wanted)


async def _held(rig: Rig, key: str) -> bool:
    return bool((await rig.load())["models"][key]["held"])
