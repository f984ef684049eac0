"""Measurements from real HTTP servers that stand for pods: numbers, ages, silence, and who is woken."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from ax_engines import wire
from ax_engines.tasks import Progress
from ax_operator.api.names import COMPONENT, ENGINE, MODEL
from ax_operator.control.cache import Cache
from ax_operator.control.measures import GatewayMeasure
from ax_operator.control.metrics import Metrics
from ax_operator.control.questions import LIMIT_BYTES, GatewayLoad, NoAnswer, Ports, Questions, sums
from ax_operator.control.signals import Signals
from ax_operator.control.wakes import EVERYTHING, Key, hosted_key, model_key, store_key
from ax_operator.kinds import POD
from ax_operator.plan.hosted import Told
from tests.fakes import FakeCluster

SMOL = model_key("ns", "smol")


class Pods:
    """One HTTP server on a loopback address per pod, all on the same port."""

    def __init__(self) -> None:
        self.gauges: dict[str, dict[str, float] | str] = {}
        self.loads: dict[str, dict] = {}
        self.progress: dict[str, str] = {}
        self.port = 0
        self.changed = asyncio.Event()

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        found = self.gauges.get(request.host.partition(":")[0])
        if found is None:
            return web.Response(status=503)
        if isinstance(found, str):
            return web.Response(text=found)
        lines = [f'{name}{{model="engine",version="1"}} {value}' for name, value in found.items()]
        return web.Response(text="\n".join(["# HELP x y", *lines, "nv_cpu_utilization 0.5", ""]))

    async def load(self, request: web.Request) -> web.StreamResponse:
        host = request.host.partition(":")[0]
        while self.loads[host]["version"] == int(request.query["version"]):
            self.changed.clear()
            await self.changed.wait()
        return web.json_response(self.loads[host])

    async def built(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=self.progress[request.host.partition(":")[0]])


@asynccontextmanager
async def loopback(pods: Pods, *addresses: str):
    app = web.Application()
    app.router.add_get("/metrics", pods.metrics)
    app.router.add_get("/v1/load", pods.load)
    app.router.add_get("/progress", pods.built)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    for address in addresses:
        await web.TCPSite(runner, address, pods.port).start()
        pods.port = pods.port or runner.addresses[0][1]
    try:
        yield
    finally:
        pods.changed.set()
        await runner.cleanup()


def pod(name: str, address: str, labels: dict[str, str], version: int = 1, ready: bool = True, **status) -> dict:
    conditions = [{"type": "Ready", "status": str(ready)}]
    meta = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": str(version), "labels": labels}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {"containers": []},
        "status": {"podIP": address, "conditions": conditions, "phase": "Running"} | status,
    }


def serving(name: str, address: str, model: str = "smol", **more) -> dict:
    return pod(name, address, {COMPONENT: "serving", MODEL: model}, **more)


def gauges(running: float, waiting: float, prompts: float = 0, answers: float = 0, count: float = 0) -> dict:
    return {
        wire.METRIC_RUNNING: running,
        wire.METRIC_WAITING: waiting,
        wire.METRIC_PROMPT_TOKENS: prompts,
        wire.METRIC_GENERATED_TOKENS: answers,
        wire.METRIC_TTFT_COUNT: count,
    }


class Rig:
    """Signals with a clock that a test moves, and a list of who was woken."""

    def __init__(self, questions: Questions, gateways: bool = False) -> None:
        self.now = 0.0
        self.cluster = FakeCluster()
        self.cache = Cache()
        self.woken: list[Key] = []
        self.first: list[Key] = []
        self.heard = asyncio.Event()
        self.signals = Signals(
            self.cluster,
            self.cache,
            questions,
            Metrics(),
            self._wake,
            gateway_namespace="ax-system" if gateways else None,
            pods_every=2,
            builds_every=5,
            clock=lambda: self.now,
        )

    def _wake(self, key: Key, *, first: bool = False) -> None:
        self.woken.append(key)
        if first:
            self.first.append(key)
        self.heard.set()

    async def until_woken(self, key: Key) -> None:
        async with asyncio.timeout(10):
            while key not in self.woken:
                self.heard.clear()
                await self.heard.wait()


@pytest.fixture
async def pods():
    return Pods()


async def test_the_queues_of_all_ready_pods_are_summed(pods):
    async with loopback(pods, "127.0.0.1", "127.0.0.2", "127.0.0.3"), Questions(Ports(metrics=pods.port)) as questions:
        rig = Rig(questions)
        rig.cache.put(POD, serving("a", "127.0.0.1"))
        rig.cache.put(POD, serving("b", "127.0.0.2"))
        rig.cache.put(POD, serving("other", "127.0.0.3", "other"))
        rig.cache.put(POD, serving("starting", "127.0.0.9", ready=False))
        assert rig.signals.measured(SMOL) is None
        pods.gauges = {"127.0.0.1": gauges(3, 1), "127.0.0.2": gauges(4, 0), "127.0.0.3": gauges(0, 0)}
        await rig.signals.ask_pods()
        found = rig.signals.measured(SMOL)
        assert (found.running, found.waiting, found.pods_known, found.pods_answered, found.age) == (7, 1, 2, 2, 0)
        assert rig.woken == [SMOL]


async def test_silence_is_not_zero_and_has_an_age(pods):
    async with loopback(pods, "127.0.0.1", "127.0.0.2", "127.0.0.3"), Questions(Ports(metrics=pods.port)) as questions:
        rig = Rig(questions)
        for name, address in (("a", "127.0.0.1"), ("b", "127.0.0.2"), ("c", "127.0.0.3")):
            rig.cache.put(POD, serving(name, address))
            pods.gauges[address] = gauges(2, 0)
        await rig.signals.ask_pods()
        del pods.gauges["127.0.0.1"]
        rig.now = 30
        await rig.signals.ask_pods()
        found = rig.signals.measured(SMOL)
        assert (found.running, found.pods_known, found.pods_answered, found.age) == (6, 3, 2, 0)
        pods.gauges.clear()
        rig.now = 50
        await rig.signals.ask_pods()
        found = rig.signals.measured(SMOL)
        assert (found.running, found.pods_answered, found.age) == (6, 0, 20)


async def test_the_mean_request_follows_from_the_counters_and_survives_a_restart_of_the_pod(pods):
    async with loopback(pods, "127.0.0.1"), Questions(Ports(metrics=pods.port)) as questions:
        rig = Rig(questions)
        rig.cache.put(POD, serving("a", "127.0.0.1"))
        pods.gauges["127.0.0.1"] = gauges(2, 0, prompts=1000, answers=500, count=10)
        await rig.signals.ask_pods()
        assert rig.signals.measured(SMOL).requests.seconds == 0
        rig.now = 10
        pods.gauges["127.0.0.1"] = gauges(2, 0, prompts=1400, answers=700, count=14)
        await rig.signals.ask_pods()
        mean = rig.signals.measured(SMOL).requests
        assert (mean.prompt_tokens, mean.output_tokens, mean.seconds) == (100, 50, 5)
        rig.now = 20
        pods.gauges["127.0.0.1"] = gauges(1, 0, prompts=5, answers=5, count=1)
        await rig.signals.ask_pods()
        assert rig.signals.measured(SMOL).requests == mean  # the last one known, until a new one is
        rig.now = 30
        pods.gauges["127.0.0.1"] = gauges(0, 0, prompts=25, answers=45, count=3)
        await rig.signals.ask_pods()
        mean = rig.signals.measured(SMOL).requests
        assert (mean.prompt_tokens, mean.output_tokens, mean.seconds) == (10, 20, 5)


async def test_the_mean_request_is_known_at_every_moment_and_follows_the_last_minutes(pods):
    async with loopback(pods, "127.0.0.1"), Questions(Ports(metrics=pods.port)) as questions:
        rig = Rig(questions)
        rig.cache.put(POD, serving("a", "127.0.0.1"))
        means = []
        for second in range(0, 1200, 2):
            rig.now = second
            length = 100 if second < 600 else 300
            before = means[-1] if means else 0
            prompts = min(second, 600) * 100 + max(0, second - 600) * 300
            pods.gauges["127.0.0.1"] = gauges(5, 0, prompts=prompts, answers=second * 10, count=second)
            await rig.signals.ask_pods()
            mean = rig.signals.measured(SMOL).requests
            assert second == 0 or (before <= mean.prompt_tokens <= length and mean.seconds == pytest.approx(5))
            means.append(mean.prompt_tokens)
        assert means[-1] == pytest.approx(300)


async def test_a_pod_that_says_nan_once_does_not_spoil_the_mean(pods):
    async with loopback(pods, "127.0.0.1"), Questions(Ports(metrics=pods.port)) as questions:
        rig = Rig(questions)
        rig.cache.put(POD, serving("a", "127.0.0.1"))
        for second, running in ((0, 2), (2, "NaN"), (4, 2), (6, 2)):
            rig.now = second
            pods.gauges["127.0.0.1"] = gauges(running, 0, prompts=second * 10, answers=second, count=second)
            await rig.signals.ask_pods()
        assert rig.signals.measured(SMOL).requests.seconds == pytest.approx(8 / 6)


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


async def test_only_the_coming_and_going_of_load_wakes_a_model(pods):
    async with loopback(pods, "127.0.0.1"), Questions(Ports(metrics=pods.port)) as questions:
        rig = Rig(questions)
        rig.cache.put(POD, serving("a", "127.0.0.1"))
        for running in (0, 3, 5, 2, 0, 0):
            pods.gauges["127.0.0.1"] = gauges(running, 0)
            await rig.signals.ask_pods()
        assert rig.woken == [SMOL, SMOL]
        rig.cache.remove(POD, serving("a", "127.0.0.1", version=2))
        await rig.signals.ask_pods()
        assert rig.signals.measured(SMOL).pods_known == 0


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


async def test_progress_of_builds_is_known_by_engine_and_news_wake_the_store(pods):
    label = {COMPONENT: "build", ENGINE: "e-1"}
    async with loopback(pods, "127.0.0.1"), Questions(Ports(progress=pods.port)) as questions:
        rig = Rig(questions)
        rig.cache.put(POD, pod("b", "127.0.0.1", label, ready=False))
        pods.progress["127.0.0.1"] = Progress(phase="fetch", percent=40, eta=9).to_json()
        await rig.signals.ask_builds()
        await rig.signals.ask_builds()
        assert rig.signals.progress("ns")["e-1"].percent == 40
        assert rig.woken == [store_key("ns")]
        rig.cache.put(POD, pod("b", "127.0.0.1", label, version=2, phase="Succeeded"))
        await rig.signals.ask_builds()
        assert rig.signals.progress("ns") == {}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("not json", id="no JSON"),
        pytest.param(json.dumps({"phase": "fetch", "percent": 900}), id="out of bounds"),
        pytest.param("x" * (LIMIT_BYTES + 1), id="too much"),
    ],
)
async def test_nonsense_is_no_answer(pods, answer):
    async with loopback(pods, "127.0.0.1"), Questions(Ports(progress=pods.port)) as questions:
        pods.progress["127.0.0.1"] = answer
        with pytest.raises(NoAnswer):
            await questions.progress("127.0.0.1")


@pytest.mark.parametrize("text", ["ax_requests_running twelve", 'ax_requests_running{a="b"} '])
def test_a_gauge_without_a_number_is_no_answer(text):
    with pytest.raises(NoAnswer, match="ax_requests_running has no number"):
        sums(text.encode(), (wire.METRIC_RUNNING,))


def test_families_are_told_apart_by_their_whole_name():
    text = (
        b'# TYPE x gauge\nax_requests_running{m="a{b} c"} 2\nax_requests_running 1 1700000\nax_requests_running_x 9\n'
    )
    assert sums(text, (wire.METRIC_RUNNING,)) == {wire.METRIC_RUNNING: 3}


def test_a_hosted_api_is_closed_if_a_gateway_says_so():
    rig = Rig(Questions(Ports()))
    one, two = GatewayMeasure(0), GatewayMeasure(0)
    rig.signals._gateways = {"127.0.0.1": one, "127.0.0.2": two}
    assert rig.signals.closed() == frozenset()
    states = {"a": {"spent": 12.5}, "b": {"spent": 3.0, "closed": "its budget is spent"}}
    one.answered(GatewayLoad.model_validate({"version": 1, "hosted": states}), 1)
    two.answered(GatewayLoad.model_validate({"version": 1}), 1)
    assert rig.signals.closed() == {"b"}
