"""The store's folders: what is published, what is staged, what fits, and how bytes become durable."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ax_engines.build.errors import BuildError
from ax_engines.build.places import Places
from ax_engines.contract import MANIFEST, ArtifactSpec, Manifest
from ax_engines.guard import Expected, check_manifest

MAX_MANIFEST_BYTES = 4 * 2**20
RESERVE_BYTES = 64 * 2**20
"""Room that is left for what file systems and manifests take."""
PART = ".part"
JOURNAL = "fetched.json"


def read_manifest(folder: Path) -> Manifest | None:
    """Return a folder's manifest, None if it has none that can be read: such a folder is not published."""
    try:
        with (folder / MANIFEST).open("rb") as stream:
            return Manifest.from_json(stream.read(MAX_MANIFEST_BYTES))
    except (OSError, ValidationError):
        return None


def published(places: Places, engine: str, spec: ArtifactSpec) -> Manifest | None:
    """Return the manifest of a published artifact that is what the spec says and has all its files, else None."""
    folder = places.final(engine)
    manifest = read_manifest(folder)
    if manifest is None or check_manifest(manifest, Expected.of(engine, spec)):
        return None
    for entry in manifest.files:
        try:
            if (folder / entry.path).stat().st_size != entry.size:
                return None
        except OSError:
            return None
    return manifest


def require_space(places: Places, needed: int, copies: int) -> None:
    """Refuse to start what cannot end: `needed` more bytes must fit `copies` times; BuildError StoreFull."""
    usage = os.statvfs(places.store)
    free = usage.f_bavail * usage.f_frsize
    wanted = needed * copies + RESERVE_BYTES
    if wanted > free:
        working = f" ({copies} times {_gib(needed)}: the files and what is built from them)" if copies > 1 else ""
        raise BuildError(
            "StoreFull",
            f"the engine store has {_gib(free)} free, but {_gib(wanted)} are needed{working}: enlarge its claim, "
            "or remove models whose engines it keeps",
        )


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


def prepare(places: Places, engine: str) -> Path:
    """Make and return an artifact's staging folder; BuildError StoreUnwritable if the store cannot be written."""
    folder = places.staging(engine)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(
            "StoreUnwritable",
            f"the engine store cannot be written ({error.strerror}): check the claim's access mode and fsGroup",
        ) from error
    return folder


def write_durably(path: Path, text: str) -> None:
    """Replace a file in one step, so that a crash leaves the old or the new text."""
    draft = path.with_name(path.name + PART)
    with draft.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_journal(staging: Path) -> dict[str, Any]:
    """Return what an earlier fetch noted: {"revision", "files": {path: [size, sha256]}}; empty if unreadable."""
    try:
        raw = json.loads((staging / JOURNAL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) and isinstance(raw.get("files"), dict) else {}


def remove(path: Path) -> None:
    """Remove a folder, file or link; links are not followed; nothing there is fine."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
