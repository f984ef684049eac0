"""On-prem first, hosted when it helps: overflow, failover and policies, through the real Envoy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from tests.gateway.hybrid import Hybrid, becomes
from tests.gateway.replica import Replica, together
from tests.gateway.rig import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
Start = Callable[..., Awaitable[Replica]]
SLACK = (0, 1)
"""Two workers of Envoy may each let the last one in."""


async def test_with_room_on_prem_answers(hybrid: Hybrid, replica: Start) -> None:
    one = await replica()
    await hybrid.serve(one, slots=4)
    assert [await hybrid.by() for _ in range(5)] == [(200, "onprem")] * 5
    assert not hybrid.hosted.seen


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


@pytest.mark.parametrize("fault", ["500", "503", "429", "reset", "refused", "garbage", "hang"])
async def test_failing_replica_is_replaced_by_hosted_before_the_first_byte(
    hybrid: Hybrid, replica: Start, fault: str
) -> None:
    """One that hangs fails when its first byte is due: here a second, and five, after its longest wait."""
    one = await replica()
    await hybrid.serve(one, slots=10, holdTimeout="1s")
    if fault == "refused":
        await one.stop()
    else:
        faults = {"reset": one.reset, "garbage": one.garbage, "hang": one.hang}
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


@pytest.mark.parametrize("fault", ["after_headers", "break_off", "truncate"])
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


async def test_policies(hybrid: Hybrid, replica: Start) -> None:
    one = await replica()
    await hybrid.serve(one, slots=4, policy="HostedFirst")
    assert await hybrid.by() == (200, "hosted")
    rig = hybrid.rig
    routing: dict[str, Any] = {"dataResidency": "Any", "hosted": {"apiRef": hybrid.api}}
    rig.model(hybrid.name, **routing, policy="OnPremOnly")
    await until(lambda: becomes(hybrid.by(), (200, "onprem")), "the policy OnPremOnly holds")
    rig.model(hybrid.name, **routing, policy="HostedOnly", whileUnavailable="Hosted")
    await until(lambda: becomes(hybrid.by(), (200, "hosted")), "the policy HostedOnly holds")
    await hybrid.hosted.stop()
    assert (await hybrid.by())[0] == 503


async def test_hold_waits_for_a_replica_although_there_is_a_hosted_api(hybrid: Hybrid, replica: Start) -> None:
    await hybrid.serve(whileUnavailable="Hold")
    waiting = asyncio.create_task(hybrid.by())
    await until(lambda: hybrid.rig.held(hybrid.key), "the request waits")
    hybrid.rig.replicas(hybrid.key, await replica(), slots=4)
    assert await waiting == (200, "onprem")
    assert not hybrid.hosted.seen


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
    await hybrid.serve(one, slots=4, policy="HostedFirst", holdTimeout="1s", api={"capabilities": capabilities})
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
