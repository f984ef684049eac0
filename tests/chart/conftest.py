"""helm without a cluster: rendering a chart needs no API server."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.binaries import client

ROOT = Path(__file__).parents[2]
Helm = Callable[..., "subprocess.CompletedProcess[str]"]
Render = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Run helm; the answer has its exit status and what it printed."""
    home = str(tmp_path_factory.mktemp("helm"))
    places = dict.fromkeys(("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"), home)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(client("helm")), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=places, check=False)

    return run


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """Render a chart with `helm template`; returns its objects."""

    def run(chart: str, *arguments: str, release: str = "ax", namespace: str = "ax-system") -> list[dict[str, Any]]:
        done = helm("template", release, str(ROOT / "charts" / chart), "--namespace", namespace, *arguments)
        assert done.returncode == 0, done.stderr
        return [found for found in yaml.safe_load_all(done.stdout) if found]

    return run
