"""Images on disk as OCI layouts that share their layers.

buildah writes docker archives, each with every layer inside. Taken apart, a layer lies once in a folder of blobs,
and each image is a small folder of hard links to what it needs: `index.json`, `oci-layout`, `blobs/sha256/*`.
Nothing is compressed, so a layer's digest is known without reading it.
"""

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Set
from pathlib import Path
from typing import IO, Any

from local.errors import LocalError

OCI = "application/vnd.oci.image"
NAME = "io.containerd.image.name"


def unpack(archive: Path, target: Path, blobs: Path) -> None:
    """Take a docker archive of one image apart into the layout `target`; layers that `blobs` has are not read."""
    blobs.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    own = staging / "blobs" / "sha256"
    own.mkdir(parents=True)
    with tarfile.open(archive) as opened:
        image = _only_image(json.loads(_read(opened, "manifest.json")), archive)
        config = _read(opened, image["Config"])
        layers = []
        for member, diff in zip(image["Layers"], json.loads(config)["rootfs"]["diff_ids"], strict=True):
            digest = diff.removeprefix("sha256:")
            _keep(opened, member, blobs / digest)
            os.link(blobs / digest, own / digest)
            layers.append(_descriptor("layer.v1.tar", digest, (own / digest).stat().st_size))
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": _descriptor("config.v1+json", _write(own, config), len(config)),
        "layers": layers,
    }
    text = json.dumps(manifest).encode()
    entries = [
        {**_descriptor("manifest.v1+json", _write(own, text), len(text)), "annotations": {NAME: tag}}
        for tag in image["RepoTags"]
    ]
    (staging / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    (staging / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    staging.chmod(0o755)
    staging.rename(target)


def references(layout: Path) -> dict[str, str]:
    """Return reference → manifest digest of every image in a layout."""
    index = json.loads((layout / "index.json").read_text())
    return {entry["annotations"][NAME]: entry["digest"] for entry in index["manifests"]}


def write_archive(layout: Path, present: Set[str], out: IO[bytes]) -> None:
    """Write a layout as a tar stream without the blobs that the receiver has, given as `sha256:...`."""
    with tarfile.open(fileobj=out, mode="w|") as stream:
        for path in ("oci-layout", "index.json"):
            stream.add(layout / path, path)
        for blob in sorted((layout / "blobs" / "sha256").iterdir()):
            if f"sha256:{blob.name}" not in present:
                stream.add(blob, f"blobs/sha256/{blob.name}")


def forget(layout: Path, blobs: Path) -> None:
    """Delete a layout, and the blobs that no other layout shares."""
    shutil.rmtree(layout)
    for blob in blobs.iterdir():
        if blob.stat().st_nlink == 1:
            blob.unlink(missing_ok=True)


def _only_image(manifest: list[dict[str, Any]], archive: Path) -> dict[str, Any]:
    if len(manifest) != 1 or not manifest[0]["RepoTags"]:
        raise LocalError(f"{archive} must hold exactly one image with a name")
    return manifest[0]


def _keep(opened: tarfile.TarFile, member: str, blob: Path) -> None:
    if blob.exists():
        return
    with tempfile.NamedTemporaryFile(dir=blob.parent, prefix=".", delete=False) as partial:
        shutil.copyfileobj(_open(opened, member), partial, 1 << 20)
    Path(partial.name).chmod(0o644)
    Path(partial.name).rename(blob)


def _read(opened: tarfile.TarFile, member: str) -> bytes:
    return _open(opened, member).read()


def _open(opened: tarfile.TarFile, member: str) -> IO[bytes]:
    try:
        found = opened.extractfile(member)
    except KeyError:
        found = None
    if found is None:
        raise LocalError(f"{opened.name!r} is no docker archive: it has no {member}")
    return found


def _write(folder: Path, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    (folder / digest).write_bytes(content)
    return digest


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": f"{OCI}.{kind}", "digest": f"sha256:{digest}", "size": size}
