"""Moves a checked artifact into the store in one step; a half-written folder is never served.

Safe to be killed at any line and run again: until the rename the staging folder is whole, after it the manifest
says that the artifact is published and only the staging folder is left to remove.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from ax_engines.build import store
from ax_engines.build.errors import BuildError
from ax_engines.build.origin_folder import FolderOrigin
from ax_engines.build.places import Places
from ax_engines.build.progress import Tracker
from ax_engines.build.verify import Checked, check_engine, check_model, hash_files
from ax_engines.contract import (
    CHAT_TEMPLATE,
    CHECKPOINT,
    COMPILED,
    FETCHED,
    MANIFEST,
    ArtifactSpec,
    FileEntry,
    Manifest,
)

logger = logging.getLogger(__name__)

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "vocab.txt", "tokenizer.model", "generation_config.json", "chat_template.json", CHAT_TEMPLATE),
    *("preprocessor_config.json", "processor_config.json"),
)


def publish(engine: str, spec: ArtifactSpec, places: Places, tracker: Tracker) -> Manifest:
    """Check, describe and publish what the phases before left in the staging folder; returns its manifest."""
    staging, final = places.staging(engine), places.final(engine)
    if done := store.published(places, engine, spec):
        store.remove(staging)
        return done
    folder = staging / _output(spec)
    if not folder.is_dir():
        raise BuildError("OutputMissing", f"there is no {folder.name}/ in the staging folder: run the phases before")
    if unfinished := next(folder.rglob("*" + store.PART), None):
        raise BuildError("OutputMissing", f"{unfinished.name} is unfinished: run the fetch phase again")
    checked = _checked(staging, folder, spec)
    if folder.name != FETCHED:
        _copy_beside(staging / FETCHED, folder, code=spec.trust_remote_code)
    if checked.template is not None and not (folder / CHAT_TEMPLATE).exists():
        store.write_durably(folder / CHAT_TEMPLATE, checked.template)
    manifest = Manifest(
        engine=engine,
        artifact=spec.artifact,
        quantization=spec.quantization,
        revision=spec.revision,
        architecture=spec.architecture,
        target=spec.target,
        files=_described(staging, folder, tracker),
        chat=checked.chat,
        config=checked.config,
    )
    for entry in manifest.files:
        store.sync_file(folder / entry.path)
    store.write_durably(folder / MANIFEST, manifest.to_json())
    if final.exists():  # not this artifact, or no longer whole: nothing may be served from it
        logger.warning("Replaced folder that is not the artifact it should be", extra={"folder": final.name})
        discarded = staging / "discarded"
        store.remove(discarded)
        final.rename(discarded)
    folder.rename(final)
    store.sync_folder(places.store)
    logger.info("Published artifact", extra={"engine": engine, "files": len(manifest.files)})
    store.remove(staging)
    return manifest


def _output(spec: ArtifactSpec) -> str:
    if spec.artifact == "tensorrt":
        return COMPILED
    return CHECKPOINT if any(p.commands for p in spec.phases) else FETCHED


def _checked(staging: Path, folder: Path, spec: ArtifactSpec) -> Checked:
    if spec.artifact != "tensorrt":
        return check_model(folder, spec)
    if spec.target is None:
        raise BuildError("TaskInvalid", "a TensorRT engine's spec needs a target: apply one made by the plan command")
    checked = check_model(staging / FETCHED, spec)
    check_engine(folder, spec.target)
    return checked


def _copy_beside(source: Path, folder: Path, code: bool) -> None:
    """What is built may lack the tokenizer and the model's code; files that the build wrote itself stay."""
    for name in (*TOKENIZER_FILES, *(p.name for p in source.glob("*.py") if code)):
        if (source / name).is_file() and not (folder / name).exists():
            draft = folder / (name + store.PART)
            shutil.copyfile(source / name, draft)
            draft.replace(folder / name)


def _described(staging: Path, folder: Path, tracker: Tracker) -> tuple[FileEntry, ...]:
    """Hash every file; those that were fetched must still be what was fetched."""
    files = FolderOrigin(folder).files()
    tracker.expect(sum(f.size for f in files), "checksums")
    entries = hash_files(folder, (f.path for f in files), tracker.add)
    fetched = store.read_journal(staging).get("files", {}) if folder.name == FETCHED else {}
    for entry in entries:
        noted = fetched.get(entry.path)
        if noted and noted != [entry.size, entry.sha256]:
            store.remove(folder / entry.path)
            raise BuildError(
                "ChecksumMismatch",
                f"{entry.path} changed on disk after it was fetched (SHA-256 {entry.sha256}, fetched {noted[1]}): "
                "check the volume; the build starts over with that file",
            )
    return entries
