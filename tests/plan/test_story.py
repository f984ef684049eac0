"""Models live their lives on paper: built, shared, served, carried by a hosted API, scaled."""

from __future__ import annotations

from ax_operator.api.axhostedapi import AXHostedAPISpec
from ax_operator.plan.scaling import Load
from tests.plan.scenes import conditions, serving
from tests.plan.stage import DEMO, Stage, model, world

HOSTED = AXHostedAPISpec(base_url="https://api.test/v1", model="ax4", allowed_namespaces=("team-a",))


def test_a_new_model_first_learns_what_its_source_consists_of():
    stage = Stage(world(), model(DEMO))
    stage.reconcile()
    assert [n.partition("-src-")[0] for n in stage.names("Job")] == ["axm-smol"]
    assert conditions(stage) == {
        "Accepted": ("True", "Accepted"),
        "EngineReady": ("False", "ResolvingSource"),
        "Available": ("False", "WaitingForEngine"),
        "Routed": ("True", "Held"),
        "Ready": ("False", "Building"),
        "Reconciling": ("True", "ResolvingSource"),
    }


def test_the_engine_is_built_once_its_name_stands_in_the_inventory():
    stage = Stage(world(), model(DEMO))
    stage.reconcile()
    stage.resolve()
    stage.step()
    engine = stage.names("AXEngine")[0]
    assert stage.names("ConfigMap")[-1] == "ax-engines" or stage.get("ConfigMap", "ax-engines")
    stage.reconcile()
    assert engine in stage.names("Job")
    assert stage.names("PersistentVolumeClaim") == ["ax-engines"]
    assert not stage.names("Deployment")
    assert stage.condition("smol", "EngineReady")[0] == "False"


def test_serving_is_what_the_table_says():
    stage = serving()
    assert conditions(stage) == {
        "Accepted": ("True", "Accepted"),
        "EngineReady": ("True", "Built"),
        "Available": ("True", "MinimumReplicasAvailable"),
        "Routed": ("True", "OnPrem"),
        "Ready": ("True", "Serving"),
    }
    status = stage.models["smol"]["status"]
    assert status["engine"]["serving"] == status["engine"]["name"] == stage.names("AXEngine")[0]
    assert (status["replicas"], status["readyReplicas"]) == (1, 1)
    assert status["selector"] == "app.kubernetes.io/component=serving,serving.axmodel.io/model=smol"


def test_two_models_with_the_same_recipe_share_one_engine_and_one_build():
    stage = serving(model(DEMO), model(DEMO, name="twin"))
    assert len(stage.names("AXEngine")) == 1
    assert [n for n in stage.names("Job") if "-src-" not in n] == stage.names("AXEngine")
    assert len(stage.names("Deployment")) == 2


def test_hosted_only_needs_no_engine_and_no_replica():
    spec = "model: A.X-4.0\nrouting: {policy: HostedOnly, hosted: {apiRef: ax}, dataResidency: Any}"
    stage = Stage(world(hosted={"ax": HOSTED}), model(spec))
    stage.reconcile()
    assert conditions(stage) == {
        "Accepted": ("True", "Accepted"),
        "EngineReady": ("True", "NotRequired"),
        "Available": ("True", "NotRequired"),
        "Routed": ("True", "Hosted"),
        "Ready": ("True", "Hosted"),
    }
    assert not stage.objects


def test_scaled_to_zero_is_ready_and_wakeable():
    stage = serving()
    stage.models["smol"]["spec"]["scaling"]["replicas"] = 0
    stage.reconcile()
    stage.ready("smol")
    stage.reconcile()
    assert conditions(stage)["Available"] == ("True", "ScaledToZero")
    assert conditions(stage)["Routed"] == ("True", "Held")
    assert conditions(stage)["Ready"] == ("True", "ScaledToZero")
    assert [d["spec"]["replicas"] for d in stage.all("Deployment")] == [0]


def test_while_the_first_build_runs_the_hosted_api_carries_but_the_model_is_not_ready():
    spec = DEMO + "routing: {hosted: {apiRef: ax}, dataResidency: Any, whileUnavailable: Hosted}"
    stage = Stage(world(hosted={"ax": HOSTED}), model(spec))
    stage.reconcile()
    assert conditions(stage)["Routed"] == ("True", "Hosted")
    assert conditions(stage)["Ready"] == ("False", "Building")


def test_a_taken_name_is_told_and_the_long_name_goes_on():
    stage = serving(names={"smollm2": "team-b/older"})
    stage.models["smol"]["spec"]["routing"] = {"servedNames": ["smollm2"]}
    stage.reconcile()
    assert conditions(stage)["Routed"] == ("False", "NameConflict")
    assert "team-b/older" in stage.message("smol", "Routed")


def test_a_pod_that_no_node_takes_is_told_in_the_schedulers_words():
    stage = serving()
    stage.ready("smol", 0)
    stage.pod_waits("smol", "0/1 nodes are available: insufficient memory")
    stage.reconcile()
    assert conditions(stage)["Available"] == ("False", "Unschedulable")
    assert "insufficient memory" in stage.message("smol", "Ready")


def test_builtin_scaling_follows_the_load_within_bounds_and_says_why():
    spec = DEMO.replace("scaling: {mode: fixed, replicas: 1}", "scaling: {minReplicas: 0, maxReplicas: 3}")
    stage = serving(model(spec.replace("minReplicas: 0", "minReplicas: 1")))
    stage.models["smol"]["spec"]["scaling"]["minReplicas"] = 0
    stage.loads["smol"] = Load(running=30, waiting=100, in_flight=130, ready=1, pods_known=1, pods_answered=1)
    for _ in range(30):
        stage.step()
        stage.now += 2
    assert [d["spec"]["replicas"] for d in stage.all("Deployment")] == [3]
    assert stage.models["smol"]["status"]["scaling"]["lastDecisions"][-1]["why"]


def test_two_replicas_have_a_disruption_budget_and_one_has_none():
    stage = serving(model(DEMO.replace("replicas: 1", "replicas: 2")))
    assert stage.names("PodDisruptionBudget") == ["axm-smol"]
    stage.models["smol"]["spec"]["scaling"]["replicas"] = 1
    stage.reconcile()
    assert not stage.names("PodDisruptionBudget")
