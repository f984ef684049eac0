"""Models are refused or fail on paper: they say why and what to change, and stop nothing that serves."""

from __future__ import annotations

import pytest

from ax_engines.tasks import TaskResult
from tests.plan.scenes import conditions, serving
from tests.plan.stage import DEMO, Stage, model, resolved, world


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
