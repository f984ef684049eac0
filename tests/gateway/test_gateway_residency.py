"""What must not leave does not leave: by construction for every state, and with every fault on the real Envoy."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ax_gateway.envoy.lua import Choice
from ax_gateway.envoy.routes import Patience, choice, on_match, route_configuration
from ax_gateway.hosted import CAPABILITIES, HostedAPI
from ax_gateway.table import Circumstances, Endpoint, ModelRoute, Replicas, Route, route_table
from tests.gateway.replica import Replica
from tests.gateway.rig import Rig, until

Start = Callable[..., Awaitable[Replica]]

apis = st.builds(
    HostedAPI,
    name=st.just("api"),
    host=st.just("api.example"),
    port=st.just(443),
    tls=st.just(True),
    path=st.just("/v1"),
    model=st.just("ax4"),
    max_concurrency=st.none() | st.integers(1, 100),
    context_length=st.none() | st.integers(1, 100_000),
    lacks=st.sets(st.sampled_from(sorted(CAPABILITIES))).map(lambda found: tuple(sorted(found))),
    namespaces=st.sampled_from([frozenset(), frozenset({"ns"}), frozenset({"other"})]),
)
models = st.builds(
    ModelRoute,
    namespace=st.just("ns"),
    name=st.just("model"),
    served_names=st.sampled_from([(), ("bare",)]),
    policy=st.sampled_from(["OnPremFirst", "HostedFirst", "OnPremOnly", "HostedOnly"]),
    while_unavailable=st.sampled_from(["Hosted", "Hold", "Reject"]),
    residency=st.sampled_from(["OnPrem", "Any"]),
    hosted=st.sampled_from([None, "api", "missing"]),
    max_wait=st.sampled_from([0.0, 30.0]),
)
replicas = st.builds(
    Replicas,
    endpoints=st.integers(0, 3).map(lambda count: tuple(Endpoint("10.0.0.1", 8000 + n) for n in range(count))),
    slots=st.none() | st.integers(1, 64),
)
nows = st.builds(
    Circumstances,
    gateways=st.integers(1, 5),
    closed=st.sampled_from([{}, {"api": "spent"}]),
    service_seconds=st.sampled_from([{}, {"ns/model": 2.0}]),
)
limits = st.sampled_from([None, (), ("-l:alice",)])


def routed(model: ModelRoute, api: HostedAPI, found: Replicas, now: Circumstances) -> Route:
    (route,) = route_table([model], {"ns/model": found}, "*", {"api": api}, now).routes
    return route


STAYS = ("onprem_ns/model", "stay_ns/model")
"""Clusters of nothing but replicas and the waiting place."""


def hosted_words(resource: Any) -> list[str]:
    """Return every string in a resource by which a request could leave."""
    text = json.dumps(resource)
    return [word for word in ("gate_", "first_", "over_", "hosted_", "cluster_specifier_plugin") if word in text]


@given(models, apis, replicas, nows, limits)
def test_on_prem_model_has_no_hosted_route_in_any_state(
    model: ModelRoute, api: HostedAPI, found: Replicas, now: Circumstances, limited: tuple[str, ...] | None
) -> None:
    route = routed(model, api, found, now)
    may_leave = (
        model.residency == "Any"
        and model.policy != "OnPremOnly"
        and model.hosted == "api"
        and "ns" in api.namespaces
        and not now.closed
    )
    assert (route.hosted is not None) == may_leave
    table = route_table([model], {"ns/model": found}, "*", {"api": api}, now)
    whole = route_configuration(table, {name: on_match(route, Patience(), limited) for name in route.names})
    assert bool(whole.pop("cluster_specifier_plugins")) == may_leave
    assert bool(hosted_words(whole)) == may_leave


@given(models, apis, replicas, nows, limits)
def test_first_case_for_the_header_names_nothing_but_replicas(
    model: ModelRoute, api: HostedAPI, found: Replicas, now: Circumstances, limited: tuple[str, ...] | None
) -> None:
    route = routed(model, api, found, now)
    entry = on_match(route, Patience(), limited)
    if route.hosted is None:
        assert hosted_words(entry) == []
        return
    cases = entry["matcher"]["matcher_list"]["matchers"]
    assert hosted_words(cases) == [], "only what follows when no case holds may leave"
    residency = json.dumps(cases[-1]["predicate"])
    assert "x-ax-data-residency" in residency
    assert '"regex": "(?s).*"' in residency, "any value counts"
    assert cases[-1]["on_match"]["action"]["typed_config"]["route"]["cluster"] in STAYS


@given(models, apis, replicas, nows)
def test_requests_that_need_on_prem_are_chosen_replicas(
    model: ModelRoute, api: HostedAPI, found: Replicas, now: Circumstances
) -> None:
    route = routed(model, api, found, now)
    if route.hosted is not None:
        chosen: Choice = choice(route, now.gateways)
        assert chosen.on_prem in STAYS


class Faulty:
    """A hybrid model whose replicas misbehave."""

    def __init__(self, rig: Rig, hosted: Replica, one: Replica) -> None:
        self.rig, self.hosted, self.one = rig, hosted, one
        self.name, self.api = f"res-{uuid.uuid4().hex[:8]}", f"res-{uuid.uuid4().hex[:8]}"
        self.key = f"t/{self.name}"

    def faults(self) -> Iterator[tuple[str, Any]]:
        one = self.one
        for code in (429, 500, 503):
            yield str(code), one.status(code)
        for behave in (one.reset, one.garbage, one.after_headers, one.break_off, one.truncate, one.hang, one.answer):
            yield behave.__name__, behave

    async def requests(self, headers: dict[str, str] | None) -> None:
        """Ask under every state and fault; what comes back does not matter here."""
        rig = self.rig

        async def ask() -> None:
            async with asyncio.timeout(3), rig.post(self.key, headers=headers, stream=True) as response:
                await response.content.readany()

        for _, behave in self.faults():
            self.one.behave = behave
            await asyncio.gather(*(ask() for _ in range(6)), return_exceptions=True)
        self.one.behave, self.one.interval = self.one.answer, 0.2
        await asyncio.gather(*(ask() for _ in range(12)), return_exceptions=True)
        await rig.scale(self.key, slots=1)
        await asyncio.gather(*(ask() for _ in range(6)), return_exceptions=True)
        self.one.interval = 0.0
        await rig.scale(self.key, self.one, slots=1)
        port = self.one.port
        await self.one.stop()
        await asyncio.gather(*(ask() for _ in range(6)), return_exceptions=True)
        self.one.port = port
        await self.one.start()


@pytest.mark.parametrize("headers", [{}, {"x-ax-data-residency": "OnPrem"}])
@pytest.mark.asyncio(loop_scope="session")
async def test_no_fault_makes_a_request_leave(
    rig: Rig, replica: Start, hosted: Replica, headers: dict[str, str]
) -> None:
    faulty = Faulty(rig, hosted, await replica())
    rig.secret(f"{faulty.api}-key", api_key="k" * 40)
    rig.hosted_api(faulty.api, hosted)
    routing: dict[str, Any] = {"dataResidency": "OnPrem"}
    if headers:
        routing = {"dataResidency": "Any", "hosted": {"apiRef": faulty.api}, "whileUnavailable": "Hosted"}
    else:
        routing["whileUnavailable"] = "Reject"
    await rig.serve(faulty.name, faulty.one, slots=1, **routing)
    await until(lambda: _known(rig, faulty.api), "the hosted API is known")
    await faulty.requests(headers)
    assert not hosted.seen
    assert faulty.one.seen
    if headers:
        await rig.scale(faulty.key)
        async with rig.post(faulty.key) as response:
            assert response.headers["x-ax-served-by"] == "hosted", "without the header it would have left"


@pytest.mark.parametrize("value", ["", "Any", "false", "0", "hosted", "é", "x" * 5000])
@pytest.mark.asyncio(loop_scope="session")
async def test_header_can_only_tighten(rig: Rig, hosted: Replica, value: str) -> None:
    name, api = f"tight-{uuid.uuid4().hex[:8]}", f"tight-{uuid.uuid4().hex[:8]}"
    rig.secret(f"{api}-key", api_key="k" * 40)
    rig.hosted_api(api, hosted)
    routing: dict[str, Any] = {"dataResidency": "Any", "hosted": {"apiRef": api}, "whileUnavailable": "Hosted"}
    key = await rig.serve(name, holdTimeout="1s", **routing)
    await until(lambda: rig.may_leave(key), "requests may leave")
    async with rig.post(key, headers={"X-AX-Data-Residency": value}) as response:
        assert response.status == 503
    assert not hosted.seen
    assert (await rig.ask(key))[0] == 200


async def _known(rig: Rig, api: str) -> bool:
    return f"hosted_{api}::127.0.0.1:" in await rig.admin("clusters")
