"""Requests that must stay wait for a replica, while a hosted API answers the others of the same model."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.gateway.hybrid import Hybrid, becomes
from tests.gateway.rig import until
from tests.gateway.test_gateway_hybrid import Start

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize(
    "stays",
    [{"headers": {"x-ax-data-residency": "any"}}, {"tools": [{"type": "function", "function": {"name": "f"}}]}],
    ids=["by its header", "by what it needs"],
)
async def test_what_must_stay_waits_while_the_rest_is_hosted(
    hybrid: Hybrid, replica: Start, stays: dict[str, Any]
) -> None:
    await hybrid.serve(api={"capabilities": []})
    waiting = [asyncio.create_task(hybrid.by(**stays)) for _ in range(5)]
    await until(lambda: becomes(hybrid.rig.held(hybrid.key), 5), "they wait")
    assert await hybrid.by() == (200, "hosted")
    assert [task.done() for task in waiting] == [False] * 5
    hybrid.rig.replicas(hybrid.key, await replica())
    assert await asyncio.gather(*waiting) == [(200, "onprem")] * 5
    await until(lambda: becomes(hybrid.by(), (200, "onprem")), "all on-prem again")
    assert not any(key in seen.body for seen in hybrid.hosted.seen for key in stays)


async def test_what_must_stay_waits_no_longer_than_it_may(hybrid: Hybrid) -> None:
    await hybrid.serve(holdTimeout="1s")
    async with hybrid.rig.post(hybrid.key, headers={"x-ax-data-residency": "any"}) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        assert "got ready within 1 s" in (await response.json())["error"]["message"]
    assert not hybrid.hosted.seen
