"""The whole matrix of plans, and a few plans in full, as they were reviewed.

`AX_GOLDEN=write` writes what the planner says now; the diff is what a reviewer reads.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from ax_engines.contract import ArtifactSpec
from ax_engines.plan_cli import main

GOLDEN = Path(__file__).parent.parent / "data" / "recipes"
H100 = "NVIDIA-H100-80GB-HBM3"
PLANS = {
    "a.x-4.0-h100.json": ["--model", "A.X-4.0", "--gpu", H100, "--format", "json"],
    "a.x-4.0-h100-fp8.json": ["--model", "A.X-4.0", "--gpu", H100, "--calibration", "texts", "--format", "json"],
    "a.x-4.0-b200-pytorch-nvfp4.json": [
        *("--model", "A.X-4.0", "--gpu", "NVIDIA-B200", "--backend", "pytorch"),
        *("--quantization", "nvfp4", "--calibration", "texts:korean", "--format", "json"),
    ],
    "a.x-4.0-light-l40s-quality.json": [
        *("--model", "A.X-4.0-Light", "--gpu", "NVIDIA-L40S", "--prefer", "quality", "--format", "json"),
    ],
    "a.x-3.1-a100-int8-wo.json": [
        *("--model", "A.X-3.1", "--gpu", "NVIDIA-A100-SXM4-80GB", "--quantization", "int8-wo", "--format", "json"),
    ],
    "a.x-3.1-light-l4.json": ["--model", "A.X-3.1-Light", "--gpu", "NVIDIA-L4", "--gpus", "4", "--format", "json"],
    "a.x-4.0-vl-light-h100.json": ["--model", "A.X-4.0-VL-Light", "--gpu", H100, "--format", "json"],
    "smollm2-cpu.json": ["--model", "SmolLM2-135M-Instruct", "--gpu", "cpu", "--format", "json"],
    "a.x-4.0-h100.txt": ["--model", "A.X-4.0", "--gpu", H100],
    "a.x-4.0-h100-manifest.yaml": ["--model", "A.X-4.0", "--gpu", H100, "--format", "manifest"],
    "matrix.md": ["--all"],
}
COUNT_OF_MATRIX = 5 * 14 * 7 + 1


def compare(name: str, text: str) -> None:
    file = GOLDEN / name
    if os.environ.get("AX_GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PLANS)
def test_plans_are_those_that_were_reviewed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(PLANS[name]) == 0
    compare(name, capsys.readouterr().out)


def test_every_golden_file_is_compared() -> None:
    assert {file.name for file in GOLDEN.iterdir()} == set(PLANS)


def test_the_matrix_has_a_line_for_each_model_gpu_and_format() -> None:
    lines = [line for line in (GOLDEN / "matrix.md").read_text().splitlines() if line.startswith(("| NVIDIA", "| cpu"))]
    assert len(lines) == COUNT_OF_MATRIX
    # Every model has an answer of `auto` on every GPU.
    assert len([line for line in lines if "| auto" in line and not line.endswith("| auto, calibrated |")]) == 5 * 14 + 1


def test_the_json_has_the_documented_keys_and_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    for name, argv in PLANS.items():
        if not name.endswith(".json"):
            continue
        assert main(argv) == 0
        plan = json.loads(capsys.readouterr().out)
        assert list(plan) == [
            *("recipe", "digest", "commands", "llmArgs", "memory", "concurrency", "rejected"),
        ]
        assert plan["recipe"]["engine"].endswith(plan["digest"])
        assert all(isinstance(word, str) for command in plan["commands"] for word in command)
        assert all(set(r) == {"option", "reason"} for r in plan["rejected"])
        assert sum(v for k, v in plan["memory"].items() if k != "total") == plan["memory"]["total"]


def test_the_manifest_is_an_engine_named_by_its_own_digest() -> None:
    manifest = yaml.safe_load((GOLDEN / "a.x-4.0-h100-manifest.yaml").read_text(encoding="utf-8"))
    spec = ArtifactSpec.model_validate(manifest["spec"])
    assert manifest["kind"] == "AXEngine"
    assert manifest["metadata"]["name"] == spec.name
    assert spec.target is not None
    assert spec.target.sm == 90
