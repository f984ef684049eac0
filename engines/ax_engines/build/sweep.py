"""Removes exactly the named artifacts from the store, with their staging folders."""

from __future__ import annotations

import logging
import re

from ax_engines.build import store
from ax_engines.build.errors import BuildError
from ax_engines.build.places import Places
from ax_engines.contract import STAGING

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?")


def sweep(names: tuple[str, ...], places: Places) -> int:
    """Remove the artifacts and return the bytes set free; BuildError TaskInvalid, before anything is removed, if
    one name could be anything but an artifact's.

    A folder leaves the store by a rename, so that a sweep that is killed leaves nothing that looks published.
    """
    for name in names:
        if not _NAME.fullmatch(name):
            raise BuildError("TaskInvalid", f"{name!r:.100} is no artifact's name: nothing was removed")
    freed = 0
    for name in names:
        removed = places.store / STAGING / f"{name}.removed"
        if places.final(name).is_symlink() or places.final(name).exists():
            store.remove(removed)
            removed.parent.mkdir(exist_ok=True)
            places.final(name).rename(removed)
        for folder in (removed, places.staging(name)):
            freed += sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
            store.remove(folder)
        logger.info("Removed artifact", extra={"engine": name})
    return freed
