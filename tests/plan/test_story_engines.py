"""Engines outlive their models on paper: kept for a while, swept, never deleted if users applied them, pinned."""

from __future__ import annotations

from ax_engines.tasks import TaskResult
from tests.plan.scenes import conditions, serving
from tests.plan.stage import DEMO, model


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
