"""Where things lie: what is kept between runs (cache) and what belongs to living clusters (state)."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root, from which `python -m local` runs."""


def cache_dir() -> Path:
    """Return the folder of what is expensive to make and safe to lose."""
    return _xdg("XDG_CACHE_HOME", ".cache")


def state_dir() -> Path:
    """Return the folder with one sub-folder per living cluster."""
    return _xdg("XDG_STATE_HOME", ".local/state")


def cluster_dir(name: str) -> Path:
    """Return the folder that belongs to one cluster and goes with it."""
    return state_dir() / "clusters" / name


def _xdg(variable: str, fallback: str) -> Path:
    configured = os.environ.get(variable, "")
    root = Path(configured) if configured.startswith("/") else Path.home() / fallback
    return root / "ax-operator"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; waits while another process holds it, ends with this process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
