"""The command line of `plan`: what it takes, prints and exits with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ax_engines import catalogue
from ax_engines.contract import ResolvedSource
from ax_engines.plan_cli import main

H100 = "NVIDIA-H100-80GB-HBM3"


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = main(list(argv))
    out = capsys.readouterr()
    return status, out.out, out.err


def test_it_runs_as_the_documented_command() -> None:
    argv = [*("-m", "ax_engines", "plan", "--model", "A.X-4.0", "--gpu", H100, "--format", "json")]
    done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["recipe"]["backend"] == "tensorrt"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--model", "A.X-4.0", "--gpu", H100, "--quantization", "nvfp4", "--calibration", "t"], "SM 100 and newer"),
        (["--model", "A.X-4.0", "--gpu", H100, "--gpus", "1", "--quantization", "none"], "one GPU has 81559 MiB"),
        (["--model", "A.X-4.0", "--gpu", "NVIDIA-T1000"], "neither labels nor the table tell its memory"),
        (["--model", "A.X-9", "--gpu", H100], "UnknownModel: A.X-9 is not in the catalogue; it has A.X-3.1, "),
        (["--model", "A.X-4.0"], "give --model and --gpu"),
        (["--model", "A.X-4.0", "--gpu", H100, "--resolved", "/nonexistent"], "/nonexistent"),
    ],
)
def test_it_exits_with_2_and_the_reasons_when_there_is_no_plan(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, *argv)
    assert (status, out) == (2, "")
    assert words in err


def test_reasons_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--model", "A.X-4.0", "--gpu", H100, "--gpus", "1", "--backend", "pytorch",
                         "--quantization", "none", "--format", "json")  # fmt: skip
    refusal = json.loads(out)
    assert status == 2
    assert refusal["reason"] == "NoRecipeForGPU"
    assert [set(r) for r in refusal["rejected"]] == [{"option", "reason"}]


def test_several_gpus_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--model", "A.X-4.0", "--gpu", H100, "--gpu", "NVIDIA-B200", "--format", "json")
    assert json.loads(out)["recipe"]["gpuProduct"] == "NVIDIA-B200"


def test_a_resolved_source_replaces_what_the_catalogue_assumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = catalogue.load()["A.X-4.0-Light"].assumed_config()
    resolved = ResolvedSource(revision="5a" * 20, format="safetensors", files=9, bytes=14_519_249_920, config=config)
    file = tmp_path / "resolved.json"
    file.write_text(resolved.to_json(), encoding="utf-8")
    argv = ("--model", "A.X-4.0-Light", "--gpu", H100, "--format", "manifest")
    _, assumed, _ = run(capsys, *argv)
    _, real, _ = run(capsys, *argv, "--resolved", str(file))
    assert "5a5a5a" in real
    assert "5a5a5a" not in assumed


def test_the_charts_toolchains_decide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "toolchains.yaml"
    file.write_text("- {name: next, image: i, backends: [tensorrt, pytorch], tensorrt_llm: 1.4.0, gpu: true}\n")
    argv = ("--model", "A.X-4.0", "--gpu", H100, "--format", "json", "--toolchains", str(file))
    status, out, _ = run(capsys, *argv)
    assert status == 0
    assert json.loads(out)["recipe"]["backend"] == "pytorch"


def test_the_matrix_can_be_narrowed_and_be_json(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--all", "--model", "A.X-4.0", "--gpu", H100, "--format", "json")
    rows = json.loads(out)
    assert status == 0
    assert [row["quantization"] for row in rows] == [
        *("none", "fp8", "awq", "w4a8-awq", "int8-wo", "int8-sq", "nvfp4"),
    ]
    assert [row.get("auto") for row in rows] == ["auto", "auto, calibrated", "", "", "", "", None]
    assert rows[-1]["reason"] == "NoRecipeForGPU"
