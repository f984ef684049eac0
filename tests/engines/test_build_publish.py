"""From a claim to a published artifact: whole, checked, in one step, and again after a kill at any point."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ax_engines.build import store
from ax_engines.build.__main__ import run
from ax_engines.build.errors import BuildError
from ax_engines.build.fetch import Fetch
from ax_engines.build.places import Places
from ax_engines.build.progress import Tracker
from ax_engines.contract import MANIFEST, ArtifactSpec, Manifest
from ax_engines.tasks import TaskResult
from tests.engines.flaky_origin import flaky
from tests.engines.model_files import (
    TEMPLATE,
    build_task,
    claim_source,
    resolved,
    spec_of,
    tree,
    write_folder,
    write_gguf,
    write_safetensors,
)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places.below(tmp_path)
    made.source.mkdir()
    made.store.mkdir()
    return made


@pytest.fixture
def spec(places: Places) -> ArtifactSpec:
    write_folder(places.source / "model")
    return spec_of(resolved(places))


def build(places: Places, spec: ArtifactSpec) -> list[TaskResult]:
    return [run(phase, build_task(spec), places) for phase in ("fetch", "publish")]


def test_a_folder_is_published_with_template_and_facts(places: Places, spec: ArtifactSpec) -> None:
    fetched, published = build(places, spec)
    assert (fetched.ok, fetched.reason) == (True, "Fetched")
    assert (published.ok, published.reason) == (True, "Published")
    final = places.final(spec.name)
    files = tree(final)
    manifest = Manifest.from_json(files.pop(MANIFEST))
    assert {e.path: e.size for e in manifest.files} == {name: len(data) for name, data in files.items()}
    assert files["chat_template.jinja"].decode() == TEMPLATE
    assert files["model-00002-of-00002.safetensors"] == tree(places.source)["model/model-00002-of-00002.safetensors"]
    assert manifest.engine == spec.name
    assert manifest.chat.eos_token == "<|im_end|>"
    assert manifest.chat.context_length == 512
    assert published.chat == manifest.chat
    assert not places.staging(spec.name).exists()


def test_a_gguf_is_published_with_its_own_template(places: Places) -> None:
    write_gguf(places.source / "tiny.gguf")
    spec = spec_of(resolved(places, "tiny.gguf"), claim_source("tiny.gguf"))
    assert all(r.ok for r in build(places, spec))
    manifest = store.read_manifest(places.final(spec.name))
    assert manifest is not None
    assert [e.path for e in manifest.files] == ["chat_template.jinja", "tiny.gguf"]
    assert (manifest.chat.bos_token, manifest.chat.eos_token) == ("<s>", "</s>")


def test_a_model_without_a_template_is_published_without(places: Places) -> None:
    write_gguf(places.source / "tiny.gguf", template=None)
    spec = spec_of(resolved(places, "tiny.gguf"), claim_source("tiny.gguf"))
    results = build(places, spec)
    assert [r.ok for r in results] == [True, True]
    assert results[-1].chat is not None
    assert not results[-1].chat.template
    assert not (places.final(spec.name) / "chat_template.jinja").exists()


@pytest.mark.parametrize(
    ("files", "template", "bos"),
    [
        ({"chat_template.jinja": "own", "tokenizer_config.json": '{"chat_template": "t"}'}, "own", ""),
        ({"chat_template.json": '{"chat_template": "j"}', "tokenizer_config.json": "{}"}, "j", ""),
        (
            {
                "tokenizer_config.json": json.dumps(
                    {
                        "bos_token": "<b>",
                        "chat_template": [
                            {"name": "tool_use", "template": "tools"},
                            {"name": "default", "template": "plain"},
                        ],
                    }
                )
            },
            "plain",
            "<b>",
        ),
        ({"tokenizer_config.json": "{}", "special_tokens_map.json": '{"bos_token": {"content": "<m>"}}'}, None, "<m>"),
    ],
)
def test_templates_are_found_where_tokenizers_keep_them(
    places: Places, files: dict[str, str], template: str | None, bos: str
) -> None:
    write_folder(places.source / "model")
    for name, text in files.items():
        (places.source / "model" / name).write_text(text)
    spec = spec_of(resolved(places))
    assert all(r.ok for r in build(places, spec))
    published = tree(places.final(spec.name))
    found = published.get("chat_template.jinja")
    assert (found.decode() if found else None) == template
    assert Manifest.from_json(published[MANIFEST]).chat.bos_token == bos


def test_a_published_artifact_is_success_at_once(places: Places, spec: ArtifactSpec) -> None:
    build(places, spec)
    before = tree(places.store)
    times = {p: p.stat().st_mtime_ns for p in places.store.rglob("*") if p.is_file()}
    for file in (places.source / "model").iterdir():
        file.unlink()  # the source is not even looked at
    again = build(places, spec)
    assert [(r.ok, r.reason) for r in again] == [(True, "AlreadyPublished"), (True, "Published")]
    assert tree(places.store) == before
    assert times == {p: p.stat().st_mtime_ns for p in places.store.rglob("*") if p.is_file()}


def test_a_damaged_published_folder_is_built_again(places: Places, spec: ArtifactSpec) -> None:
    build(places, spec)
    whole = tree(places.store)
    (places.final(spec.name) / "model-00001-of-00002.safetensors").write_bytes(b"cut")
    assert [r.reason for r in build(places, spec)] == ["Fetched", "Published"]
    assert tree(places.store) == whole


def test_a_changed_source_is_refused_before_a_byte_is_copied(places: Places, spec: ArtifactSpec) -> None:
    write_safetensors(places.source / "model" / "model-00001-of-00002.safetensors", fill=7)
    fetched = run("fetch", build_task(spec), places)
    assert (fetched.ok, fetched.reason) == (False, "SourceChanged")
    assert spec.revision in fetched.message
    assert not any(p.suffix == ".safetensors" for p in places.store.rglob("*"))


def test_another_architecture_than_planned_is_refused(places: Places, spec: ArtifactSpec) -> None:
    other = spec.model_copy(update={"architecture": "LlamaForCausalLM"})
    _, published = build(places, other)
    assert (published.ok, published.reason) == (False, "ArchitectureMismatch")
    assert "Qwen2ForCausalLM" in published.message
    assert "LlamaForCausalLM" in published.message
    assert not places.final(other.name).exists()


def test_bytes_that_change_in_the_store_are_refused_and_fetched_again(places: Places, spec: ArtifactSpec) -> None:
    run("fetch", build_task(spec), places)
    staged = places.staging(spec.name) / "source" / "model-00002-of-00002.safetensors"
    data = bytearray(staged.read_bytes())
    data[-1] ^= 1
    staged.write_bytes(data)
    refused = run("publish", build_task(spec), places)
    assert (refused.reason, places.final(spec.name).exists()) == ("ChecksumMismatch", False)
    assert all(r.ok for r in build(places, spec))


def test_publishing_before_fetching_is_refused(places: Places, spec: ArtifactSpec) -> None:
    assert run("publish", build_task(spec), places).reason == "OutputMissing"


def test_an_engine_that_is_called_otherwise_than_its_spec_is_refused(places: Places, spec: ArtifactSpec) -> None:
    task = build_task(spec).replace(spec.name, "other-0123456789")
    result = run("fetch", task, places)
    assert (result.reason, "rename" in result.message) == ("TaskInvalid", True)


def test_a_store_that_is_too_small_is_refused_with_both_sizes(places: Places) -> None:
    with pytest.raises(BuildError, match=r"StoreFull.*GiB free, but .* GiB are needed \(3 times 1048576.00 GiB"):
        store.require_space(places, 2**50, 3)


def test_a_volume_that_becomes_full_is_a_reason_of_its_own(places: Places, spec: ArtifactSpec) -> None:
    journal = places.staging(spec.name) / (store.JOURNAL + store.PART)
    journal.parent.mkdir(parents=True)
    journal.symlink_to("/dev/full")  # the kernel's device on which every write meets a full disk
    result = run("fetch", build_task(spec), places)
    assert (result.ok, result.reason) == (False, "StoreFull")
    assert "enlarge the engine store" in result.message


def test_a_broken_stream_is_continued_where_it_stopped(places: Places, spec: ArtifactSpec) -> None:
    origin, tracker = flaky(places, breaks=2), Tracker("fetch")
    waits: list[float] = []
    Fetch(origin, spec.name, spec, places, tracker, pause=waits.append).run()
    assert len(waits) == 2
    assert origin.starts.count(0) == 2
    assert 5000 in origin.starts
    assert tracker.snapshot().percent == 100
    assert run("publish", build_task(spec), places).ok


def test_a_stream_that_breaks_often_but_moves_on_is_followed_to_its_end(places: Places, spec: ArtifactSpec) -> None:
    origin = flaky(places, breaks=99, after=1000)
    Fetch(origin, spec.name, spec, places, Tracker("fetch"), pause=lambda _: None).run()
    assert len(origin.starts) > 20
    assert run("publish", build_task(spec), places).ok


def test_a_source_that_stays_broken_gives_up_with_the_reason(places: Places, spec: ArtifactSpec) -> None:
    with pytest.raises(BuildError, match=r"Unreachable.*connection reset \(6 attempts\)"):
        Fetch(flaky(places, breaks=99, after=0), spec.name, spec, places, Tracker("fetch"), pause=lambda _: None).run()
    assert all(r.ok for r in build(places, spec)), "what was copied is continued by the next run"


def test_a_file_fetched_by_an_earlier_run_is_not_read_again(places: Places, spec: ArtifactSpec) -> None:
    run("fetch", build_task(spec), places)
    origin, tracker = flaky(places, breaks=0), Tracker("fetch")
    Fetch(origin, spec.name, spec, places, tracker).run()
    assert origin.starts == []
    assert tracker.snapshot().percent == 100


def test_leftovers_of_another_revision_are_not_mixed_in(places: Places, spec: ArtifactSpec) -> None:
    run("fetch", build_task(spec), places)
    staging = places.staging(spec.name)
    journal = json.loads((staging / store.JOURNAL).read_text())
    (staging / store.JOURNAL).write_text(json.dumps(journal | {"revision": "sha256:0"}))
    (staging / "source" / "stale.safetensors").write_bytes(b"stale")
    assert all(r.ok for r in build(places, spec))
    assert "stale.safetensors" not in tree(places.final(spec.name))


def environment(places: Places, spec: ArtifactSpec) -> dict[str, str]:
    root = str(places.store.parent)
    return os.environ | {"AX_ROOT": root, "AX_PROGRESS_PORT": "0", "AX_TASK": build_task(spec)}


def test_the_program_writes_its_last_word(places: Places, spec: ArtifactSpec) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ax_engines", "fetch"],
        env=environment(places, spec),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Fetched file file=config.json" in done.stdout
    last = TaskResult.from_json(places.termination_log.read_text())
    assert (last.ok, last.reason) == (True, "Fetched")


def test_files_of_the_store_can_be_read_by_the_pod_that_serves(places: Places, spec: ArtifactSpec) -> None:
    build(places, spec)
    for path in places.final(spec.name).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o440 == 0o440
