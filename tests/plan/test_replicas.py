"""What the autoscaler is told of a model: its engine's cold start, who may help, what that costs; and what is shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ax_operator.api import names
from ax_operator.api.axhostedapi import AXHostedAPISpec, Prices
from ax_operator.api.axmodel import AXModelSpec
from ax_operator.api.conditions import timestamp
from ax_operator.plan.coldstart import cold_start
from ax_operator.plan.replicas import policy_of
from ax_operator.plan.scaling import Load
from tests.plan.floor import ax, gpu_node, gpu_world, up
from tests.plan.scenes import serving
from tests.plan.stage import DEMO, NOW, Stage, model, world

BUILTIN = DEMO.replace("scaling: {mode: fixed, replicas: 1}", "scaling: {minReplicas: 0, maxReplicas: 3}")
BOTH = BUILTIN + "routing: {hosted: {apiRef: ax}, dataResidency: Any}\n"
PRICED = AXHostedAPISpec(
    base_url="https://api.test/v1", model="ax4", allowed_namespaces=("team-a",), prices=Prices(input=1, output=2)
)


def pod(name: str, scheduled: float, image: float, ready: float, restarts: int = 0, engine: str = "e-1") -> dict:
    """Return a serving pod that got its node, ran after `image` seconds and answered after `ready`."""
    since = {"PodScheduled": scheduled, "Ready": scheduled + ready}
    running = {"running": {"startedAt": timestamp(scheduled + image)}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "team-a",
            "labels": {names.COMPONENT: names.COMPONENT_SERVING, names.ENGINE: engine, names.MODEL: "smol"},
        },
        "status": {
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": timestamp(at)} for kind, at in since.items()
            ],
            "initContainerStatuses": [{"name": "triton", "restartCount": restarts, "state": running}],
        },
    }


def test_the_slowest_of_the_last_five_pods_is_the_cold_start():
    pods = [pod(f"p{i}", NOW + 100 * i, 5, 50 - i) for i in range(7)]
    found = cold_start(None, pods)
    assert found["readySeconds"] == 48
    assert [each["pod"] for each in found["last"]] == ["p2", "p3", "p4", "p5", "p6"]
    assert found["last"][0]["imageSeconds"] == 5
    assert cold_start(found, pods) == found
    assert cold_start(found, []) == found  # pods go, what they took stays
    assert cold_start(None, []) is None


def test_a_pod_that_recovers_later_or_failed_on_the_way_is_no_start():
    first = cold_start(None, [pod("a", NOW, 5, 30)])
    assert cold_start(first, [pod("a", NOW, 5, 3000)]) == first
    assert cold_start(None, [pod("a", NOW, 5, 30, restarts=1)]) is None
    waiting = pod("a", NOW, 5, 30)
    waiting["status"]["conditions"][1]["status"] = "False"
    assert cold_start(None, [waiting]) is None


def test_the_store_writes_the_cold_start_of_each_engine_and_the_model_counts_on_it():
    stage = serving(model(BUILTIN.replace("minReplicas: 0", "minReplicas: 1")))
    [engine] = stage.names("AXEngine")
    stage.objects["Pod", "p"] = pod("p", NOW, 10, 37, engine=engine) | {"spec": {"nodeName": "n"}}
    stage.objects["Pod", "p"]["metadata"]["uid"] = "uid-p"
    stage.reconcile()
    assert stage.get("AXEngine", engine)["status"]["coldStart"]["readySeconds"] == 37
    stage.models["smol"]["spec"]["scaling"]["minReplicas"] = 0
    stage.loads["smol"] = Load(ready=1, pods_known=1, pods_answered=1)
    for _ in range(200):  # an idle replica is kept for 37 s × (1 + 20 / slots), not for 120 s × …
        stage.step()
        stage.now += 2
    assert [d["spec"]["replicas"] for d in stage.all("Deployment")] == [0]


@pytest.mark.parametrize(
    ("routing", "closed", "helps"),
    [
        ("{hosted: {apiRef: ax}, dataResidency: Any}", (), True),
        ("{hosted: {apiRef: ax}, dataResidency: Any, policy: OnPremOnly}", (), False),
        ("{hosted: {apiRef: ax}, dataResidency: Any}", ("ax",), False),
        ("{hosted: {apiRef: other}, dataResidency: Any}", (), False),
        ("{}", (), False),
    ],
    ids=["allowed", "OnPremOnly", "budget spent", "unknown API", "none"],
)
def test_the_hosted_api_helps_only_where_it_may_now(routing: str, closed: tuple[str, ...], helps: bool):
    the_world = world(hosted={"ax": PRICED}, closed=frozenset(closed), gpu_hour_krw=4000)
    spec = AXModelSpec.model_validate(model(BUILTIN + f"routing: {routing}")["spec"])
    assert policy_of("team-a", spec, (8, 1), 60, the_world).hosted is helps
    assert not policy_of("team-b", spec, (8, 1), 60, the_world).hosted  # not on the API's list


@pytest.mark.parametrize(
    ("api", "gpu_hour", "missing"),
    [
        (PRICED, 4000.0, ()),
        (PRICED, 0.0, ("the chart's gpuHourKrw",)),
        (PRICED.model_copy(update={"prices": None}), 4000.0, ("spec.prices of AXHostedAPI ax",)),
    ],
    ids=["all known", "no GPU-hour", "no hosted price"],
)
def test_a_missing_price_is_told_and_named(api: AXHostedAPISpec, gpu_hour: float, missing: tuple[str, ...]):
    stage = serving(model(BOTH), hosted={"ax": api}, gpu_hour_krw=gpu_hour)
    stage.loads["smol"] = Load(running=2, in_flight=2, ready=1, pods_known=1, pods_answered=1)
    stage.step()
    [accepted] = [c for c in stage.models["smol"]["status"]["conditions"] if c["type"] == "Accepted"]
    assert accepted["status"] == "True"
    assert ("not cost" in accepted["message"]) is bool(missing)
    assert all(part in accepted["message"] for part in missing)


@pytest.mark.parametrize("ready", [0, 1])
def test_a_pool_that_is_too_small_says_how_many_gpus_are_needed_and_free(ready: int):
    stage = up(Stage(gpu_world(gpu_node("n", "h100")), ax("A.X-4.0")), "A.X-4.0")
    stage.models["a-x-4-0"]["spec"]["scaling"] = {"minReplicas": 0, "maxReplicas": 4}
    stage.objects = {k: o for k, o in stage.objects.items() if ready or k[0] != "Deployment"}
    asks = {"running": 900.0, "in_flight": 900.0} if ready else {"held": 900.0}
    stage.loads["a-x-4-0"] = Load(**asks, ready=ready, pods_known=ready, pods_answered=ready, free_gpus=1)
    stage.step()
    status = stage.models["a-x-4-0"]["status"]
    needs = f"{4 - ready} more replicas: {4 * (4 - ready)} GPUs of NVIDIA-H100-80GB-HBM3 needed, 1 free"
    assert any(needs in note for note in status["notes"])
    found = next(c for c in status["conditions"] if c["type"] == "Available")
    assert (found["status"], found["reason"]) == (
        ("True", "MinimumReplicasAvailable") if ready else ("False", "Unschedulable")
    )
    assert ready or needs in found["message"]
    stage.loads["a-x-4-0"] = replace(stage.loads["a-x-4-0"], free_gpus=16)  # room comes
    stage.step()
    assert not any("needed" in note for note in stage.models["a-x-4-0"]["status"].get("notes") or ())


def test_in_mode_external_the_demand_is_known_and_the_replicas_are_somebody_elses():
    stage = serving(model(DEMO.replace("mode: fixed", "mode: external")))
    stage.loads["smol"] = Load(running=30, waiting=100, in_flight=130, ready=1, pods_known=1, pods_answered=1)
    for _ in range(30):
        stage.step()
        stage.now += 2
    assert [d["spec"]["replicas"] for d in stage.all("Deployment")] == [1]
    assert stage.memories["smol"].demand == 130
    assert "scaling" not in stage.models["smol"]["status"]
    stage.models["smol"]["spec"]["scaling"]["replicas"] = 2
    stage.step()
    assert [d["spec"]["replicas"] for d in stage.all("Deployment")] == [2]
