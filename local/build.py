"""Builds container images with buildah, in a store of its own under the cache.

buildah runs in a private mount namespace, so the mounts of its store end with it. Every layer carries the same
timestamp: unchanged content gives the same layer, which a node then has already.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from local.errors import LocalError
from local.install import IMAGE_PROGRAMS, ensure_programs
from local.layout import unpack
from local.paths import ROOT, cache_dir, locked
from local.progress import step
from local.wheels import installed

SUITE = "bookworm"
PACKAGES = ("usr-is-merged", "python3-minimal", "libpython3.11", "ca-certificates", "libgomp1", "libstdc++6")
UNUSED = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")
BASE_CONTAINERFILE = ROOT / "engines" / "images" / "base.Containerfile"


def base_image() -> str:
    """Return the reference of the local base image, made first if the store has it not."""
    recipe = repr((SUITE, PACKAGES, UNUSED)).encode() + BASE_CONTAINERFILE.read_bytes()
    name = f"localhost/ax-base:{hashlib.sha256(recipe).hexdigest()[:10]}"
    ensure_programs(IMAGE_PROGRAMS)
    with store():
        if not _has(name):
            with step("Making the base image from Debian packages (once)"), _scratch() as context:
                _run(
                    "mmdebstrap", "--quiet", "--variant=essential", f"--include={','.join(PACKAGES)}",
                    "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
                    *(f"--dpkgopt=path-exclude={path}" for path in UNUSED), SUITE, str(context / "base.tar"),
                )  # fmt: skip
                _bud(BASE_CONTAINERFILE, name, context, "scratch", pull=False)
    return name


def wheels_image(lock: str, base: str, *, pull: bool = False) -> str:
    """Return the reference of a base with one lock's wheels installed, built first if the store has it not."""
    containerfile = ROOT / "engines" / "images" / "python.Containerfile"
    site = installed(lock)
    recipe = hashlib.sha256(containerfile.read_bytes() + f"{base} {site.name}".encode()).hexdigest()[:10]
    name = f"localhost/ax-wheels-{lock}:{recipe}"
    ensure_programs(IMAGE_PROGRAMS)
    with store():
        if not _has(name):
            with step(f"Building {name}"), _scratch() as context:
                # Hard links: wheels and context lie on one disk.
                shutil.copytree(site, context / "site", copy_function=os.link, symlinks=True)
                _bud(containerfile, name, context, base, pull=pull)
    return name


def layout(containerfile: Path, name: str, base: str, sources: Sequence[Path], target: Path, blobs: Path) -> None:
    """Build an image with our sources on a base of this machine and write it as an OCI layout."""
    with store():
        if target.exists():  # built by another process meanwhile
            return
        with step(f"Building {name}") as running, _scratch() as scratch:
            _bud(containerfile, name, _staged(scratch, sources), base, pull=False)
            running.at("writing the layers")
            archive = scratch / "image.tar"
            _buildah("push", "--quiet", name, f"docker-archive:{archive}:{name}")
            unpack(archive, target, blobs)
            running.at("")


def push(containerfile: Path, name: str, base: str, sources: Sequence[Path]) -> None:
    """Build an image with our sources on a registry's base and push it under its own name."""
    ensure_programs({"buildah": "buildah"})
    with store(), step(f"Building {name} on {base}"), _scratch() as scratch:
        _bud(containerfile, name, _staged(scratch, sources), base, pull=True)
    publish(name, name)


def publish(image: str, name: str) -> None:
    """Push an image of this machine to a registry, under the name that it shall have there."""
    with store(), step(f"Pushing {name}"):
        _buildah("push", "--quiet", image, f"docker://{name}")


@contextmanager
def store() -> Iterator[None]:
    """Let one build at a time use buildah's store and the folder of images."""
    with locked(cache_dir() / "locks" / "buildah"):
        yield


@contextmanager
def _scratch() -> Iterator[Path]:
    folder = cache_dir() / "staging"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as context:
        yield Path(context)


def _staged(scratch: Path, sources: Sequence[Path]) -> Path:
    """Return a build context with our sources in `app`."""
    for source in sources:
        shutil.copytree(source, scratch / "app" / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    (scratch / "app").mkdir(exist_ok=True)
    return scratch


def _bud(containerfile: Path, name: str, context: Path, base: str, *, pull: bool) -> None:
    _buildah(
        "bud", "--quiet", "--isolation", "chroot", "--layers", "--timestamp", "0",
        "--pull" if pull and not base.startswith("localhost/") else "--pull-never", "--build-arg", f"BASE={base}",
        "--file", str(containerfile), "--tag", name, str(context),
    )  # fmt: skip


def _has(name: str) -> bool:
    return name in _buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()


def _buildah(*arguments: str) -> str:
    root = cache_dir() / "buildah"
    alone = ("unshare", "--mount") if os.geteuid() == 0 else ()
    # The run folder holds locks and mount points only.
    return _run(*alone, "buildah", "--root", f"{root}/store", "--runroot", f"{root}/run", *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise LocalError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr).strip()[-3000:]}")
    return done.stdout
