"""What Triton is given, and when the launcher refuses to start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ax_engines.contract import ServingOptions
from ax_engines.triton.repository import (
    Layout,
    Ports,
    config_pbtxt,
    model_repository,
    server_arguments,
    server_environment,
)
from tests.engines.serving import ENGINE, ROOT, write_engine

OPTIONS = ServingOptions(
    model="demo/smollm2", engine=ENGINE, backend="llamacpp", slots=4, queue=16, context_length=1024
)


def test_the_config_is_what_a_decoupled_model_needs() -> None:
    assert config_pbtxt() == (
        'name: "engine"\n'
        'backend: "python"\n'
        "max_batch_size: 0\n"
        "model_transaction_policy { decoupled: true }\n"
        'input [ { name: "REQUEST", data_type: TYPE_STRING, dims: [ 1 ] } ]\n'
        'output [ { name: "CHUNK", data_type: TYPE_STRING, dims: [ 1 ] } ]\n'
        "instance_group [ { count: 1, kind: KIND_CPU } ]\n"
    )


def test_the_config_has_nothing_that_triton_2_51_cannot_parse() -> None:
    assert "model_metrics" not in config_pbtxt()


def test_the_same_options_give_the_same_repository() -> None:
    first = model_repository(OPTIONS, "/store/e", "a.b", ["/opt/app"])
    assert first == model_repository(OPTIONS, "/store/e", "a.b", ["/opt/app"])
    assert set(first) == {"engine/config.pbtxt", "engine/options.json", "engine/1/model.py"}
    read = json.loads(first["engine/options.json"])
    assert ServingOptions.model_validate(read["serving"]) == OPTIONS
    assert (read["folder"], read["adaptor"]) == ("/store/e", "a.b")


@given(st.lists(st.text(min_size=1), max_size=3))
def test_the_model_file_compiles_whatever_the_paths_are(paths: list[str]) -> None:
    compile(model_repository(OPTIONS, "/e", "a", paths)["engine/1/model.py"], "model.py", "exec")


def test_triton_listens_on_loopback_without_model_control() -> None:
    arguments = server_arguments(Layout("/t/server", "/t/backends"), "/run/ax/models", Ports(), gpus=0)
    assert arguments[0] == "/t/server"
    assert {a for a in arguments if "-address" in a} == {
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
    }
    assert "--model-control-mode=none" in arguments
    assert "--allow-gpu-metrics=false" in arguments
    assert "--allow-gpu-metrics=true" in server_arguments(Layout("/t", "/b"), "/m", Ports(), gpus=1)


def test_the_wheels_libraries_come_first_and_nvidias_image_stays_as_it_is() -> None:
    wheel = Layout("/t", "/b", ("/libs", "/python"))
    assert server_environment(wheel, {"LD_LIBRARY_PATH": "/old"})["LD_LIBRARY_PATH"] == "/libs:/python:/old"
    assert server_environment(wheel, {})["LD_LIBRARY_PATH"] == "/libs:/python"
    assert server_environment(Layout("/t", "/b"), {"A": "1"}) == {"A": "1"}


@pytest.mark.parametrize("text", ["8010", "8010,8011", "8010,8011,x", "0,1,2", "8010,8011,70000", "1,2,3,4"])
def test_ports_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Ports.parse(text)


def launch(**environment: str) -> subprocess.CompletedProcess[str]:
    """Run the launcher where there is no Triton."""
    command = [sys.executable, "-m", "ax_engines.triton"]
    known = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "engines")}
    return subprocess.run(command, env=known | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("serving", "said"),
    [
        ("", "the environment variable AX_SERVING is missing"),
        ("{", "AX_SERVING is wrong at AX_SERVING: Invalid JSON"),
        (OPTIONS.to_json().replace('"slots":4', '"slots":0'), "AX_SERVING is wrong at slots: "),
        (OPTIONS.to_json().replace('"slots"', '"slotz"'), "AX_SERVING is wrong at slot"),
        (OPTIONS.to_json(), "has no manifest.json, so it is no finished engine"),
    ],
)
def test_a_pod_that_cannot_serve_says_why_in_one_sentence(tmp_path: Path, serving: str, said: str) -> None:
    done = launch(AX_SERVING=serving, AX_STORE=str(tmp_path), AX_RUN=str(tmp_path))
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.startswith("Cannot serve: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "models").exists()


def test_another_engine_in_the_folder_is_refused(tmp_path: Path) -> None:
    write_engine(tmp_path, weights=False, name="other-0123456789")
    (tmp_path / "other-0123456789").rename(tmp_path / ENGINE)
    done = launch(AX_SERVING=OPTIONS.to_json(), AX_STORE=str(tmp_path), AX_RUN=str(tmp_path))
    assert "holds the engine 'other-0123456789', not 'smollm2-0123456789'" in done.stderr
    assert done.returncode == 1


def test_a_broken_manifest_is_refused(tmp_path: Path) -> None:
    (write_engine(tmp_path, weights=False) / "manifest.json").write_text('{"engine": 1}')
    done = launch(AX_SERVING=OPTIONS.to_json(), AX_STORE=str(tmp_path), AX_RUN=str(tmp_path))
    assert "cannot be read" in done.stderr
    assert done.returncode == 1


def test_an_image_without_triton_says_so(tmp_path: Path) -> None:
    write_engine(tmp_path, weights=False)
    done = launch(AX_SERVING=OPTIONS.to_json(), AX_STORE=str(tmp_path), AX_RUN=str(tmp_path))
    assert done.returncode == 1
    assert "neither /opt/tritonserver nor the package nvidia-pytriton" in done.stderr
