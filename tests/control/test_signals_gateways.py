"""What gateways tell of requests, hosted APIs and refusals: counted once, told of at once, old if nobody tells."""

import asyncio

import pytest

from ax_operator.api.names import COMPONENT
from ax_operator.control.measures import GatewayMeasure
from ax_operator.control.questions import GatewayLoad, Ports, Questions
from ax_operator.control.wakes import EVERYTHING, hosted_key
from ax_operator.plan.hosted import Told
from tests.control.pods import SMOL, Rig, loopback, pod


def test_overflow_counts_each_request_once_for_as_long_as_one_takes_however_often_gateways_answer():
    gateway, overflowed = GatewayMeasure(0), 0
    for tenth in range(600):  # two per second, told at once, each worked on for 15 s
        now = tenth / 10
        overflowed += tenth % 5 == 0
        models = {"ns/smol": {"overflowed": overflowed}}
        gateway.answered(GatewayLoad.model_validate({"version": tenth, "models": models}), now)
    assert gateway.overflowing("ns/smol", 15, 60) == pytest.approx(30, abs=1)
    assert gateway.overflowing("ns/other", 15, 60) == 0
    assert gateway.overflowing("ns/smol", 15, 76) == 0
    gateway.answered(GatewayLoad.model_validate({"version": 1, "models": {"ns/smol": {"overflowed": 3}}}), 80)
    assert gateway.overflowing("ns/smol", 15, 80) == 0  # a gateway that started anew counts from zero


async def test_a_held_request_wakes_its_model_at_once(pods):
    label = {COMPONENT: "gateway"}
    async with loopback(pods, "127.0.0.1", "127.0.0.2"), Questions(Ports(gateway=pods.port)) as questions:
        rig = Rig(questions, gateways=True)
        for address in ("127.0.0.1", "127.0.0.2"):
            pods.loads[address] = {"version": 1, "models": {"ns/smol": {"running": 2}}}
            gateway = pod(f"g-{address}", address, label)
            gateway["metadata"]["namespace"] = "ax-system"
            rig.cluster.put(gateway)
        running = asyncio.create_task(rig.signals.run())
        await rig.until_woken(SMOL)
        assert not rig.first
        rig.woken.clear()
        pods.loads["127.0.0.2"] = {"version": 2, "models": {"ns/smol": {"running": 2, "held": 1, "overflowed": 4}}}
        pods.changed.set()
        await rig.until_woken(SMOL)
        found = rig.signals.measured(SMOL)
        assert (found.in_flight, found.held, found.age) == (4, 1, 0)
        assert rig.first == [SMOL]
        rig.now = 7
        assert rig.signals.measured(SMOL).age == 7
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_news_of_a_hosted_api_and_a_refusal_wake_who_tells_of_them(pods):
    gateway = pod("g", "127.0.0.1", {COMPONENT: "gateway"})
    gateway["metadata"]["namespace"] = "ax-system"
    async with loopback(pods, "127.0.0.1"), Questions(Ports(gateway=pods.port)) as questions:
        rig = Rig(questions, gateways=True)
        rig.cluster.put(gateway)
        pods.loads["127.0.0.1"] = {"version": 1, "hosted": {"ax": {"state": "unknown", "spentToday": 0.0}}}
        running = asyncio.create_task(rig.signals.run())
        await rig.until_woken(hosted_key("ax"))
        assert (rig.signals.hosted("ax"), rig.signals.refused()) == ((Told(),), None)
        assert EVERYTHING not in rig.woken
        state = {"state": "reachable", "spentToday": 12.5, "closed": "spent"}
        pods.loads["127.0.0.1"] = {"version": 2, "hosted": {"ax": state}, "rejected": {"Cluster": "no such field"}}
        pods.changed.set()
        await rig.until_woken(EVERYTHING)
        assert rig.signals.hosted("ax") == (Told("reachable", 12.5, "spent"),)
        assert rig.signals.refused() == "Cluster: no such field"
        assert rig.signals.hosted("other") == ()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_gateways_that_were_never_found_make_every_number_old(pods):
    async with Questions(Ports()) as questions:
        rig = Rig(questions, gateways=True)
        await rig.signals.find_gateways()
        await rig.signals.ask_pods()
        rig.now = 100
        assert rig.signals.measured(SMOL).age == 100


def test_a_hosted_api_is_closed_if_a_gateway_says_so():
    rig = Rig(Questions(Ports()))
    one, two = GatewayMeasure(0), GatewayMeasure(0)
    rig.signals._gateways = {"127.0.0.1": one, "127.0.0.2": two}
    assert rig.signals.closed() == frozenset()
    states = {"a": {"spent": 12.5}, "b": {"spent": 3.0, "closed": "its budget is spent"}}
    one.answered(GatewayLoad.model_validate({"version": 1, "hosted": states}), 1)
    two.answered(GatewayLoad.model_validate({"version": 1}), 1)
    assert rig.signals.closed() == {"b"}
