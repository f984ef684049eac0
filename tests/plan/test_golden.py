"""Every object of every A.X model on every pool, as golden files; rewrite them with AX_GOLDEN=write.

Reviewed by eye once; whoever changes a builder sees in the diff of `tests/data/plan` what that does to a cluster.
"""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ax_engines.contract import slug
from ax_operator.plan.diff import satisfied
from ax_operator.plan.model import plan_model
from ax_operator.plan.store import plan_store
from tests.plan.floor import GPUS, MODELS, TRTLLM, ax, gpu_node, gpu_world, up
from tests.plan.stage import DEMO, Stage, model, world

DATA = Path(__file__).parents[1] / "data" / "plan"
CALIBRATED = "engine: {calibration: {pvc: texts, path: korean}}\n"
CASES = {
    **{f"{slug(name)}-{kind}": (name, (kind,), "") for name in MODELS for kind in GPUS},
    "a-x-4-0-h100-calibrated": ("A.X-4.0", ("h100",), CALIBRATED),
    "a-x-4-0-b200-pytorch-calibrated": (
        "A.X-4.0",
        ("b200",),
        "engine: {backend: pytorch, quantization: fp8, calibration: {pvc: texts}}\n",
    ),
    **{f"{slug(name)}-all": (name, tuple(GPUS), "") for name in MODELS},
}
WRITE = os.environ.get("AX_GOLDEN") == "write"


def staged(case: str) -> Stage:
    """Return a stage on which the case's model is served."""
    name, kinds, more = CASES[case]
    with_optimizer = replace(TRTLLM, model_optimizer="/opt/model-optimizer/examples/llm_ptq")
    optimizer = {"toolchains": (with_optimizer,)} if "pytorch" in case else {}
    nodes = [gpu_node(f"{kind}-{n}", kind) for kind in kinds for n in range(2)]
    return up(Stage(gpu_world(*nodes, **optimizer), ax(name, more)), name)


def told(stage: Stage) -> str:
    """Return all objects but pods, and the models' statuses, as YAML without what the cluster itself writes."""
    documents = []
    for (kind, _), found in sorted(stage.objects.items()):
        if kind != "Pod":
            meta = {k: v for k, v in found["metadata"].items() if k not in ("uid", "creationTimestamp")}
            documents.append({**{k: v for k, v in found.items() if k != "status"}, "metadata": meta})
    documents += [{"status": one["status"]} for _, one in sorted(stage.models.items())]
    return yaml.safe_dump_all(documents, sort_keys=False, width=110, allow_unicode=True)


@pytest.mark.parametrize("case", sorted(CASES))
def test_every_object_is_as_reviewed(case):
    stage = staged(case)
    assert stage.condition(slug(CASES[case][0]), "Ready") == ("True", "Serving")
    path, found = DATA / f"{case}.yaml", told(stage)
    if WRITE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8"), f"{case} differs: look, then AX_GOLDEN=write"


def test_no_golden_file_is_left_over():
    assert {p.stem for p in DATA.glob("*.yaml")} == set(CASES)


@pytest.mark.parametrize("case", sorted(CASES))
def test_applied_and_planned_again_nothing_is_left_to_do(case):
    stage = staged(case)
    _fixpoint(stage)


def test_the_cpu_path_is_a_fixpoint_too():
    stage = Stage(world(), model(DEMO))
    stage.reconcile()
    _fixpoint(stage)
    stage.resolve()
    stage.reconcile()
    _fixpoint(stage)
    stage.build()
    stage.reconcile()
    _fixpoint(stage)


def _fixpoint(stage: Stage) -> None:
    for name, one in stage.models.items():
        plan = plan_model(one, stage.seen(name), stage.world, stage.now)
        assert [c["metadata"]["name"] for c in plan.children if not _there(stage, c)] == []
        assert plan.obsolete == ()
        assert plan.status == one["status"]
    store = plan_store("team-a", stage.store_seen(), stage.world, stage.now)
    assert [c["metadata"]["name"] for c in store.children if not _there(stage, c)] == []
    assert store.obsolete == ()
    for status in store.statuses:
        assert stage.get("AXEngine", status["metadata"]["name"])["status"] == status["status"]


def _there(stage: Stage, child: dict) -> bool:
    return satisfied(child, stage.objects.get((child["kind"], child["metadata"]["name"])))


@pytest.mark.parametrize("case", ["a-x-4-0-h100", "a-x-4-0-vl-light-all", "a-x-3-1-light-l40s"])
def test_same_input_same_bytes(case):
    stage = staged(case)
    for name, one in stage.models.items():
        first = plan_model(copy.deepcopy(one), stage.seen(name), stage.world, stage.now)
        again = plan_model(copy.deepcopy(one), stage.seen(name), staged(case).world, stage.now)
        assert yaml.safe_dump([first.children, first.status]) == yaml.safe_dump([again.children, again.status])
