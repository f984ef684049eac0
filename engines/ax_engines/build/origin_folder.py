"""Reads files that a phase put into a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ax_engines.build.origins import SourceFile
from ax_engines.build.store import PART
from ax_engines.contract import MANIFEST


class FolderOrigin:
    """A staged or published folder; its links are not followed, since no phase makes any."""

    commit: str | None = None

    def __init__(self, folder: Path) -> None:
        self.label = folder.name
        self._folder = folder

    def files(self) -> tuple[SourceFile, ...]:
        """List the folder's ordinary files, below subfolders too, without the manifest and what is unfinished."""
        found = []
        for path in sorted(self._folder.rglob("*")):
            name = path.relative_to(self._folder).as_posix()
            if path.is_file() and not path.is_symlink() and name != MANIFEST and not name.endswith(PART):
                found.append(SourceFile(name, path.stat().st_size))
        return tuple(found)

    @contextmanager
    def open(self, file: SourceFile, start: int = 0, length: int | None = None) -> Iterator[BinaryIO]:
        """Open a file from `start`."""
        with (self._folder / file.path).open("rb") as stream:
            stream.seek(start)
            yield stream
