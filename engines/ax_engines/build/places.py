"""Where a container finds its folders; tests put them elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ax_engines.contract import CALIBRATION_MOUNT, SECRET_MOUNT, SOURCE_MOUNT, STAGING, STORE_MOUNT
from ax_engines.tasks import PROGRESS_PORT

ROOT_ENV = "AX_ROOT"
TERMINATION_LOG_ENV = "AX_TERMINATION_LOG"
PROGRESS_PORT_ENV = "AX_PROGRESS_PORT"


@dataclass(frozen=True)
class Places:
    """The mounts, the file of the last word, and the port of the progress server (0 takes a free one)."""

    store: Path = Path(STORE_MOUNT)
    source: Path = Path(SOURCE_MOUNT)
    calibration: Path = Path(CALIBRATION_MOUNT)
    secret: Path = Path(SECRET_MOUNT)
    termination_log: Path = Path("/dev/termination-log")
    progress_port: int = PROGRESS_PORT

    @classmethod
    def below(cls, root: Path, progress_port: int = 0) -> Places:
        """Return places whose mounts lie below `root`, and whose last word is `root/termination-log`."""
        store, source, calibration, secret = (
            root / mount.lstrip("/") for mount in (STORE_MOUNT, SOURCE_MOUNT, CALIBRATION_MOUNT, SECRET_MOUNT)
        )
        return cls(store, source, calibration, secret, root / "termination-log", progress_port)

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> Places:
        """Return the pod's places, or those below AX_ROOT."""
        port = int(env.get(PROGRESS_PORT_ENV, PROGRESS_PORT))
        places = cls.below(Path(env[ROOT_ENV]), port) if ROOT_ENV in env else cls(progress_port=port)
        log = env.get(TERMINATION_LOG_ENV)
        return replace(places, termination_log=Path(log)) if log else places

    def staging(self, engine: str) -> Path:
        """Return the folder in which an artifact is made."""
        return self.store / STAGING / engine

    def final(self, engine: str) -> Path:
        """Return the folder from which an artifact is served."""
        return self.store / engine
