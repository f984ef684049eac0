"""What clients of the transformers backend are told when a step of a tiny model fails on the way."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from local.wheels import installed
from tests.engines.tiny_pods import PYTHON, tiny_models

pytestmark = pytest.mark.e2e


def faults(kind: str, folder: Path) -> Any:
    """Return what the clients of a model were told that failed in a step of three requests."""
    here = Path(__file__).parent
    paths = [str(installed("torch")), str(here.parents[1] / "engines")]
    command = [PYTHON, "-s", str(here / "torch_faults.py"), str(tiny_models()), kind, str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def test_without_memory_the_newest_goes_and_the_others_go_on(tmp_path: Path) -> None:
    seen = faults("memory", tmp_path)
    assert sorted(seen["told"]) == [[False, "503 out_of_memory"], [True, ""], [True, ""]]
    assert seen["deaths"] == []


def test_a_broken_gpu_fails_everybody_and_ends_the_process(tmp_path: Path) -> None:
    seen = faults("device", tmp_path)
    assert seen == {"told": [[False, "500 engine_error"]] * 3, "deaths": ["device"]}
