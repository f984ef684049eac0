"""Tokens and money: counted from answers, kept in the ledger, and bounds that hold."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ax_gateway.ledger import SELECTOR, day_of, name_of
from ax_operator.api.names import CLIENT_KEY
from ax_operator.kinds import CONFIGMAP
from tests.gateway.replica import Replica, together
from tests.gateway.rig import Rig, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
Start = Callable[..., Awaitable[Replica]]
SLACK = (0, 1)
"""Two workers of Envoy may each let the last one in."""
PRICES = {"prices": {"input": 1_000_000, "output": 2_000_000}}
"""KRW per million tokens: one for a token of the prompt, two for one of the answer; 7 + 2 * 3 = 13 for an answer."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def counting(tmp_path_factory: pytest.TempPathFactory, hosted_settings: dict[str, Any]) -> AsyncIterator[Rig]:
    settings = hosted_settings | {"client_keys": "required", "access_log": "stdout", "node": "gateway-a"}
    rig = Rig(tmp_path_factory.mktemp("counting"), **settings)
    try:
        await rig.start()
        rig.session.headers.update(_client(rig, "owner"))
        await until(lambda: _status_is(rig, "nobody's", 404), "the owner's key is known")
        yield rig
    finally:
        await rig.stop()


def _client(rig: Rig, name: str, **policy: Any) -> dict[str, str]:
    key = f"sk-{name}-" + "k" * 32
    rig.secret(name, {CLIENT_KEY: "true"}, key=key, policy=json.dumps(policy))
    return {"Authorization": f"Bearer {key}"}


async def _status_is(rig: Rig, model: str, wanted: int, headers: dict[str, str] | None = None) -> bool:
    async with rig.post(model, headers=headers) as response:
        return response.status == wanted


async def _hosted(rig: Rig, hosted: Replica, name: str, **spec: Any) -> str:
    """Serve a model by a hosted API alone."""
    rig.secret(f"{name}-key", api_key="k" * 40)
    rig.hosted_api(name, hosted, **PRICES, **spec)
    routing: dict[str, Any] = {"dataResidency": "Any", "hosted": {"apiRef": name}, "whileUnavailable": "Hosted"}
    key = await rig.serve(name, **routing)
    await until(lambda: rig.may_leave(key), "requests may leave")
    return key


async def _sum(rig: Rig, family: str, **labels: str) -> float:
    found = await rig.metrics(family)
    return sum(value for key, value in found.items() if labels.items() <= dict(key).items())


async def _counts(rig: Rig, key: str, prompt: int, completion: int, backend: str = "onprem") -> bool:
    tokens = [
        await _sum(rig, f"ax_gateway_{kind}_tokens_total", model=key, backend=backend)
        for kind in ("prompt", "completion")
    ]
    return tokens == [prompt, completion]


async def test_tokens_of_json_and_streams_are_counted(counting: Rig, replica: Start) -> None:
    one = await replica()
    key = await counting.serve("counted", one, servedNames=["counted-name"])
    await counting.ask(key)
    await counting.stream("counted-name")
    await until(lambda: _counts(counting, key, 14, 6), "two answers of 7 + 3 tokens are counted")
    found = {"model": key, "backend": "onprem", "client": "owner", "code": "200", "way": "onprem"}
    assert await _sum(counting, "ax_gateway_requests_total", **found) == 2


async def test_tokens_of_a_stream_that_is_left_are_counted(counting: Rig, replica: Start) -> None:
    one = await replica()
    one.chunks, one.interval = 1000, 0.02
    key = await counting.serve("left", one)
    async with counting.post(key, stream=True) as response:
        while b'"completion_tokens": 5' not in await response.content.readany():
            continue
    await until(lambda: one.left == 1, "the replica sees it")

    async def counted() -> bool:
        tokens = await _sum(counting, "ax_gateway_completion_tokens_total", model=key)
        return 5 <= tokens <= 1000 and await _sum(counting, "ax_gateway_prompt_tokens_total", model=key) == 7

    await until(counted, "the tokens so far are counted")


async def test_hosted_tokens_cost_money(counting: Rig, hosted: Replica) -> None:
    key = await _hosted(counting, hosted, "paid", dailyBudget=1_000_000)
    await counting.ask(key)
    await counting.stream(key)
    await until(lambda: _counts(counting, key, 14, 6, "hosted"), "two answers of 7 + 3 tokens are counted")
    assert await _sum(counting, "ax_gateway_krw_total", api="paid", model=key, client="owner") == 26
    assert await _sum(counting, "ax_gateway_krw_today", api="paid") == 26

    async def written() -> bool:
        found = counting.api.get(CONFIGMAP, "ax-system", name_of(day_of(time.time())))
        rows = json.loads(found["data"].get("gateway-a", "[]")) if found else []
        return ["paid", key, "owner", 2, 14, 6, 26.0] in rows

    await until(written, "the ledger has it")


@pytest.mark.parametrize("tells_usage", [True, False])
async def test_hosted_stream_without_usage_is_counted_by_its_events(
    counting: Rig, hosted: Replica, tells_usage: bool
) -> None:
    """A client that always leaves before the end would otherwise never pay; an API may tell no usage."""
    key = await _hosted(counting, hosted, f"broken-{tells_usage}".lower())
    hosted.tells_usage = tells_usage
    if tells_usage:
        hosted.chunks, hosted.interval = 1000, 0.02
        async with counting.post(key, stream=True) as response:
            while b"hosted 8" not in await response.content.readany():
                continue
        await until(lambda: hosted.left == 1, "the hosted API sees that nobody listens")
    else:
        hosted.chunks = 9
        await counting.stream(key)

    async def counted() -> bool:
        tokens = await _sum(counting, "ax_gateway_completion_tokens_total", model=key, backend="hosted")
        paid = await _sum(counting, "ax_gateway_krw_total", model=key, client="owner")
        return 9 <= tokens <= 1000 and paid >= 2 * tokens

    await until(counted, "about a token for each event is counted and paid")


async def test_spent_budget_closes_an_api_and_no_other(counting: Rig, hosted: Replica, replica: Start) -> None:
    one = await replica()
    poor = await _hosted(counting, hosted, "poor", dailyBudget=20)
    rich = await _hosted(counting, hosted, "rich", dailyBudget=1_000_000)
    assert [(await counting.ask(poor))[0] for _ in range(2)] == [200, 200], "what is not counted yet is served"
    await until(lambda: _status_is(counting, poor, 503), "26 of 20 KRW close it")
    assert (await counting.ask(rich))[0] == 200
    assert await _sum(counting, "ax_gateway_budget_closed", api="poor") == 1
    told = (await counting.load())["hosted"]
    assert told["poor"]["spentToday"] >= 26
    assert told["poor"]["state"] == "reachable"
    assert "20 KRW" in told["poor"]["closed"]
    await counting.scale(poor, one)
    assert (await counting.ask(poor))[0] == 200
    assert len(one.seen) == 1


async def test_other_gateways_spend_the_same_budget(counting: Rig, hosted: Replica) -> None:
    key = await _hosted(counting, hosted, "shared-budget", dailyBudget=100)
    assert (await counting.ask(key))[0] == 200
    _write_ledger(counting, "gateway-b", json.dumps([["shared-budget", key, "owner", 1, 50, 25, 100.0]]))
    await until(lambda: _status_is(counting, key, 503), "what another gateway wrote counts")


async def test_unreadable_ledger_closes_what_has_a_budget(counting: Rig, hosted: Replica) -> None:
    bounded = await _hosted(counting, hosted, "bounded", dailyBudget=1_000_000)
    free = await _hosted(counting, hosted, "unbounded")
    assert (await counting.ask(bounded))[0] == 200
    _write_ledger(counting, "gateway-c", "no rows")
    await until(lambda: _status_is(counting, bounded, 503), "it is closed")
    assert (await counting.ask(free))[0] == 200


async def test_client_s_daily_money_keeps_it_on_prem(counting: Rig, hosted: Replica) -> None:
    key = await _hosted(counting, hosted, "for-clients")
    poor = _client(counting, "poor-client", dailyKRW=10)
    await until(lambda: _status_is(counting, "nobody's", 404, poor), "the key is known")
    await until(lambda: _status_is(counting, key, 503, poor), "13 of 10 KRW keep it on-prem")
    assert (await counting.ask(key))[0] == 200, "others are served"


async def test_tokens_per_minute_block_a_client(counting: Rig, replica: Start) -> None:
    one = await replica()
    key = await counting.serve("tokens", one)
    greedy = _client(counting, "greedy", tokensPerMinute=25)
    await until(lambda: _status_is(counting, key, 429, greedy), "30 of 25 tokens block it")
    async with counting.post(key, headers=greedy) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "60")
        assert (await response.json())["error"]["code"] == "rate_limit_exceeded"
    assert (await counting.ask(key))[0] == 200


@pytest.mark.parametrize(("fault", "state"), [("401", "key_rejected"), ("503", "unreachable"), ("404", "reachable")])
async def test_state_of_an_api_is_told(counting: Rig, hosted: Replica, fault: str, state: str) -> None:
    key = await _hosted(counting, hosted, f"state-{fault}")
    hosted.behave = hosted.status(int(fault))
    await counting.ask(key)

    async def told() -> bool:
        return bool((await counting.load())["hosted"][f"state-{fault}"]["state"] == state)

    await until(told, f"the API is {state}")


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
        wait = await _sum(counting, "ax_gateway_time_between_tokens_seconds_sum", model=key, backend="onprem")
        first = await _sum(counting, "ax_gateway_time_to_first_byte_seconds_count", model=key, backend="onprem")
        return first == 1 and 0.05 < wait < 1

    await until(timed, "about 0.1 s between tokens")
    buckets = await counting.metrics("ax_gateway_time_between_tokens_seconds_bucket")
    assert {dict(k)["le"] for k in buckets} >= {"0.001", "0.1", "1", "+Inf"}


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


async def test_restarted_agent_counts_nothing_twice(
    tmp_path: Path, hosted: Replica, hosted_settings: dict[str, Any]
) -> None:
    rig = Rig(tmp_path, **hosted_settings)
    try:
        await rig.start()
        key = await _hosted(rig, hosted, "once", dailyBudget=40)
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
        return await _sum(rig, "ax_gateway_krw_today", api=api) == krw
    except OSError:
        return False
