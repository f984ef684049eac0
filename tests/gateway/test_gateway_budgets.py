"""Money: what hosted answers cost, the ledger, and bounds that hold."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ax_gateway.ledger import SELECTOR, day_of, name_of
from ax_operator.kinds import CONFIGMAP
from tests.gateway.accounting import client, counts, hosted_model, status_is, total
from tests.gateway.replica import Replica
from tests.gateway.rig import Rig, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
Start = Callable[..., Awaitable[Replica]]


async def test_hosted_tokens_cost_money(counting: Rig, hosted: Replica) -> None:
    key = await hosted_model(counting, hosted, "paid", dailyBudget=1_000_000)
    await counting.ask(key)
    await counting.stream(key)
    await until(lambda: counts(counting, key, 14, 6, "hosted"), "two answers of 7 + 3 tokens are counted")
    assert await total(counting, "ax_gateway_krw_total", api="paid", model=key, client="owner") == 26
    assert await total(counting, "ax_gateway_krw_today", api="paid") == 26

    async def written() -> bool:
        found = counting.api.get(CONFIGMAP, "ax-system", name_of(day_of(time.time())))
        rows = json.loads(found["data"].get("gateway-a", "[]")) if found else []
        return ["paid", key, "owner", 2, 14, 6, 26.0] in rows

    await until(written, "the ledger has it")


async def test_spent_budget_closes_an_api_and_no_other(counting: Rig, hosted: Replica, replica: Start) -> None:
    one = await replica()
    poor = await hosted_model(counting, hosted, "poor", dailyBudget=20)
    rich = await hosted_model(counting, hosted, "rich", dailyBudget=1_000_000)
    assert [(await counting.ask(poor))[0] for _ in range(2)] == [200, 200], "what is not counted yet is served"
    await until(lambda: status_is(counting, poor, 503), "26 of 20 KRW close it")
    assert (await counting.ask(rich))[0] == 200
    assert await total(counting, "ax_gateway_budget_closed", api="poor") == 1
    told = (await counting.load())["hosted"]
    assert told["poor"]["spentToday"] >= 26
    assert told["poor"]["state"] == "reachable"
    assert "20 KRW" in told["poor"]["closed"]
    await counting.scale(poor, one)
    assert (await counting.ask(poor))[0] == 200
    assert len(one.seen) == 1


async def test_other_gateways_spend_the_same_budget(counting: Rig, hosted: Replica) -> None:
    key = await hosted_model(counting, hosted, "shared-budget", dailyBudget=100)
    assert (await counting.ask(key))[0] == 200
    _write_ledger(counting, "gateway-b", json.dumps([["shared-budget", key, "owner", 1, 50, 25, 100.0]]))
    await until(lambda: status_is(counting, key, 503), "what another gateway wrote counts")


async def test_unreadable_ledger_closes_what_has_a_budget(counting: Rig, hosted: Replica) -> None:
    bounded = await hosted_model(counting, hosted, "bounded", dailyBudget=1_000_000)
    free = await hosted_model(counting, hosted, "unbounded")
    assert (await counting.ask(bounded))[0] == 200
    _write_ledger(counting, "gateway-c", "no rows")
    await until(lambda: status_is(counting, bounded, 503), "it is closed")
    assert (await counting.ask(free))[0] == 200


async def test_client_s_daily_money_keeps_it_on_prem(counting: Rig, hosted: Replica) -> None:
    key = await hosted_model(counting, hosted, "for-clients")
    poor = client(counting, "poor-client", dailyKRW=10)
    await until(lambda: status_is(counting, "nobody's", 404, poor), "the key is known")
    await until(lambda: status_is(counting, key, 503, poor), "13 of 10 KRW keep it on-prem")
    assert (await counting.ask(key))[0] == 200, "others are served"


async def test_tokens_per_minute_block_a_client(counting: Rig, replica: Start) -> None:
    one = await replica()
    key = await counting.serve("tokens", one)
    greedy = client(counting, "greedy", tokensPerMinute=25)
    await until(lambda: status_is(counting, key, 429, greedy), "30 of 25 tokens block it")
    async with counting.post(key, headers=greedy) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "60")
        assert (await response.json())["error"]["code"] == "rate_limit_exceeded"
    assert (await counting.ask(key))[0] == 200


@pytest.mark.parametrize(("fault", "state"), [("401", "key_rejected"), ("503", "unreachable"), ("404", "reachable")])
async def test_state_of_an_api_is_told(counting: Rig, hosted: Replica, fault: str, state: str) -> None:
    key = await hosted_model(counting, hosted, f"state-{fault}")
    hosted.behave = hosted.status(int(fault))
    await counting.ask(key)

    async def told() -> bool:
        return bool((await counting.load())["hosted"][f"state-{fault}"]["state"] == state)

    await until(told, f"the API is {state}")


async def test_restarted_agent_counts_nothing_twice(
    tmp_path: Path, hosted: Replica, hosted_settings: dict[str, Any]
) -> None:
    rig = Rig(tmp_path, **hosted_settings)
    try:
        await rig.start()
        key = await hosted_model(rig, hosted, "once", dailyBudget=40)
        await rig.ask(key)
        await until(lambda: _today(rig, "once", 13), "one answer is paid")
        await rig.end(rig.agent)
        assert (await rig.ask(key))[0] == 200, "served while the agent is away"
        await rig.start_agent()
        await until(lambda: _today(rig, "once", 26), "both are paid, each once")
        await rig.end(rig.envoy)
        await rig.start_envoy()
        await until(rig.is_ready, "a new Envoy counts from zero")
        await rig.ask(key)
        await until(lambda: _today(rig, "once", 39), "all three are paid")
        await until(lambda: _printed(rig, rf"once +{key} +3 +21 +9 +39\.00"), "the command tells it")
    finally:
        await rig.stop()


def _write_ledger(rig: Rig, node: str, entry: str) -> None:
    """Write as another gateway does."""
    name = name_of(day_of(time.time()))
    found = rig.api.get(CONFIGMAP, "ax-system", name) or {"data": {}}
    label, _, value = SELECTOR.partition("=")
    metadata = {"namespace": "ax-system", "name": name, "labels": {label: value}}
    rig.api.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": found["data"] | {node: entry}})


async def _printed(rig: Rig, pattern: str) -> bool:
    return bool(re.search(pattern, await rig.command("spend")))


async def _today(rig: Rig, api: str, krw: float) -> bool:
    try:
        return await total(rig, "ax_gateway_krw_today", api=api) == krw
    except OSError:
        return False
