"""Docker archives become layouts that share layers, and a node is sent only what it lacks."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from local.errors import LocalError
from local.layout import forget, references, unpack, write_archive
from local.pause import REFERENCE, pack


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "pause.tar"
    path.write_bytes(pack(b"\x7fELF"))
    return path


def names(stream: io.BytesIO) -> set[str]:
    stream.seek(0)
    with tarfile.open(fileobj=stream) as opened:
        return {Path(name).name for name in opened.getnames()}


def test_packing_is_reproducible() -> None:
    assert pack(b"one") == pack(b"one")
    assert pack(b"one") != pack(b"two")


def test_every_blob_of_a_layout_is_named_by_its_digest(archive: Path, tmp_path: Path) -> None:
    unpack(archive, tmp_path / "image", tmp_path / "blobs")
    blobs = list((tmp_path / "image" / "blobs" / "sha256").iterdir())
    assert len(blobs) == 3
    assert all(blob.name == hashlib.sha256(blob.read_bytes()).hexdigest() for blob in blobs)
    digest = references(tmp_path / "image")[REFERENCE].removeprefix("sha256:")
    manifest = json.loads((tmp_path / "image" / "blobs" / "sha256" / digest).read_text())
    named = {part["digest"].removeprefix("sha256:") for part in (manifest["config"], *manifest["layers"])}
    assert named | {digest} == {blob.name for blob in blobs}


def test_only_what_the_node_lacks_is_sent(archive: Path, tmp_path: Path) -> None:
    unpack(archive, tmp_path / "image", tmp_path / "blobs")
    layer = next((tmp_path / "blobs").iterdir()).name
    whole, rest = io.BytesIO(), io.BytesIO()
    write_archive(tmp_path / "image", set(), whole)
    write_archive(tmp_path / "image", {f"sha256:{layer}"}, rest)
    assert names(whole) - names(rest) == {layer}
    assert {"oci-layout", "index.json"} <= names(rest)


def test_a_layer_stays_while_any_layout_has_it(archive: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    unpack(archive, tmp_path / "one", blobs)
    unpack(archive, tmp_path / "two", blobs)
    assert len(list(blobs.iterdir())) == 1
    forget(tmp_path / "one", blobs)
    assert len(list(blobs.iterdir())) == 1
    forget(tmp_path / "two", blobs)
    assert list(blobs.iterdir()) == []


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.tar"
    with tarfile.open(path, "w"):
        pass
    with pytest.raises(LocalError, match=r"other\.tar.* is no docker archive: it has no manifest\.json"):
        unpack(path, tmp_path / "image", tmp_path / "blobs")
