"""The images that a node has: containerd's store inside its namespaces.

The store's folder outlives the cluster, so that the next one on the same index starts with its images. Only
layers that the store lacks are sent to it.
"""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from local import layout
from local.errors import LocalError
from local.paths import cache_dir
from local.progress import step
from local.record import Record


def references(cluster: Record) -> dict[str, str]:
    """Return reference → manifest digest of all images of the node."""
    rows = [line.split() for line in _ctr(cluster, "images", "list").splitlines()[1:]]
    return {row[0]: row[2] for row in rows}


def load(cluster: Record, images: Sequence[Path]) -> None:
    """Import what the node has not: OCI layouts as `images build` makes them, or docker archives."""
    present = references(cluster)
    for image in images:
        if image.is_dir():
            _load(cluster, image, present)
        else:
            with _unpacked(image) as folder:
                unpacked = Path(folder) / "image"
                layout.unpack(image, unpacked, Path(folder) / "blobs")
                _load(cluster, unpacked, present)


def _load(cluster: Record, image: Path, present: dict[str, str]) -> None:
    wanted = layout.references(image)
    if all(present.get(name) == digest for name, digest in wanted.items()):
        return
    with step(f"Loading {', '.join(wanted)}"), tempfile.TemporaryFile(dir=cache_dir()) as stream:
        layout.write_archive(image, set(_ctr(cluster, "content", "list", "--quiet").split()), stream)
        stream.seek(0)
        _ctr(cluster, "images", "import", "--snapshotter", "overlayfs", "-", stream=stream.fileno())


def _unpacked(archive: Path) -> tempfile.TemporaryDirectory[str]:
    if not archive.is_file():
        raise LocalError(f"{archive} is neither an image archive nor an OCI layout")
    return tempfile.TemporaryDirectory(dir=cache_dir())


def _ctr(cluster: Record, *arguments: str, stream: int | None = None) -> str:
    if cluster.mode != "node" or not cluster.alive():
        raise LocalError(f"Cluster {cluster.name} has no node; images need one that is up in mode node")
    inside = ["nsenter", "--target", str(cluster.pid), "--mount", "--net", "--pid"]
    command = [*inside, "ctr", "--namespace", "k8s.io", *arguments]
    done = subprocess.run(command, check=False, stdin=stream, capture_output=True, text=True)
    if done.returncode:
        raise LocalError(f"ctr {' '.join(arguments)} failed: {done.stderr.strip()[-1000:]}")
    return done.stdout
