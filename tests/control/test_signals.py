"""Measurements from real HTTP servers that stand for replicas and builds: numbers, ages, silence, and who is woken."""

import pytest

from ax_engines import wire
from ax_engines.tasks import Progress
from ax_operator.api.names import COMPONENT, ENGINE, MODEL
from ax_operator.control.questions import Ports, Questions
from ax_operator.control.wakes import store_key
from ax_operator.kinds import POD
from tests.control.pods import SMOL, Rig, loopback, pod


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
