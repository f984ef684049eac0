"""Sources on a hub and in an object store: found, fetched, continued, refused, each with its reason."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ax_engines.build.__main__ import run
from ax_engines.build.errors import BuildError
from ax_engines.build.fetch import Fetch
from ax_engines.build.origins import Origin
from ax_engines.build.places import Places
from ax_engines.build.progress import Tracker
from ax_engines.build.resolve import resolve
from ax_engines.build.sources import open_origin
from ax_engines.contract import ArtifactSpec, HuggingFaceSource, S3Source, Source
from ax_engines.tasks import TaskResult
from tests.engines.model_files import (
    build_task,
    resolve_task,
    resolved,
    spec_of,
    tree,
    write_folder,
    write_gguf,
    write_safetensors,
)
from tests.engines.remote_stores import COMMIT, HubHandler, Remote, S3Handler, free_port, serving

TOKEN = "hf_standin0token"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places.below(tmp_path)
    for folder in (made.source, made.store, made.secret):
        folder.mkdir()
    write_folder(made.source / "model")
    for number in (1, 2):  # large enough to break in the middle
        shard = made.source / "model" / f"model-0000{number}-of-00002.safetensors"
        write_safetensors(shard, fill=number, rows=5000)
    return made


def files(places: Places) -> dict[str, bytes]:
    return tree(places.source / "model") | {"README.md": b"# card", "onnx/model.bin": b"no"}


@pytest.fixture
def hub(places: Places) -> Iterator[Remote]:
    with serving(HubHandler, Remote(files(places))) as remote:
        yield remote


@pytest.fixture
def s3(places: Places) -> Iterator[Remote]:
    stored = {f"ax/tiny/{name}": data for name, data in files(places).items()}
    with serving(S3Handler, Remote(stored)) as remote:
        yield remote


def hub_source(hub: Remote, **changes: str) -> Source:
    values = {"repo": "skt/tiny", "endpoint": hub.url} | changes
    return Source(hugging_face=HuggingFaceSource.model_validate(values, by_name=True))


def s3_source(s3: Remote, **changes: str) -> Source:
    values = {"uri": "s3://models/ax/tiny", "endpoint": s3.url} | changes
    return Source(s3=S3Source.model_validate(values, by_name=True))


def planned(source: Source, places: Places) -> ArtifactSpec:
    return spec_of(resolve(open_origin(source, places)), source)


def fetch(source: Source, spec: ArtifactSpec, places: Places) -> list[float]:
    """Fetch without waiting between attempts; returns the waits that there would have been."""
    waits: list[float] = []
    origin: Origin = open_origin(source, places, spec.revision)
    Fetch(origin, spec.name, spec, places, Tracker("fetch"), pause=waits.append).run()
    return waits


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
SHARD = "model-00002-of-00002.safetensors"


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


def with_token(places: Places, source: Source, value: str = TOKEN) -> Source:
    (places.secret / "token").write_text(value + "\n")
    assert source.hugging_face is not None
    return Source(hugging_face=source.hugging_face.model_copy(update={"token_secret": "hub-token"}))


def refusal(source: Source, places: Places) -> tuple[str, str]:
    result = run("resolve", resolve_task(source), places)
    assert not result.ok
    return result.reason, result.message


def test_a_gated_repository_needs_the_token_of_its_account(places: Places, hub: Remote) -> None:
    hub.gated, hub.token = True, TOKEN
    reason, message = refusal(hub_source(hub), places)
    assert reason == "GatedRepository"
    assert "no tokenSecret is set" in message
    reason, message = refusal(with_token(places, hub_source(hub), "hf_wrong"), places)
    assert reason == "GatedRepository"
    assert "the token does not give access" in message
    spec = planned(with_token(places, hub_source(hub)), places)
    assert spec.revision == COMMIT


def test_a_private_repository_needs_a_token(places: Places, hub: Remote) -> None:
    hub.token = TOKEN
    reason, message = refusal(hub_source(hub), places)
    assert (reason, "private and no tokenSecret is set" in message) == ("RepositoryNotFound", True)
    assert planned(with_token(places, hub_source(hub)), places).revision == COMMIT


def test_the_token_stays_out_of_messages_and_of_other_hosts(
    places: Places, hub: Remote, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.token = "another"
    source = with_token(places, hub_source(hub))
    result = run("resolve", resolve_task(source), places)
    printed = capsys.readouterr()
    assert TOKEN not in result.to_json() + printed.out + printed.err
    hub.token = TOKEN
    with serving(HubHandler, Remote(hub.files)) as elsewhere:
        hub.redirect = elsewhere.url
        spec = planned(source, places)
        fetch(source, spec, places)
        assert elsewhere.requests
        assert not [h for _, h in elsewhere.requests if "authorization" in h]


def test_a_wrong_revision_or_repository_is_named(places: Places, hub: Remote) -> None:
    assert refusal(hub_source(hub, revision="v9"), places)[0] == "RevisionNotFound"
    assert "v9" in refusal(hub_source(hub, revision="v9"), places)[1]
    assert refusal(hub_source(hub, repo="skt/none"), places)[0] == "RepositoryNotFound"


def test_a_secret_without_its_key_is_named(places: Places, hub: Remote, s3: Remote) -> None:
    source = with_token(places, hub_source(hub), "")
    assert refusal(source, places) == (
        "SecretInvalid",
        "Secret hub-token has no key token or HF_TOKEN, or it is empty: add it",
    )
    assert refusal(with_token(places, hub_source(hub), "a\nb"), places)[0] == "SecretInvalid"
    reason, message = refusal(s3_source(s3, credentials_secret="s3-keys"), places)
    assert (reason, "AWS_ACCESS_KEY_ID" in message) == ("SecretInvalid", True)


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>login here</html>",
        b"[]",
        b'{"sha": 3}',
        json.dumps({"sha": COMMIT}).encode(),
        json.dumps({"sha": COMMIT, "siblings": [{"rfilename": "config.json"}]}).encode(),
        json.dumps({"sha": COMMIT, "siblings": [{"rfilename": "config.json", "size": -1}]}).encode(),
        json.dumps({"sha": COMMIT, "siblings": ["config.json"]}).encode(),
    ],
)
def test_an_endpoint_that_is_no_hub_is_told_so(places: Places, hub: Remote, answer: bytes) -> None:
    hub.answer = answer
    reason, message = refusal(hub_source(hub), places)
    assert (reason, hub.url in message) == ("SourceUnsupported", True)


@pytest.mark.parametrize("name", ["../../etc/cron.d/x.json", "/etc/x.json", "a\\..\\b.json", ".\u202e/../x"])
def test_names_that_leave_the_folder_are_refused(places: Places, hub: Remote, s3: Remote, name: str) -> None:
    hub.files[name] = b"{}"
    assert refusal(hub_source(hub), places)[0] == "UnsafeFiles"


def test_pickles_of_a_hub_are_never_downloaded(places: Places, hub: Remote) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"\x80"}
    assert refusal(hub_source(hub), places)[0] == "UnsafeFiles"
    assert not [path for path, _ in hub.requests if path.endswith(".bin")]


def test_an_s3_store_refuses_in_its_own_words(places: Places, s3: Remote) -> None:
    assert refusal(s3_source(s3, uri="s3://models/none"), places)[0] == "SourceMissing"
    assert refusal(s3_source(s3, uri="s3://other-bucket/x"), places)[0] == "SourceMissing"
    assert refusal(s3_source(s3, uri="s3://models/ax/none.gguf"), places)[0] == "SourceMissing"
    s3.token = "AKIAREAL"
    assert refusal(s3_source(s3), places)[0] == "AccessDenied"
    (places.secret / "AWS_ACCESS_KEY_ID").write_text("AKIAREAL")
    (places.secret / "AWS_SECRET_ACCESS_KEY").write_text("very-s3cret")
    source = s3_source(s3, credentials_secret="s3-keys")
    assert planned(source, places).revision.startswith("sha256:")
    signed = s3.requests[-1][1]["authorization"]
    assert "AKIAREAL" in signed
    assert "very-s3cret" not in signed


def test_a_truncated_shard_on_a_remote_is_seen_before_the_build(places: Places, s3: Remote) -> None:
    s3.files[f"ax/tiny/{SHARD}"] = s3.files[f"ax/tiny/{SHARD}"][:-5]
    assert refusal(s3_source(s3), places)[0] == "Truncated"


def test_a_truncated_shard_of_a_hub_is_never_published(places: Places, hub: Remote) -> None:
    hub.files[SHARD] = hub.files[SHARD][:-5]
    spec = planned(hub_source(hub), places)
    fetch(hub_source(hub), spec, places)
    result = run("publish", build_task(spec), places)
    assert (result.ok, result.reason) == (False, "Truncated")
    assert not places.final(spec.name).exists()


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
