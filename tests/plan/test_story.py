"""Models live their lives on paper: built, shared, rolled, scaled, refused, deleted."""

from __future__ import annotations

import pytest

from ax_engines.tasks import TaskResult
from ax_operator.api.axhostedapi import AXHostedAPISpec
from ax_operator.plan.scaling import Load
from tests.plan.stage import DEMO, Stage, model, resolved, world

HOSTED = AXHostedAPISpec(base_url="https://api.test/v1", model="ax4", allowed_namespaces=("team-a",))


def serving(*models, **changes) -> Stage:
    """Return a stage on which every model is built and ready."""
    stage = Stage(world(**changes), *(models or (model(DEMO),)))
    stage.reconcile()
    stage.resolve()
    stage.reconcile()
    stage.build()
    stage.reconcile()
    for name in stage.models:
        stage.ready(name)
    stage.reconcile()
    return stage


def conditions(stage: Stage, name: str = "smol") -> dict[str, tuple[str, str]]:
    kinds = ("Accepted", "EngineReady", "Available", "Routed", "Ready", "Reconciling", "Stalled")
    return {kind: stage.condition(name, kind) for kind in kinds if stage.condition(name, kind) != ("-", "-")}


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


def test_a_source_that_fails_says_why_and_is_tried_again_after_a_while():
    stage = Stage(world(), model(DEMO))
    stage.reconcile()
    first = stage.job("resolve")["metadata"]["uid"]
    bad = TaskResult(ok=False, reason="SourceMissing", message="claim models has no smollm2.gguf: copy the file there")
    stage.finish("resolve", bad)
    stage.reconcile()
    assert conditions(stage)["Ready"] == ("False", "SourceMissing")
    assert "copy the file there" in stage.message("smol", "Ready")
    stage.now += 599
    stage.reconcile()
    assert stage.all("Job")[0]["metadata"]["uid"] == first
    stage.now += 2
    stage.reconcile()
    assert stage.job("resolve")["metadata"]["uid"] != first


def test_a_build_that_fails_once_goes_on_and_says_what_went_wrong():
    stage = Stage(world(), model(DEMO))
    stage.reconcile()
    stage.resolve()
    stage.reconcile()
    stage.fail_once("build", TaskResult(ok=False, reason="DiskFull", message="needs 100 MiB, 3 MiB are free"))
    stage.reconcile()
    assert conditions(stage)["EngineReady"] == ("False", "DiskFull")
    assert "3 MiB are free" in stage.message("smol", "Ready")
    assert "tried again" in stage.message("smol", "Ready")


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


def test_a_published_value_that_differs_is_refused_with_both():
    stage = Stage(world(), model(DEMO))
    stage.reconcile()
    stage.resolve(resolved(architecture="Qwen2ForCausalLM"))
    stage.reconcile()
    assert conditions(stage)["Accepted"] == ("False", "SourceMismatch")
    assert "Qwen2ForCausalLM" in stage.message("smol", "Accepted")
    assert "LlamaForCausalLM" in stage.message("smol", "Accepted")


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ("model: A.X-9", "UnknownModel", "A.X-4.0"),
        ("scaling: {mode: fixed}", "InvalidSpec", "spec.source"),
        (DEMO + "trustRemoteCode: true", "InvalidSpec", "allowTrustRemoteCode"),
        (DEMO + "engine: {toolchain: nvidia}", "ToolchainIncompatible", "cpu"),
        (
            "source: {huggingFace: {repo: a/b, endpoint: 'https://evil.test'}}",
            "InvalidSpec",
            "https://huggingface.co",
        ),
        ("source: {pvc: {claimName: models, path: a/../../b}}", "InvalidSpec", ".."),
        (DEMO + "routing: {servedNames: ['$(rm)']}", "InvalidSpec", "servedNames"),
    ],
)
def test_a_spec_that_cannot_work_says_what_to_change_and_makes_nothing(spec, reason, words):
    stage = Stage(world(), model(spec))
    stage.reconcile()
    assert conditions(stage) == {
        "Accepted": ("False", reason),
        "Ready": ("False", reason),
        "Stalled": ("True", reason),
    }
    assert words in stage.message("smol", "Accepted")
    assert not stage.objects


def test_an_edit_that_cannot_work_stops_nothing_that_serves():
    stage = serving()
    before = dict(stage.objects)
    stage.models["smol"]["spec"]["model"] = "A.X-9"
    stage.reconcile()
    assert conditions(stage)["Accepted"] == ("False", "UnknownModel")
    assert set(stage.objects) == set(before)
    assert stage.models["smol"]["status"]["readyReplicas"] == 1


@pytest.mark.parametrize("state", ["missing", "unlabelled", "unreadable"])
def test_a_secret_that_an_author_may_not_use_is_never_mounted(state):
    spec = "source: {huggingFace: {repo: skt/private, tokenSecret: mine}}"
    stage = Stage(world(), model(spec))
    stage.secret = state
    stage.reconcile()
    assert conditions(stage)["Accepted"] == ("False", "SecretNotUsable")
    assert not stage.names("Job")
    stage.secret = "usable"
    stage.reconcile()
    volumes = stage.job("resolve")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "secret", "secret": {"secretName": "mine"}} in volumes


def test_an_engine_that_nobody_needs_goes_after_the_retention_and_its_bytes_are_swept():
    stage = serving()
    engine = stage.names("AXEngine")[0]
    stage.delete_model("smol")
    stage.reconcile()
    assert stage.names("AXEngine") == [engine]
    stage.now += 3599
    stage.reconcile()
    assert stage.names("AXEngine") == [engine]
    stage.now += 1
    stage.reconcile()
    assert not stage.names("AXEngine")
    assert engine in str(stage.job("sweep")["spec"])
    stage.finish("sweep", TaskResult(ok=True, reason="Swept"))
    stage.reconcile()
    assert [k for k, _ in stage.objects if k != "Pod"] == ["PersistentVolumeClaim"]


def test_an_engine_that_comes_back_while_it_is_swept_waits_for_the_sweep():
    stage = serving(engine_retention=0)
    engine = stage.names("AXEngine")[0]
    stage.delete_model("smol")
    stage.reconcile()
    stage.models["smol"] = model(DEMO)
    stage.models["smol"]["metadata"]["uid"] = "uid-again"
    stage.reconcile()
    stage.resolve()
    stage.reconcile()
    assert stage.names("AXEngine") == [engine]
    assert engine not in stage.names("Job")
    stage.finish("sweep", TaskResult(ok=True, reason="Swept"))
    stage.reconcile()
    assert engine in stage.names("Job")


def test_an_engine_is_kept_while_a_models_wish_is_not_known():
    stage = serving(engine_retention=0)
    stage.models["smol"]["spec"]["model"] = "A.X-9"
    for deployment in stage.all("Deployment"):
        stage.delete("Deployment", deployment["metadata"]["name"])
    stage.reconcile()
    assert len(stage.names("AXEngine")) == 1


def test_an_engine_that_users_applied_is_never_deleted():
    stage = serving(engine_retention=0)
    engine = stage.all("AXEngine")[0]
    engine["metadata"]["labels"] = {}
    stage.delete_model("smol")
    stage.reconcile()
    assert len(stage.names("AXEngine")) == 1


def test_an_engine_with_a_name_that_is_not_its_digest_is_refused():
    stage = serving()
    good = stage.all("AXEngine")[0]
    bad = {**good, "metadata": {**good["metadata"], "name": "smol-0000000000", "uid": "x", "labels": {}}}
    del bad["status"]
    stage.objects["AXEngine", "smol-0000000000"] = bad
    stage.reconcile()
    ready = next(c for c in bad["status"]["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "NameMismatch")
    assert good["metadata"]["name"] in ready["message"]


def test_an_engine_ref_pins_an_engine_and_a_missing_one_is_named():
    stage = serving()
    engine = stage.names("AXEngine")[0]
    stage.models["pinned"] = model(DEMO + f"engineRef: {engine}", name="pinned")
    stage.reconcile()
    stage.resolve()
    stage.reconcile()
    assert conditions(stage, "pinned")["EngineReady"] == ("True", "Built")
    stage.models["pinned"]["spec"]["engineRef"] = "nobody"
    stage.reconcile()
    assert conditions(stage, "pinned")["EngineReady"] == ("False", "EngineNotFound")
    assert "nobody" in stage.message("pinned", "Ready")


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
