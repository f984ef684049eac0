"""Checks a calibration data set before any library opens it."""

from __future__ import annotations

import os
from pathlib import Path

from ax_engines.build.errors import BuildError
from ax_engines.contract import Calibration

MAX_FILES = 100_000
# Data sets' libraries run loading scripts and unpickle.
_UNSAFE = (".py", ".pkl", ".pickle", ".pt", ".pth", ".bin")


def check_calibration(calibration: Calibration, mount: Path) -> None:
    """Refuse a data set that is missing, leaves its claim, or could run code; CalibrationMissing, UnsafeFiles."""
    where = f"{calibration.path} on claim {calibration.claim_name}"
    root = mount.resolve()
    folder = (root / calibration.path).resolve()
    if not folder.is_relative_to(root):
        raise BuildError("UnsafeFiles", f"calibration data {where} leads out of the claim: use a path within it")
    if not folder.is_dir():
        raise BuildError("CalibrationMissing", f"calibration data {where} is no folder: put the texts there")
    count = 0
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise BuildError("UnsafeFiles", f"calibration data {where}: {name} is a link that leaves the claim")
            if name.endswith(_UNSAFE):
                raise BuildError(
                    "UnsafeFiles", f"calibration data {where}: {name} could run code: use jsonl, parquet or text files"
                )
        count += len(names)
        if count > MAX_FILES:
            raise BuildError("TooLarge", f"calibration data {where} has more than {MAX_FILES} files: use fewer")
    if not count:
        raise BuildError("CalibrationMissing", f"calibration data {where} has no files: put the texts there")
