"""Cache keys change with everything that decides the result, and with nothing else."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from local import images
from local.binaries import HYPERKUBE, KWOK
from local.errors import LocalError
from local.process import runs, start_time

ENGINES = next(image for image in images.IMAGES if image.name == "ax-engines")


def test_a_program_is_named_by_version_and_content() -> None:
    assert HYPERKUBE.path().name == f"hyperkube-1.34.4-{HYPERKUBE.key()}"
    assert HYPERKUBE.key() == replace(HYPERKUBE).key()
    assert HYPERKUBE.key() != replace(HYPERKUBE, stamps=()).key()
    assert KWOK.key() != replace(KWOK, version="0.7.1").key()


def test_an_image_key_depends_on_sources_lock_base_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ROOT", tmp_path)
    files = {
        "engines/images/engines.Containerfile": "FROM x",
        "engines/images/python.Containerfile": "FROM y",
        "locks/engines.txt": "a==1",
        "engines/ax_engines/contract.py": "A = 1",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = images.key(ENGINES, "base:1")
    assert images.key(ENGINES, "base:1") == before
    keys = {before, images.key(ENGINES, "base:2")}
    for name in files:
        (tmp_path / name).write_text("changed")
        keys.add(images.key(ENGINES, "base:1"))
    assert len(keys) == 2 + len(files)
    cached = tmp_path / "engines/ax_engines/__pycache__"
    cached.mkdir()
    last = images.key(ENGINES, "base:1")
    (cached / "contract.pyc").write_text("x")
    assert images.key(ENGINES, "base:1") == last


def test_every_image_has_its_files() -> None:
    for image in images.IMAGES:
        assert (images.ROOT / "engines" / "images" / f"{image.containerfile}.Containerfile").is_file()
        assert not image.lock or (images.ROOT / "locks" / f"{image.lock}.txt").is_file()
        assert all((images.ROOT / source).is_dir() for source in image.sources)


def test_an_unknown_image_is_named_with_the_known_ones() -> None:
    with pytest.raises(LocalError, match=r"No image ax-nothing; there are ax-operator, .*ax-triton"):
        images.chosen(["ax-nothing"], local=True)


def test_this_machine_builds_no_image_for_gpus() -> None:
    assert "ax-triton-tensorrt" not in [image.name for image in images.chosen([], local=True)]
    assert "ax-triton-tensorrt" in [image.name for image in images.chosen([], local=False)]


def test_a_process_is_told_from_a_later_one_with_its_id() -> None:
    own = os.getpid()
    assert runs(own, start_time(own))
    assert not runs(own, "1")
    assert not runs(own, "")
