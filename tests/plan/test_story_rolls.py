"""Models that serve are changed on paper: a new revision rolls out, in place or beside, and the old one serves on."""

from __future__ import annotations

import pytest

from ax_engines.tasks import TaskResult
from tests.plan.scenes import conditions, serving
from tests.plan.stage import DEMO, model, resolved


def test_the_old_revision_serves_until_the_new_engine_is_built_and_its_pods_are_ready():
    stage = serving()
    old = stage.names("Deployment")
    stage.models["smol"]["spec"]["source"]["pvc"]["path"] = "smollm2-v2.gguf"
    stage.reconcile()
    assert stage.names("Deployment") == old
    assert conditions(stage)["Ready"] == ("True", "Serving")
    assert conditions(stage)["EngineReady"] == ("True", "Built")
    assert conditions(stage)["Reconciling"] == ("True", "ResolvingSource")
    stage.resolve(resolved("sha256:" + "b" * 64))
    stage.reconcile()
    assert stage.names("Deployment") == old
    stage.build()
    stage.reconcile()
    both = {d["metadata"]["name"]: d["spec"]["replicas"] for d in stage.all("Deployment")}
    assert len(both) == 2
    assert set(both.values()) == {1}
    assert conditions(stage)["Reconciling"] == ("True", "PodsStarting")
    stage.ready("smol")
    stage.reconcile()
    assert len(stage.names("Deployment")) == 1
    assert stage.names("Deployment") != old
    assert "Reconciling" not in conditions(stage)


def test_a_new_revision_that_finds_no_gpu_waits_and_says_so_while_the_old_one_serves():
    stage = serving()
    stage.models["smol"]["spec"]["engine"] = {"limits": {"maxTotalTokens": 1024}}
    stage.reconcile()
    fresh = [d for d in stage.all("Deployment") if not d.get("status")]
    assert len(fresh) == 1
    stage.objects["Deployment", fresh[0]["metadata"]["name"]]["status"] = {"replicas": 1}
    pod = stage._pod(fresh[0], "Pending", [])
    pod["metadata"]["labels"] = fresh[0]["spec"]["template"]["metadata"]["labels"]
    pod["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: no GPU"}]
    stage.reconcile()
    assert conditions(stage)["Ready"] == ("True", "Serving")
    assert conditions(stage)["Reconciling"] == ("True", "Unschedulable")
    assert "no GPU" in stage.message("smol", "Reconciling")


def test_a_changed_context_limit_rolls_pods_without_a_build():
    stage = serving()
    jobs = stage.names("Job")
    stage.models["smol"]["spec"]["engine"] = {"limits": {"maxTotalTokens": 1024}}
    stage.reconcile()
    assert stage.names("Job") == jobs
    assert len(stage.names("AXEngine")) == 1
    assert len(stage.names("Deployment")) == 2


def test_reverting_during_a_roll_is_instant():
    stage = serving()
    old = stage.names("Deployment")
    stage.models["smol"]["spec"]["engine"] = {"limits": {"maxTotalTokens": 1024}}
    stage.reconcile()
    del stage.models["smol"]["spec"]["engine"]
    stage.reconcile()
    assert stage.names("Deployment") == old


@pytest.mark.parametrize("replicas", [1, 3])
def test_ready_pods_never_fall_below_what_is_asked_for_while_a_revision_rolls(replicas):
    stage = serving(model(DEMO.replace("replicas: 1", f"replicas: {replicas}")))
    stage.models["smol"]["spec"]["engine"] = {"limits": {"maxTotalTokens": 1024}}
    for ready in range(replicas + 1):
        stage.reconcile()
        new = next((d for d in stage.all("Deployment") if d.get("status", {}).get("readyReplicas", 0) < replicas), None)
        for deployment in stage.all("Deployment"):
            up = deployment["spec"]["replicas"]
            deployment["status"] = {"replicas": up, "readyReplicas": min(up, ready) if deployment is new else up}
        assert sum(d["status"]["readyReplicas"] for d in stage.all("Deployment")) >= replicas
    stage.reconcile()
    assert len(stage.names("Deployment")) == 1


def test_in_place_gives_one_replicas_room_to_the_new_revision():
    spec = DEMO.replace("replicas: 1", "replicas: 3") + "rollout: InPlace\n"
    stage = serving(model(spec))
    stage.models["smol"]["spec"]["engine"] = {"limits": {"maxTotalTokens": 1024}}
    stage.reconcile()
    assert sorted(d["spec"]["replicas"] for d in stage.all("Deployment")) == [1, 2]


def test_in_place_with_one_replica_needs_requests_to_be_held():
    for policy, want in (("Hold", [0, 1]), ("Reject", [1, 1])):
        stage = serving(model(DEMO + f"rollout: InPlace\nrouting: {{whileUnavailable: {policy}}}"))
        stage.models["smol"]["spec"]["engine"] = {"limits": {"maxTotalTokens": 1024}}
        stage.reconcile()
        assert sorted(d["spec"]["replicas"] for d in stage.all("Deployment")) == want


def test_a_failed_build_behind_a_serving_revision_leaves_the_model_ready_and_stalled():
    stage = serving()
    stage.models["smol"]["spec"]["source"]["pvc"]["path"] = "other.gguf"
    stage.reconcile()
    stage.resolve(resolved("sha256:" + "c" * 64))
    stage.reconcile()
    stage.finish("build", TaskResult(ok=False, reason="Truncated", message="the file ends early"))
    stage.reconcile()
    assert conditions(stage)["Ready"] == ("True", "Serving")
    assert conditions(stage)["Stalled"] == ("True", "Truncated")
