"""The plan's invariants, each by its name, over lives that hypothesis makes up: edits, builds, falls, nodes, charts.

AX_SOAK=1 tries eight times as many, three times as long.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ax_engines.tasks import TaskResult
from ax_operator.api import names
from ax_operator.api.axhostedapi import AXHostedAPISpec
from ax_operator.plan.machines import Machines
from ax_operator.plan.model import plan_model
from ax_operator.plan.scaling import Load
from ax_operator.plan.store import plan_store
from ax_operator.plan.world import labels
from tests.plan.floor import TRTLLM, ax, gpu_node, gpu_world, real
from tests.plan.stage import CPU_NODE, CPU_TOOLCHAIN, DEMO, Stage, model, resolved, world

NODES = (gpu_node("h-0", "h100"), gpu_node("h-1", "h100"))
ACTIONS = (
    *("edit limit", "edit format", "edit backend", "revert", "scale 0", "scale 1", "scale 3", "in place", "bad edit"),
    *("resolve", "build", "build fails", "all ready", "one ready", "pods fall", "toolchain", "nodes go", "nodes come"),
    *("minutes", "days", "plan"),
)
SOAK = os.environ.get("AX_SOAK") == "1"
pytestmark = [pytest.mark.soak] if SOAK else []
LIVES = st.lists(st.sampled_from(ACTIONS), min_size=4, max_size=42 if SOAK else 14)
PROPERTY = settings(max_examples=200 if SOAK else 25, deadline=None, suppress_health_check=list(HealthCheck))


class Life:
    """Two models on GPUs, and everything that may happen to them."""

    def __init__(self) -> None:
        self.stage = Stage(gpu_world(*NODES), ax("A.X-4.0", called="one"), ax("A.X-4.0", called="two"))
        self.foreign: dict[str, Any] = {
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "axm-one-src-0", "namespace": "team-a", "uid": "foreign", "labels": {}},
        }  # fmt: skip
        self.stage.objects["ConfigMap", "axm-one-src-0"] = self.foreign
        self.version = 0

    def happen(self, action: str) -> None:  # noqa: PLR0912  a line for each thing that may happen
        """Let one thing happen; the plan is not run."""
        stage, spec = self.stage, self.stage.models["one"]["spec"]
        match action.split():
            case ["edit", "limit"]:
                spec["engine"] = {"limits": {"maxBatchSize": 5}}
            case ["edit", "format"]:
                spec["engine"] = {"quantization": "int8-wo"}
            case ["edit", "backend"]:
                spec["engine"] = {"backend": "pytorch"}
            case ["bad", "edit"]:
                spec["engine"] = {"toolchain": "gone"}
            case ["revert"]:
                spec.pop("engine", None)
            case ["scale", count]:
                spec["scaling"] = {"mode": "fixed", "replicas": int(count)}
            case ["in", "place"]:
                spec["rollout"] = "InPlace"
            case ["resolve"] if stage.jobs("resolve"):
                stage.finish("resolve", TaskResult(ok=True, reason="Resolved", resolved=real("A.X-4.0")))
            case ["build"] if stage.jobs("build"):
                stage.build()
            case ["build", "fails"] if stage.jobs("build"):
                stage.finish("build", TaskResult(ok=False, reason="CommandFailed", message="no kernel"))
            case ["all", "ready"]:
                stage.ready("one")
                stage.ready("two")
            case ["one", "ready"]:
                stage.ready("one", 1)
            case ["pods", "fall"]:
                stage.ready("one", 0)
            case ["toolchain"]:
                self.version += 1
                new = replace(TRTLLM, tensorrt_llm=f"1.2.{self.version + 1}", image=f"registry.test/t:{self.version}")
                changed = stage.world.settings.model_copy(update={"toolchains": (new, CPU_TOOLCHAIN)})
                stage.world = replace(stage.world, settings=changed)
            case ["nodes", "go"]:
                stage.world = replace(stage.world, machines=Machines((CPU_NODE,)))
            case ["nodes", "come"]:
                stage.world = replace(stage.world, machines=Machines((CPU_NODE, *NODES)))
            case ["minutes"]:
                stage.now += 700
            case ["days"]:
                stage.now += 2 * 3600

    def up(self) -> Life:
        """Bring both models to Ready."""
        for action in ("plan", "resolve", "plan", "build", "plan", "all ready", "plan"):
            self.happen(action)
            self.stage.reconcile()
        assert self.stage.condition("one", "Ready") == ("True", "Serving")
        return self


def ready_of(stage: Stage, name: str) -> int:
    mine = [d for d in stage.all("Deployment") if labels(d)[names.MODEL] == name]
    return sum(min(int(d.get("status", {}).get("readyReplicas", 0)), d["spec"]["replicas"]) for d in mine)


@PROPERTY
@given(LIVES)
def test_ready_pods_are_never_given_up_below_what_is_asked_for(life):
    one = Life().up()
    for action in life:
        one.happen(action)
        spec = one.stage.models["one"]["spec"]
        before = ready_of(one.stage, "one")
        one.stage.reconcile()
        least = min(before, spec["scaling"]["replicas"]) - (1 if spec.get("rollout") == "InPlace" else 0)
        assert ready_of(one.stage, "one") >= least, action


@PROPERTY
@given(LIVES)
def test_apply_the_plan_and_plan_again_is_an_empty_diff(life):
    one = Life()
    for action in life:
        one.happen(action)
        one.stage.reconcile()
        assert one.stage.step() is False, action


@PROPERTY
@given(LIVES)
def test_same_input_same_bytes_whatever_happened(life):
    one = Life()
    for action in life:
        one.happen(action)
        one.stage.reconcile()
    for name, each in one.stage.models.items():
        first = plan_model(copy.deepcopy(each), one.stage.seen(name), one.stage.world, one.stage.now)
        assert first == plan_model(each, one.stage.seen(name), one.stage.world, one.stage.now)
    store = one.stage.store_seen
    assert plan_store("team-a", store(), one.stage.world, one.stage.now) == plan_store(
        "team-a", store(), one.stage.world, one.stage.now
    )


@PROPERTY
@given(LIVES)
def test_nothing_that_we_did_not_label_is_ever_deleted(life):
    one = Life()
    for action in life:
        one.happen(action)
        one.stage.reconcile()
        assert one.stage.objects["ConfigMap", "axm-one-src-0"] is one.foreign


@PROPERTY
@given(LIVES)
def test_one_build_at_a_time_per_digest_and_one_roll_at_a_time_for_the_chart(life):
    one = Life().up()
    edited = False
    for action in life:
        edited |= action.startswith(("edit", "revert", "bad"))
        one.happen(action)
        one.stage.reconcile()
        jobs = Counter(labels(j)[names.ENGINE] for j in one.stage.jobs("build"))
        assert all(count == 1 for count in jobs.values())
        if not edited and one.stage.models["one"]["spec"]["scaling"]["replicas"]:
            models = Counter(labels(d)[names.MODEL] for d in one.stage.all("Deployment"))
            assert sum(count > 1 for count in models.values()) <= 1


@PROPERTY
@given(LIVES)
def test_a_budget_for_disruptions_stands_only_with_two_replicas_or_more(life):
    one = Life().up()
    for action in life:
        one.happen(action)
        one.stage.reconcile()
        if one.stage.condition("one", "Accepted")[0] == "True":
            many = one.stage.models["one"]["spec"]["scaling"]["replicas"] > 1
            assert ("axm-one" in one.stage.names("PodDisruptionBudget")) == many


def test_two_models_with_the_same_recipe_share_one_engine():
    assert len(Life().up().stage.names("AXEngine")) == 1


def test_which_revision_serves_is_read_from_deployments_and_not_from_status():
    one = Life().up()
    wanted = copy.deepcopy(one.stage.models["one"]["status"]["engine"])
    one.stage.models["one"]["status"] = {"engine": {"serving": "a-lie", "name": "another"}, "replicas": 77}
    one.stage.reconcile()
    assert one.stage.models["one"]["status"]["engine"] == wanted


def test_a_failed_build_is_retried_only_with_back_off_or_a_changed_spec():
    one = Life()
    for action in ("plan", "resolve", "plan", "build fails", "plan", "plan"):
        one.happen(action)
        one.stage.reconcile()
    job = one.stage.all("Job")[0]["metadata"]["uid"]
    one.happen("edit limit")
    one.stage.reconcile()
    assert len(one.stage.jobs("build")) == 1  # of the new digest; the failed one waits
    assert one.stage.all("Job")[0]["metadata"]["uid"] == job
    one.happen("minutes")
    one.stage.reconcile()
    assert len(one.stage.jobs("build")) == 2


@PROPERTY
@given(
    st.integers(0, 3),
    st.integers(0, 4),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 5)), min_size=1, max_size=12),
)
def test_replicas_stay_within_bounds_and_reach_zero_only_without_requests(low, more, loads):
    bounds = f"{{minReplicas: {low}, maxReplicas: {max(1, low + more)}}}"
    stage = Stage(world(), model(DEMO.replace("{mode: fixed, replicas: 1}", bounds)))
    stage.reconcile()
    stage.resolve(resolved())
    stage.reconcile()
    stage.build()
    stage.reconcile()
    for requests, ready in loads:
        stage.ready("smol")
        stage.loads["smol"] = Load(running=requests, in_flight=requests, ready=ready, pods_known=1, pods_answered=1)
        had = sum(d["spec"]["replicas"] for d in stage.all("Deployment"))
        stage.step()
        stage.now += 400
        has = sum(d["spec"]["replicas"] for d in stage.all("Deployment"))
        assert low <= has <= max(1, low + more)
        assert has or not (had and requests)


@pytest.mark.parametrize(
    "routing",
    [
        {"hosted": {"apiRef": "ax"}},
        {"hosted": {"apiRef": "ax"}, "policy": "HostedFirst"},
        {"hosted": {"apiRef": "ax"}, "policy": "HostedOnly"},
        {"hosted": {"apiRef": "ax"}, "whileUnavailable": "Hosted"},
    ],
)
def test_a_model_that_must_stay_on_prem_has_no_hosted_route_in_any_state(routing):
    """CEL refuses the pair; should one slip through, the plan refuses it too, and what serves goes on."""
    api = AXHostedAPISpec(base_url="https://api.test/v1", model="ax4", allowed_namespaces=("team-a",))
    stage = Stage(world(hosted={"ax": api}), model(DEMO))
    for act in (lambda: None, stage.resolve, stage.build, lambda: stage.ready("smol")):
        act()
        stage.reconcile()
        slipped = copy.deepcopy(stage.models["smol"])
        slipped["spec"]["routing"] = routing
        told = plan_model(slipped, stage.seen("smol"), stage.world, stage.now).status
        assert told is not None
        found = {c["type"]: c for c in told["conditions"]}
        assert found["Accepted"]["reason"] == "InvalidSpec"
        assert "dataResidency" in found["Accepted"]["message"]
        assert "Routed" not in found
