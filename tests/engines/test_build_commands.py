"""Quantize and compile: a recipe's own commands run by stand-ins that take only what the real programs take."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ax_engines.build import store
from ax_engines.build.__main__ import run
from ax_engines.build.commands import DONE, _Bars
from ax_engines.build.places import Places
from ax_engines.contract import ArtifactSpec, Calibration, Phase
from ax_engines.guard import Expected, check_manifest
from ax_engines.hardware import Pool, Toolchain
from ax_engines.hardware_table import load_gpus
from ax_engines.plan_cli import DEFAULT_TOOLCHAINS
from ax_engines.recipe import Recipe, Wishes, recipe
from ax_engines.tasks import BuildTask, TaskResult
from tests.engines.model_files import build_task, claim_source, resolved, tree, write_folder

STANDINS = Path(__file__).parents[1] / "standins"
TEXTS = Calibration(claim_name="texts", path="news")
H100 = "NVIDIA-H100-80GB-HBM3"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    made = Places.below(tmp_path)
    for folder in (made.source, made.store, made.calibration / "news"):
        folder.mkdir(parents=True)
    (made.calibration / "news" / "a.jsonl").write_text('{"text": "안녕하세요"}\n')
    write_folder(made.source / "model")
    monkeypatch.setenv("PATH", f"{STANDINS / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    return made


def planned(places: Places, **wishes: object) -> ArtifactSpec:
    """Return what the recipe makes of the folder on an H100, its programs being the stand-ins."""
    toolchain: Toolchain = replace(
        DEFAULT_TOOLCHAINS[0], examples=str(STANDINS / "examples"), model_optimizer=str(STANDINS / "model_optimizer")
    )
    pool = Pool("h100", H100, 8, 1, 8, 8, 90, 81079)
    wanted = Wishes(**({"backend": "tensorrt", "max_total_tokens": 256, "max_batch_size": 4} | wishes))  # type: ignore[arg-type]
    found = recipe(claim_source(), resolved(places), None, wanted, (pool,), (toolchain,), load_gpus())
    assert isinstance(found, Recipe), found
    return found.artifact


def build(places: Places, spec: ArtifactSpec) -> TaskResult:
    """Run the phases as the Job's containers do; returns the first failure or the last result."""
    result = TaskResult(ok=False, reason="Nothing")
    for phase in spec.phases:
        result = run(phase.name, build_task(spec), places)
        if not result.ok:
            break
    return result


@pytest.mark.parametrize(
    ("wishes", "phases", "algo"),
    [
        ({"quantization": "none", "tensor": 2}, ["fetch", "compile", "publish"], None),
        ({"quantization": "int8-wo"}, ["fetch", "compile", "publish"], "W8A16"),
        ({"quantization": "fp8", "calibration": TEXTS}, ["fetch", "quantize", "compile", "publish"], "FP8"),
    ],
)
def test_an_engine_is_built_by_its_recipes_commands(
    places: Places, wishes: dict[str, object], phases: list[str], algo: str | None
) -> None:
    spec = planned(places, **wishes)
    assert [p.name for p in spec.phases] == phases
    result = build(places, spec)
    assert result.ok, result.message
    files = tree(places.final(spec.name))
    config = json.loads(files["config.json"])
    assert config["pretrained_config"]["quantization"]["quant_algo"] == algo
    assert spec.target is not None
    ranks = [f"rank{i}.engine" for i in range(spec.target.tensor)]
    tokenizer = {"chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert set(files) == {*ranks, *tokenizer, "config.json", "manifest.json"}
    manifest = store.read_manifest(places.final(spec.name))
    assert manifest is not None
    assert manifest.target == spec.target
    assert manifest.config == resolved(places).config
    assert check_manifest(manifest, Expected.of(spec.name, spec)) == []
    assert check_manifest(manifest, Expected(sm=100))[0].needed == 100


def test_a_quantized_checkpoint_for_pytorch(places: Places) -> None:
    spec = planned(places, backend="pytorch", quantization="fp8", calibration=TEXTS)
    assert [p.name for p in spec.phases] == ["fetch", "quantize", "publish"]
    assert build(places, spec).ok
    files = tree(places.final(spec.name))
    assert json.loads(files["hf_quant_config.json"])["quantization"]["quant_algo"] == "FP8"
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja"} < set(files)
    manifest = store.read_manifest(places.final(spec.name))
    assert manifest is not None
    assert manifest.config.quantization == "FP8"


def test_the_timing_cache_is_kept_for_the_next_build(places: Places) -> None:
    assert build(places, planned(places)).ok
    kept = list((places.store / ".timing").iterdir())
    assert [k.read_text() for k in kept] == ["measured once more\n"]
    assert build(places, planned(places, max_batch_size=2)).ok
    assert [k.read_text() for k in kept] == ["measured once more\n" * 2], "the second build read the first one's"


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        ("oom", "OutOfMemory", "use more ranks"),
        ("crash", "CommandFailed", "Could not find any implementation for node"),
        ("full", "StoreFull", "enlarge its claim"),
        ("nothing", "OutputMissing", "wrote nothing to checkpoint/"),
        ("torn", "OutOfMemory", "SIGKILL"),
    ],
)
def test_a_failing_program_is_told_in_one_sentence(
    places: Places, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str, words: str
) -> None:
    spec = planned(places)
    monkeypatch.setenv("AX_STANDIN", fault)
    result = build(places, spec)
    assert (result.ok, result.reason) == (False, reason)
    assert words in result.message
    assert not places.final(spec.name).exists()
    monkeypatch.delenv("AX_STANDIN")
    assert build(places, spec).ok, "the next pod of the Job builds it"


def test_a_flag_that_the_program_does_not_have_fails_the_build(places: Places) -> None:
    spec = planned(places)
    phases = tuple(
        p.model_copy(update={"commands": (*p.commands[:-1], (*p.commands[-1], "--gemm_plugins", "auto"))})
        if p.name == "compile"
        else p
        for p in spec.phases
    )
    result = build(places, spec.model_copy(update={"phases": phases}))
    assert (result.ok, result.reason) == (False, "CommandFailed")
    assert "trtllm-build ended with status 2" in result.message
    assert "--gemm_plugins" in result.message


def test_a_toolchain_without_the_program_is_named(places: Places) -> None:
    spec = planned(places)
    broken = (Phase(name="fetch"), Phase(name="compile", commands=(("trtllm-bould", "--x"),)), Phase(name="publish"))
    result = build(places, spec.model_copy(update={"phases": broken}))
    assert result.reason == "CommandMissing"
    assert "toolchain 26.07 does not have it" in result.message


def test_an_engine_of_another_version_than_planned_is_not_published(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AX_STANDIN_VERSION", "1.2.0")
    spec = planned(places)
    result = build(places, spec)
    assert (result.ok, result.reason) == (False, "EngineMismatch")
    assert "version is 1.2.0, planned 1.2.1" in result.message
    assert not places.final(spec.name).exists()


def _put(name: str, text: str = "x") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("spoil", "reason", "words"),
    [
        (lambda f: (f / "a.jsonl").unlink(), "CalibrationMissing", "no files"),
        (lambda f: f.rename(f.parent / "old"), "CalibrationMissing", "no folder"),
        (_put("load.py"), "UnsafeFiles", "load.py could run code"),
        (_put("data.pkl"), "UnsafeFiles", "data.pkl"),
        (lambda f: (f / "x.jsonl").symlink_to("/etc/passwd"), "UnsafeFiles", "leaves the claim"),
    ],
)
def test_calibration_data_is_checked_before_it_is_read(
    places: Places, spoil: Callable[[Path], object], reason: str, words: str
) -> None:
    spec = planned(places, quantization="fp8", calibration=TEXTS)
    spoil(places.calibration / "news")
    result = build(places, spec)
    assert (result.ok, result.reason) == (False, reason)
    assert words in result.message


def test_a_calibration_path_stays_on_its_claim(places: Places) -> None:
    spec = planned(places, quantization="fp8", calibration=TEXTS)
    shutil.rmtree(places.calibration / "news")
    (places.calibration / "news").symlink_to(places.store)
    assert build(places, spec).reason == "UnsafeFiles"
    outside = spec.model_copy(update={"calibration": TEXTS.model_copy(update={"path": "../store"})})
    assert build(places, outside).reason == "UnsafeFiles"


def environment(places: Places, spec: ArtifactSpec, **extra: str) -> dict[str, str]:
    task = BuildTask(engine=spec.name, spec=spec).to_json()
    return os.environ | {"AX_ROOT": str(places.store.parent), "AX_PROGRESS_PORT": "0", "AX_TASK": task} | extra


def wait_for(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def alive(text: str) -> list[int]:
    """Return the processes whose command line has the text."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and text.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_a_build_that_is_stopped_ends_its_programs_and_is_continued(places: Places, tmp_path: Path) -> None:
    spec = planned(places)
    run("fetch", build_task(spec), places)
    convert = next(c for p in spec.phases for c in p.commands)
    marker = tmp_path / "out"
    with marker.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "ax_engines", "compile"],
            env=environment(places, spec, AX_STANDIN="hang"),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        wait_for(lambda: b"holding on" in marker.read_bytes())
        children = [p for p in alive(convert[1]) if _parent(p) == child.pid]
        assert children
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 128 + signal.SIGTERM
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    assert build(places, spec).ok


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_commands_that_ended_well_are_not_run_again(
    places: Places, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = planned(places)
    run("fetch", build_task(spec), places)
    monkeypatch.setenv("AX_STANDIN_VERSION", "9")  # the second command meets what the first one left
    first = run("compile", build_task(spec), places)
    assert first.message == "ran 2 commands"
    (places.staging(spec.name) / DONE).write_text(json.dumps([done_keys(places, spec)[0]]))
    monkeypatch.setenv("AX_STANDIN_VERSION", "1.2.1")
    capfd.readouterr()
    again = run("compile", build_task(spec), places)
    assert again.message == "ran 1 commands"
    assert "stand-in for convert" not in capfd.readouterr().out
    assert run("publish", build_task(spec), places).ok


def done_keys(places: Places, spec: ArtifactSpec) -> list[str]:
    keys: list[str] = json.loads((places.staging(spec.name) / DONE).read_text())
    return keys


def test_the_log_keeps_lines_and_leaves_bars_out(
    places: Places, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = planned(places, quantization="fp8", calibration=TEXTS)
    run("fetch", build_task(spec), places)
    capfd.readouterr()
    assert run("quantize", build_task(spec), places).reason == "Quantized"
    lines = capfd.readouterr().out.splitlines()
    assert "[TensorRT-LLM] TensorRT LLM version: 1.2.1 (stand-in for quantize)" in lines
    assert sum("Calibrating" in line for line in lines) <= 1


def test_bars_one_after_the_other_only_go_forward() -> None:
    bars = _Bars()
    shares = [bars.share(p) for p in (0, 50, 100, 0, 50, 100, 3, 100)]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] < 1
