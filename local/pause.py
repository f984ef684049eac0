"""The image that holds a pod's namespaces open: one static program, packed without any image builder."""

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

from local.binaries import PAUSE, go_program
from local.paths import cache_dir

REFERENCE = "localhost/pause:1"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def pause_archive() -> Path:
    """Return a docker archive of the pause image, packed first if it is not in the cache."""
    program = go_program(PAUSE)
    target = cache_dir() / "images" / f"{program.name}.tar"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{hashlib.sha256(str(target).encode()).hexdigest()[:6]}")
        partial.write_bytes(pack(program.read_bytes()))
        partial.rename(target)
    return target


def pack(program: bytes) -> bytes:
    """Return the archive for a program: the same bytes give the same archive."""
    layer = _tar({"pause": program})
    config = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    text = json.dumps(config).encode()
    name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [REFERENCE], "Layers": ["layer.tar"]}]
    return _tar({name: text, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()})


def _tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
