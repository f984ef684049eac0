"""The seam between a source's kind and the phases: what an origin offers, and which files of it make a model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Literal, Protocol

from ax_engines.build.errors import BuildError

MAX_FILES = 4_000
MAX_SIDE_FILE_BYTES = 256 * 2**20
"""Bound of a file that is not weights; the largest tokenizers have about 35 MB."""

_SIDE_FILES = (".json", ".jinja", ".model", ".tiktoken", "merges.txt", "vocab.txt")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
_SPLIT = re.compile(r"^(.+)-(\d{5})-of-(\d{5})\.gguf$")
_SAFE_PATH = re.compile(r"[^\x00-\x1f\x7f\\:]{1,400}")


@dataclass(frozen=True)
class SourceFile:
    """A file as its origin lists it; `sha256` and `tag` where the origin states them, to prove what was read."""

    path: str
    size: int
    sha256: str | None = None
    tag: str = ""

    @property
    def is_weights(self) -> bool:
        """Tell weights from the small files beside them."""
        return self.path.endswith((".safetensors", ".gguf"))


class Origin(Protocol):
    """Where a source's bytes come from: a claim, a hub or an object store."""

    label: str
    """The location in messages; never with credentials."""
    commit: str | None
    """The name of the exact bytes, if the origin has one; else phases compute an identity."""

    def files(self) -> tuple[SourceFile, ...]:
        """List all files; BuildError if the location cannot be listed."""

    def open(self, file: SourceFile, start: int = 0, length: int | None = None) -> AbstractContextManager[BinaryIO]:
        """Open a file's bytes from `start`, at most `length`; BuildError if they are not what was listed."""


@dataclass(frozen=True)
class Selection:
    """The files that make the model, sorted by path, and their format."""

    format: Literal["gguf", "safetensors"]
    files: tuple[SourceFile, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in self.files)

    @property
    def weights(self) -> tuple[SourceFile, ...]:
        """The files with tensors."""
        return tuple(f for f in self.files if f.is_weights)

    def named(self, path: str) -> SourceFile | None:
        """The file of that path, if it is there."""
        return next((f for f in self.files if f.path == path), None)


def select(files: Iterable[SourceFile], label: str, trust_remote_code: bool = False) -> Selection:
    """Choose a model's files among those listed, by name alone.

    Only the top folder counts; what is not known to be needed is left out, code too unless it is trusted. Pickled
    weights are never taken: they are left out beside safetensors, and refused when there is nothing else.
    """
    listed = sorted(files, key=lambda f: f.path)
    if len(listed) > MAX_FILES:
        raise BuildError("TooLarge", f"{label} has more than {MAX_FILES} files: point at the model's own folder")
    for file in listed:
        check_path(file.path, label)
    top = [f for f in listed if "/" not in f.path and not f.path.startswith(".")]
    if not top:
        raise BuildError(
            "SourceEmpty", f"{label} has no files: put a GGUF file, or config.json and *.safetensors there"
        )
    if empty := [f.path for f in top if f.is_weights and f.size == 0]:
        raise BuildError("Truncated", f"{label}: {empty[0]} has 0 bytes: copy it again")
    shards = [f for f in top if f.path.endswith(".safetensors") and not f.path.startswith("consolidated")]
    ggufs = [f for f in top if f.path.endswith(".gguf")]
    if shards:
        return _safetensors(top, shards, label, trust_remote_code)
    if ggufs:
        return Selection("gguf", _one_gguf(ggufs, label))
    if pickles := [f.path for f in top if f.path.endswith(_PICKLES)]:
        raise BuildError(
            "UnsafeFiles",
            f"{label} has its weights in {pickles[0]}, a format that can run code when read: "
            "convert them to safetensors",
        )
    raise BuildError(
        "UnknownFormat",
        f"{label} has neither *.gguf nor *.safetensors (found: {', '.join(f.path for f in top[:5])})",
    )


def _safetensors(top: list[SourceFile], shards: list[SourceFile], label: str, trust_remote_code: bool) -> Selection:
    endings = (*_SIDE_FILES, ".py") if trust_remote_code else _SIDE_FILES
    side = [f for f in top if f.path.endswith(endings)]
    if not any(f.path == "config.json" for f in side):
        raise BuildError("ConfigInvalid", f"{label} has safetensors but no config.json beside them: add the model's")
    for file in side:
        if file.size > MAX_SIDE_FILE_BYTES:
            raise BuildError(
                "TooLarge", f"{label}: {file.path} has {file.size} bytes; at most {MAX_SIDE_FILE_BYTES} are taken"
            )
    return Selection("safetensors", tuple(sorted((*side, *shards), key=lambda f: f.path)))


def _one_gguf(ggufs: list[SourceFile], label: str) -> tuple[SourceFile, ...]:
    if len(ggufs) == 1 and not _SPLIT.match(ggufs[0].path):
        return (ggufs[0],)
    splits = [_SPLIT.match(f.path) for f in ggufs]
    stems = {(m[1], m[3]) if m else None for m in splits}
    if len(stems) > 1 or None in stems:
        names = ", ".join(f.path for f in ggufs[:5])
        raise BuildError("SourceAmbiguous", f"{label} has {len(ggufs)} GGUF models ({names}): name one of them")
    total = int(next(m[3] for m in splits if m))
    present = {int(m[2]) for m in splits if m}
    if missing := [n for n in range(1, min(total, MAX_FILES) + 1) if n not in present]:
        raise BuildError("Truncated", f"{label} lacks part {missing[0]} of {total} of its GGUF: copy it again")
    return tuple(ggufs)


def check_path(path: str, label: str) -> None:
    """Refuse a name that could leave the folder or hide in it; BuildError UnsafeFiles."""
    parts = path.split("/")
    if not _SAFE_PATH.fullmatch(path) or any(p in ("", ".", "..") for p in parts):
        raise BuildError("UnsafeFiles", f"{label} has a file named {path!r:.200}: rename it, or leave it out")
