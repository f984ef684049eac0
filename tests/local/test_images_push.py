"""`make images push` against a real registry, on a base that comes from a registry as well."""

import json
import os
import re
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from local import build, images
from local.binaries import REGISTRY, go_program
from local.paths import ROOT

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a registry on loopback, for which plain HTTP is allowed as on a machine of a user's."""
    command = [str(go_program(REGISTRY)), "-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr
        port = re.search(r"port (\d+)", running.stderr.readline())
        assert port
        address = f"localhost:{port[1]}"
        allowed = tmp_path_factory.mktemp("registries") / "registries.conf"
        allowed.write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CONTAINERS_REGISTRIES_CONF", str(allowed))
            yield address
        running.terminate()


@pytest.fixture(scope="module")
def base(registry: str) -> str:
    """Return a base in the registry: this machine's own, in the place of python:3.11-slim."""
    name = f"{registry}/library/python:3.11-slim"
    build.publish(build.base_image(), name)
    return name


def push(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "local", "images", "push", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)


def get(registry: str, path: str) -> bytes:
    request = urllib.request.Request(f"http://{registry}/v2/ax/ax-operator/{path}", headers={"Accept": MANIFEST})
    with DIRECT.open(request, timeout=30) as answer:
        return bytes(answer.read())


def test_an_image_is_in_the_registry_under_the_projects_version(registry: str, base: str) -> None:
    done = push("--registry", f"{registry}/ax/", "--base", base, "ax-operator")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"{registry}/ax/ax-operator:{images.VERSION}"]
    manifest: dict[str, Any] = json.loads(get(registry, f"manifests/{images.VERSION}"))
    config = json.loads(get(registry, f"blobs/{manifest['config']['digest']}"))["config"]
    assert (config["User"], config["Entrypoint"]) == ("65532:65532", ["python3", "-m", "ax_operator"])
    found: dict[str, tarfile.TarInfo] = {}
    for layer in manifest["layers"]:
        with tarfile.open(fileobj=BytesIO(get(registry, f"blobs/{layer['digest']}"))) as content:
            found |= {each.name: each for each in content if not each.issym()}
    ours = [each for name, each in found.items() if name.startswith("opt/")]
    assert not [each.name for each in ours if ~each.mode & (0o555 if each.isdir() else 0o444)]
    for source in ("operator/ax_operator", "operator/ax_gateway", "engines/ax_engines"):
        mine = Path("opt/app") / Path(source).name
        assert f"{mine}/__init__.py" in found
    assert "opt/site/kopf/__init__.py" in found


def test_a_registry_that_is_not_there_is_named(base: str) -> None:
    done = push("--registry", "localhost:1/ax", "--base", base, "ax-operator")
    assert done.returncode == 1
    assert "localhost:1/ax/ax-operator" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_base_needs_the_images_that_it_suits() -> None:
    done = push("--registry", "localhost:1/ax", "--base", "localhost/some:1")
    assert done.returncode == 1
    assert "name them" in done.stderr
