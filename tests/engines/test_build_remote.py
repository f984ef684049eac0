"""Sources on a hub and in an object store: found, fetched, and continued however their downloads break."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ax_engines.build.__main__ import run
from ax_engines.build.errors import BuildError
from ax_engines.build.places import Places
from ax_engines.build.resolve import resolve
from ax_engines.build.sources import open_origin
from ax_engines.contract import ArtifactSpec, Source
from ax_engines.tasks import TaskResult
from tests.engines.model_files import build_task, resolve_task, resolved, spec_of, tree, write_gguf
from tests.engines.remote_sources import SHARD, fetch, hub_source, planned, s3_source
from tests.engines.remote_stores import COMMIT, Remote, free_port


def published(places: Places, spec: ArtifactSpec) -> dict[str, bytes]:
    result = run("publish", build_task(spec), places)
    assert result.ok, result.message
    return tree(places.final(spec.name))


def test_a_hub_repository_is_resolved_to_its_commit_and_built(places: Places, hub: Remote) -> None:
    source = hub_source(hub)
    result = run("resolve", resolve_task(source), places)
    assert result.ok, result.message
    assert result.resolved is not None
    assert result.resolved.revision == COMMIT
    assert (result.resolved.files, result.resolved.chat_template) == (7, True)
    spec = spec_of(result.resolved, source)
    assert run("fetch", build_task(spec), places).reason == "Fetched"
    got = published(places, spec)
    wanted = tree(places.source / "model")
    assert {name: got[name] for name in wanted} == wanted
    downloads = [path for path, _ in hub.requests if "/resolve/" in path]
    assert not [path for path in downloads if "README" in path or "onnx" in path]
    assert all(f"/resolve/{COMMIT}/" in path for path in downloads), "a branch may move, a commit does not"


def test_an_s3_prefix_has_the_revision_of_the_same_files_on_a_claim(places: Places, s3: Remote) -> None:
    source = s3_source(s3)
    spec = planned(source, places)
    assert spec.revision == resolved(places).revision, "same bytes, same engine, wherever they lie"
    assert run("fetch", build_task(spec), places).reason == "Fetched"
    assert "model-00001-of-00002.safetensors" in published(places, spec)


def test_one_gguf_object_and_one_in_a_repository(places: Places, s3: Remote, hub: Remote) -> None:
    write_gguf(places.source / "tiny.gguf")
    data = (places.source / "tiny.gguf").read_bytes()
    s3.files["ax/tiny.gguf"], hub.files = data, {"tiny.gguf": data, "README.md": b""}
    for source in (s3_source(s3, uri="s3://models/ax/tiny.gguf"), hub_source(hub)):
        spec = planned(source, places)
        fetch(source, spec, places)
        assert published(places, spec)["tiny.gguf"] == data


@pytest.fixture
def remotes(places: Places, hub: Remote, s3: Remote) -> dict[str, tuple[Remote, Source]]:
    return {"hub": (hub, hub_source(hub)), "s3": (s3, s3_source(s3))}


Remotes = dict[str, tuple[Remote, Source]]


@pytest.mark.parametrize("fault", ["resets", "cuts"])
@pytest.mark.parametrize("kind", ["hub", "s3"])
def test_downloads_that_break_are_continued(places: Places, remotes: Remotes, kind: str, fault: str) -> None:
    remote, source = remotes[kind]
    spec = planned(source, places)
    setattr(remote, fault, 3)
    before = len(remote.requests)
    assert len(fetch(source, spec, places)) == 3
    assert published(places, spec)[SHARD] == tree(places.source / "model")[SHARD]
    ranges = [headers.get("range", "") for _, headers in remote.requests[before:]]
    assert [r for r in ranges if r.endswith("-") and r != "bytes=0-"], "continued, not begun again"


@pytest.mark.parametrize("kind", ["hub", "s3"])
def test_a_busy_server_is_asked_again(places: Places, remotes: Remotes, kind: str) -> None:
    remote, source = remotes[kind]
    spec = planned(source, places)
    remote.busy = 4
    fetch(source, spec, places)
    assert remote.busy == 0
    assert SHARD in published(places, spec)


def test_a_server_without_ranges_is_read_from_the_start(places: Places, hub: Remote) -> None:
    spec = planned(hub_source(hub), places)
    hub.ranges, hub.resets = False, 2
    fetch(hub_source(hub), spec, places)
    assert published(places, spec)[SHARD] == tree(places.source / "model")[SHARD]


def test_a_download_that_was_damaged_is_not_kept(places: Places, hub: Remote) -> None:
    spec = planned(hub_source(hub), places)
    hub.flips = 1
    assert len(fetch(hub_source(hub), spec, places)) == 1
    assert published(places, spec)[SHARD] == tree(places.source / "model")[SHARD]
    hub.flips = 10_000
    other = spec.model_copy(update={"quantization": "fp8"})
    with pytest.raises(BuildError, match=r"ChecksumMismatch.*was promised"):
        fetch(hub_source(hub), other, places)


def test_damage_that_only_the_revision_shows_is_refused(places: Places, s3: Remote) -> None:
    spec = planned(s3_source(s3), places)
    s3.flips = 1
    with pytest.raises(BuildError, match="SourceChanged"):
        fetch(s3_source(s3), spec, places)
    assert not places.final(spec.name).exists()


def test_an_object_that_changes_while_it_is_read_is_refused(places: Places, s3: Remote) -> None:
    source = s3_source(s3)
    origin = open_origin(source, places)
    listed = next(f for f in origin.files() if f.path == SHARD)
    s3.files[f"ax/tiny/{SHARD}"] += b"x"
    with pytest.raises(BuildError, match="SourceChanged"), origin.open(listed) as stream:
        stream.read(1)


@pytest.mark.parametrize("kind", ["hub", "s3"])
def test_a_source_that_nobody_serves_is_unreachable(places: Places, remotes: Remotes, kind: str) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    source = (
        hub_source(remotes["hub"][0], endpoint=gone) if kind == "hub" else s3_source(remotes["s3"][0], endpoint=gone)
    )
    with pytest.raises(BuildError, match="Unreachable") as caught:
        resolve(open_origin(source, places))
    assert gone in caught.value.message


def test_offline_mode_is_told(places: Places, hub: Remote) -> None:
    env = {"AX_ROOT": str(places.store.parent), "AX_TASK": resolve_task(hub_source(hub)), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "ax_engines", "resolve"]
    done = subprocess.run(command, env=os.environ | env, stdout=subprocess.DEVNULL, check=False)
    result = TaskResult.from_json(places.termination_log.read_text())
    assert (done.returncode, result.reason) == (1, "Unreachable")
    assert "HF_HUB_OFFLINE" in result.message


def test_a_download_that_is_told_to_stop_stops_and_is_continued(places: Places, hub: Remote) -> None:
    source = hub_source(hub)
    spec = planned(source, places)
    hub.stall = threading.Event()
    env = {"AX_ROOT": str(places.store.parent), "AX_TASK": build_task(spec), "AX_PROGRESS_PORT": "0"}
    child = subprocess.Popen([sys.executable, "-m", "ax_engines", "fetch"], env=os.environ | env)
    half = [len(hub.files[f"model-0000{n}-of-00002.safetensors"]) // 2 for n in (1, 2)]
    parts = [places.staging(spec.name) / "source" / f"model-0000{n}-of-00002.safetensors.part" for n in (1, 2)]
    end = time.monotonic() + 60
    while [p.stat().st_size if p.exists() else 0 for p in parts] != half:
        assert time.monotonic() < end, "the halves never arrived"
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 128 + signal.SIGTERM
    hub.stall.set()
    before = len(hub.requests)
    assert fetch(source, spec, places) == []
    ranges = [headers["range"] for _, headers in hub.requests[before:] if "range" in headers]
    assert ranges == [f"bytes={half[0]}-", f"bytes={half[1]}-"]
    assert published(places, spec)[SHARD] == tree(places.source / "model")[SHARD]
