"""Folders of installed wheels, one per lock file, made once."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from local.binaries import uv
from local.errors import LocalError
from local.paths import ROOT, cache_dir, locked
from local.progress import step

PYTHON = "3.11"
PLATFORM = "x86_64-manylinux_2_36"
"""Debian 12's C library; wheels for older ones run there too."""


def installed(name: str) -> Path:
    """Return the folder with the packages of `locks/<name>.txt`, for CPython 3.11 whatever runs this.

    Every wheel is checked against the lock's hashes.
    """
    lock = ROOT / "locks" / f"{name}.txt"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    folder = cache_dir() / "sites" / f"{name}-{digest}"
    with locked(folder.parent / f".{name}.lock"):
        if not folder.exists():
            with step(f"Installing the wheels of locks/{name}.txt"):
                _install(lock, folder)
    return folder


def _install(lock: Path, folder: Path) -> None:
    staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    staging.chmod(0o755)
    command = [
        uv(), "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:",
        "--python-version", PYTHON, "--python-platform", PLATFORM, "--target", str(staging), "-r", str(lock),
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(staging)
        raise LocalError(f"Installing {lock.name} failed:\n{done.stderr.strip()[-2000:]}")
    (staging / ".lock").unlink(missing_ok=True)
    staging.rename(folder)
