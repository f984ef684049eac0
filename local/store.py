"""The images that a node has: containerd's store inside its namespaces.

The store's folder outlives the cluster, so that the next one on the same index starts with its images. What was
imported is noted beside it by the archive's own configuration digest: an archive is imported once.
"""

import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from local.errors import LocalError
from local.lifecycle import images_root
from local.progress import step
from local.record import Record


def references(cluster: Record) -> set[str]:
    """Return the references of all images of the node."""
    return set(_ctr(cluster, "images", "list", "--quiet").split())


def load(cluster: Record, archives: Sequence[Path]) -> None:
    """Import the archives whose content the node has not."""
    note = images_root(cluster.index) / "imported.json"
    imported: dict[str, str] = json.loads(note.read_text()) if note.exists() else {}
    present = references(cluster)
    for archive in archives:
        content = contents(archive)
        if all(reference in present and imported.get(reference) == digest for reference, digest in content.items()):
            continue
        with (
            step(f"Loading {', '.join(content)} ({archive.stat().st_size >> 20} MiB)"),
            archive.open("rb") as stream,
        ):
            _ctr(cluster, "images", "import", "--snapshotter", "overlayfs", "-", stream=stream.fileno())
        imported |= content
        partial = note.with_suffix(".partial")
        partial.write_text(json.dumps(imported, indent=1))
        partial.rename(note)


def contents(archive: Path) -> dict[str, str]:
    """Return reference → configuration digest of every image in a docker archive."""
    with tarfile.open(archive) as opened:
        manifest = opened.extractfile("manifest.json")
        if manifest is None:
            raise LocalError(f"{archive} is no docker archive: it has no manifest.json")
        images = json.load(manifest)
    return {tag: Path(image["Config"]).stem for image in images for tag in image["RepoTags"]}


def _ctr(cluster: Record, *arguments: str, stream: int | None = None) -> str:
    if cluster.mode != "node" or not cluster.alive():
        raise LocalError(f"Cluster {cluster.name} has no node; images need one that is up in mode node")
    inside = ["nsenter", "--target", str(cluster.pid), "--mount", "--net", "--pid"]
    done = subprocess.run(
        [*inside, "ctr", "--namespace", "k8s.io", *arguments],
        check=False,
        stdin=stream,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise LocalError(f"ctr {' '.join(arguments)} failed: {done.stderr.strip()[-1000:]}")
    return done.stdout
