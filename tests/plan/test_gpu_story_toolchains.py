"""Toolchains change on paper: models on GPUs build anew while they serve, and roll one after the other."""

from __future__ import annotations

from dataclasses import replace

from ax_engines.tasks import TaskResult
from ax_operator.api import names
from ax_operator.plan.world import labels
from tests.plan.floor import NEXT, TRTLLM, ax, gpu_node, gpu_world, real, served, settle, with_toolchain
from tests.plan.stage import Stage


def test_a_new_toolchain_builds_anew_while_the_old_engine_serves_and_says_both_versions():
    stage = served()
    old = stage.names("AXEngine")
    with_toolchain(stage, NEXT)
    stage.reconcile()
    assert stage.condition("a-x-4-0", "Ready") == ("True", "Serving")
    assert stage.condition("a-x-4-0", "Reconciling") == ("True", "Building")
    said = stage.message("a-x-4-0", "Reconciling")
    assert "1.2.1 in the artifact" in said
    assert "1.2.2 is needed" in said
    assert len(stage.names("Deployment")) == 1
    settle(stage)
    assert stage.models["a-x-4-0"]["status"]["engine"]["serving"] not in old
    assert len(stage.names("Deployment")) == 1


def trio() -> Stage:
    """Return a stage with three models of different engines that serve."""
    models = [ax("A.X-4.0", f"engine: {{limits: {{maxBatchSize: {n}}}}}", f"m{n}") for n in (1, 2, 3)]
    stage = Stage(gpu_world(gpu_node("h-0", "h100"), gpu_node("h-1", "h100")), *models)
    stage.reconcile()
    stage.finish("resolve", TaskResult(ok=True, reason="Resolved", resolved=real("A.X-4.0")))
    stage.reconcile()
    settle(stage)
    assert len(stage.names("AXEngine")) == len(stage.names("Deployment")) == 3
    return stage


def rolling(stage: Stage) -> list[str]:
    """Return the models of which two revisions are there."""
    found = [labels(d)[names.MODEL] for d in stage.all("Deployment")]
    return sorted({n for n in found if found.count(n) > 1})


def test_a_toolchain_change_rolls_one_model_after_the_other():
    stage = trio()
    with_toolchain(stage, NEXT)
    order = []
    for _ in range(12):
        stage.reconcile()
        assert len(stage.jobs("build")) <= 1
        assert len(rolling(stage)) <= 1
        order += [n for n in rolling(stage) if n not in order]
        if stage.jobs("build"):
            waiting = [n for n in stage.models if stage.condition(n, "Reconciling")[1] == "WaitingForTurn"]
            assert len(waiting) + len(order) == 2
            stage.build()
        else:
            for name in stage.models:
                stage.ready(name)
    assert order == ["m1", "m2", "m3"]
    assert all(stage.condition(n, "Ready") == ("True", "Serving") for n in stage.models)
    assert all(stage.condition(n, "Reconciling") == ("-", "-") for n in stage.models)


def test_a_toolchain_that_fails_stops_at_the_first_model_and_the_others_serve_on():
    stage = trio()
    with_toolchain(stage, NEXT)
    stage.reconcile()
    stage.finish("build", TaskResult(ok=False, reason="CommandFailed", message="trtllm-build: no kernel"))
    stage.reconcile()
    assert stage.condition("m1", "Stalled") == ("True", "CommandFailed")
    assert [stage.condition(n, "Reconciling")[1] for n in ("m2", "m3")] == ["WaitingForTurn"] * 2
    assert "AXModel m1 rolls first" in stage.message("m2", "Reconciling")
    assert all(stage.condition(n, "Ready") == ("True", "Serving") for n in stage.models)
    with_toolchain(stage, TRTLLM)
    stage.reconcile()
    assert all(stage.condition(n, "Reconciling") == ("-", "-") for n in ("m2", "m3"))


def test_an_author_who_changes_a_waiting_model_does_not_wait():
    stage = trio()
    with_toolchain(stage, NEXT)
    stage.reconcile()
    stage.models["m3"]["spec"]["engine"]["limits"]["maxBatchSize"] = 7
    stage.reconcile()
    assert len(stage.jobs("build")) == 2
    assert stage.condition("m3", "Reconciling") == ("True", "Building")


def test_models_that_cannot_roll_hold_up_nobody():
    stage = trio()
    stage.models["m1"]["spec"]["scaling"]["replicas"] = 0
    stage.models["m2"]["spec"]["engine"]["toolchain"] = "gone"
    stage.reconcile()
    stage.ready("m1")
    with_toolchain(stage, NEXT)
    stage.reconcile()
    assert stage.condition("m3", "Reconciling") == ("True", "Building")
    assert stage.condition("m2", "Accepted") == ("False", "ToolchainIncompatible")


def test_a_new_image_of_the_same_version_rolls_without_a_build_one_at_a_time():
    stage = trio()
    with_toolchain(stage, replace(TRTLLM, image="registry.test/ax-triton-tensorrt:1b"))
    stage.reconcile()
    assert not stage.jobs("build")
    assert rolling(stage) == ["m1"]
    settle(stage)
    images = {d["spec"]["template"]["spec"]["initContainers"][0]["image"] for d in stage.all("Deployment")}
    assert images == {"registry.test/ax-triton-tensorrt:1b"}
    assert len(stage.names("Deployment")) == 3


def test_in_place_rolls_wait_for_each_other_too():
    stage = trio()
    for one in stage.models.values():
        one["spec"]["rollout"] = "InPlace"
    with_toolchain(stage, replace(TRTLLM, image="registry.test/ax-triton-tensorrt:1b"))
    stage.reconcile()
    assert rolling(stage) == ["m1"]
    assert sum(d["spec"]["replicas"] for d in stage.all("Deployment")) == 3
    settle(stage)
    assert len(stage.names("Deployment")) == 3


def test_users_of_tensorrt_are_told_that_a_move_is_due_and_the_move_is_a_roll():
    stage = served()
    assert any("plan a move to backend pytorch" in n for n in stage.models["a-x-4-0"]["status"]["notes"])
    stage.models["a-x-4-0"]["spec"]["engine"] = {"backend": "pytorch"}
    stage.reconcile()
    assert stage.condition("a-x-4-0", "Ready") == ("True", "Serving")
    assert len(stage.names("Deployment")) == 1
    settle(stage)
    status = stage.models["a-x-4-0"]["status"]
    assert status["engine"]["backend"] == "pytorch"
    assert status["engine"]["serving"] == status["engine"]["name"]
    assert not any("plan a move" in n for n in status.get("notes") or ())
