"""Reads a source from a mounted PersistentVolumeClaim, trusting neither its links nor its file types."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ax_engines.build.errors import BuildError
from ax_engines.build.origins import MAX_FILES, SourceFile
from ax_engines.contract import PvcSource


class ClaimOrigin:
    """A GGUF file, or a folder with config.json and safetensors, below the claim's mount."""

    commit: str | None = None

    def __init__(self, source: PvcSource, mount: Path) -> None:
        self.label = f"{source.path} on claim {source.claim_name}"
        self._source = source
        self._mount = mount.resolve()
        self._target = self._inside_claim(source.path)

    def _inside_claim(self, path: str) -> Path:
        try:
            target = (self._mount / path).resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise BuildError("SourceMissing", f"{self.label} does not exist: {self._hint(path)}") from error
        if not target.is_relative_to(self._mount):
            raise BuildError("UnsafeFiles", f"{self.label} leads out of the claim: use a path within it")
        return target

    def _hint(self, path: str) -> str:
        parent = self._mount / path
        while parent != self._mount and not parent.is_dir() and parent.is_relative_to(self._mount):
            parent = parent.parent
        try:
            names = sorted(os.listdir(parent))[:5]
        except OSError as error:
            return f"the claim cannot be read ({error.strerror})"
        where = "the claim's root" if parent == self._mount else f"{parent.relative_to(self._mount)}/"
        return f"{where} has {', '.join(names)}" if names else f"{where} is empty"

    @property
    def _folder(self) -> Path:
        return self._target if self._target.is_dir() else self._target.parent

    def files(self) -> tuple[SourceFile, ...]:
        """List the folder's regular files, or the one file; links are followed only within the folder."""
        if not self._target.is_dir():
            return (self._entry(self._target.name),)
        found: list[SourceFile] = []
        with os.scandir(self._target) as entries:
            for entry in entries:
                if len(found) > MAX_FILES:
                    break  # `select` refuses so many
                if entry.name.startswith(".") or (entry.is_dir(follow_symlinks=False)):
                    continue
                found.append(self._entry(entry.name))
        return tuple(found)

    def _entry(self, name: str) -> SourceFile:
        try:
            path = (self._folder / name).resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise BuildError(
                "SourceMissing", f"{self.label}: {name} is a link to nothing: remove or replace it"
            ) from error
        if not path.is_relative_to(self._folder):
            raise BuildError(
                "UnsafeFiles",
                f"{self.label}: {name} is a link that leaves the folder: copy the file itself (cp -L)",
            )
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise BuildError("UnsafeFiles", f"{self.label}: {name} is no ordinary file: remove it")
        return SourceFile(name, info.st_size)

    @contextmanager
    def open(self, file: SourceFile, start: int = 0, length: int | None = None) -> Iterator[BinaryIO]:
        """Open a listed file; it must still be an ordinary file within the folder."""
        self._entry(file.path)
        path = (self._folder / file.path).resolve()
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            stream.seek(start)
            yield stream
