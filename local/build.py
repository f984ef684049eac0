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
    with _store():
        if not _has(name):
            ensure_programs(IMAGE_PROGRAMS)
            with step("Making the base image from Debian packages (once)"), _scratch() as context:
                _run(
                    "mmdebstrap", "--quiet", "--variant=essential", f"--include={','.join(PACKAGES)}",
                    "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
                    *(f"--dpkgopt=path-exclude={path}" for path in UNUSED), SUITE, str(context / "base.tar"),
                )  # fmt: skip
                _bud(BASE_CONTAINERFILE, name, context)
    return name


def archive(containerfile: Path, name: str, base: str, lock: str, sources: Sequence[Path], target: Path) -> None:
    """Build an image on a base of this machine and write it as a docker archive."""
    site = installed(lock) if lock else None
    with _store(), step(f"Building {name}") as running, _scratch() as context:
        _stage(context, site, sources)
        _bud(containerfile, name, context, "--pull-never", "--build-arg", f"BASE={base}")
        running.at("writing the archive")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.unlink(missing_ok=True)
        _buildah("push", "--quiet", name, f"docker-archive:{partial}:{name}")
        partial.rename(target)


def push(containerfile: Path, name: str, base: str, lock: str, sources: Sequence[Path]) -> None:
    """Build an image on a registry's base and push it under its own name."""
    ensure_programs({"buildah": "buildah"})
    site = installed(lock) if lock else None
    with _store(), step(f"Building {name} on {base}") as running, _scratch() as context:
        _stage(context, site, sources)
        _bud(containerfile, name, context, "--build-arg", f"BASE={base}")
        running.at("pushing")
        _buildah("push", "--quiet", name, f"docker://{name}")


@contextmanager
def _store() -> Iterator[None]:
    """Let one build at a time use the store."""
    with locked(cache_dir() / "locks" / "buildah"):
        yield


@contextmanager
def _scratch() -> Iterator[Path]:
    folder = cache_dir() / "staging"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as context:
        yield Path(context)


def _stage(context: Path, site: Path | None, sources: Sequence[Path]) -> None:
    """Lay out the build's context; wheels are hard links, since they lie on the same disk."""
    if site is None:
        (context / "site").mkdir()
    else:
        shutil.copytree(site, context / "site", copy_function=os.link, symlinks=True)
    (context / "app").mkdir()
    for source in sources:
        shutil.copytree(source, context / "app" / source.name, ignore=shutil.ignore_patterns("__pycache__"))


def _bud(containerfile: Path, name: str, context: Path, *options: str) -> None:
    _buildah(
        "bud", "--quiet", "--isolation", "chroot", "--layers", "--timestamp", "0", *options,
        "--file", str(containerfile), "--tag", name, str(context),
    )  # fmt: skip


def _has(name: str) -> bool:
    if shutil.which("buildah") is None or not (cache_dir() / "buildah").exists():
        return False
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
