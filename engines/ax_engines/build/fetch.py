"""Copies a source's files into the staging folder: whole, checked, and where an earlier run stopped."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from pathlib import Path

from ax_engines.build import store
from ax_engines.build.errors import BuildError, InterruptedReadError
from ax_engines.build.identity import identity
from ax_engines.build.origin_folder import FolderOrigin
from ax_engines.build.origins import Origin, SourceFile, select
from ax_engines.build.places import Places
from ax_engines.build.progress import Tracker
from ax_engines.build.retries import persistently
from ax_engines.contract import FETCHED, ArtifactSpec, canonical

logger = logging.getLogger(__name__)

PARALLEL = 4
ATTEMPTS = 6
CHUNK = 2**20


class Fetch:
    """One run of the fetch phase; `pause` waits between attempts."""

    def __init__(
        self,
        origin: Origin,
        engine: str,
        spec: ArtifactSpec,
        places: Places,
        tracker: Tracker,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._origin = origin
        self._spec = spec
        self._places = places
        self._tracker = tracker
        self._pause = pause
        self._staging = store.prepare(places, engine)
        self._folder = self._staging / FETCHED
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._journal: dict[str, list[int | str]] = {}

    def run(self) -> int:
        """Copy what is missing; returns the bytes of all files. BuildError SourceChanged, StoreFull and others."""
        files = persistently(self._listed, pause=self._pause)
        self._load_journal()
        total = sum(f.size for f in files)
        missing = total - sum(self._present(f) for f in files)
        # Each phase with commands writes about as much again as it reads.
        copies = 1 + sum(1 for phase in self._spec.phases if phase.commands)
        store.require_space(self._places, missing if copies == 1 else total, copies)
        self._tracker.expect(total, self._origin.label)
        self._copy_all(files)
        if self._origin.commit is None:
            self._require_revision(identity(FolderOrigin(self._folder), files))
        return total

    def _listed(self) -> tuple[SourceFile, ...]:
        files = select(self._origin.files(), self._origin.label, self._spec.trust_remote_code).files
        self._require_revision(self._origin.commit or identity(self._origin, files))
        return files

    def _require_revision(self, found: str) -> None:
        if found != self._spec.revision:
            raise BuildError(
                "SourceChanged",
                f"{self._origin.label} is now {found}, but the engine is to be made from {self._spec.revision}: "
                "put those files back, or change the model's source so that it is resolved again",
            )

    def _load_journal(self) -> None:
        journal = store.read_journal(self._staging)
        if journal.get("revision") == self._spec.revision:
            self._journal = journal["files"]
        else:  # leftovers of another revision would be mixed up with this one's
            store.remove(self._folder)
        self._folder.mkdir(exist_ok=True)
        self._save_journal()

    def _save_journal(self) -> None:
        text = canonical({"revision": self._spec.revision, "files": self._journal})
        store.write_durably(self._staging / store.JOURNAL, text)

    def _present(self, file: SourceFile) -> int:
        target = self._folder / file.path
        if self._is_done(file, target):
            return file.size
        return min(_size(_part(target)), file.size)

    def _is_done(self, file: SourceFile, target: Path) -> bool:
        noted = self._journal.get(file.path)
        return bool(noted) and target.is_file() and target.stat().st_size == file.size

    def _copy_all(self, files: tuple[SourceFile, ...]) -> None:
        with ThreadPoolExecutor(PARALLEL) as pool:
            jobs = [pool.submit(self._copy, file) for file in files]
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            if failed := [job for job in done if job.exception()]:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                failed[0].result()

    def _copy(self, file: SourceFile) -> None:
        target = self._folder / file.path
        if self._is_done(file, target):
            self._tracker.add(file.size, found=True)
            return
        started = time.monotonic()
        digest = self._persistently(file, target)
        with self._lock:
            self._journal[file.path] = [file.size, digest]
            self._save_journal()
        logger.info(
            "Fetched file",
            extra={"file": file.path, "bytes": file.size, "seconds": time.monotonic() - started},
        )

    def _persistently(self, file: SourceFile, target: Path) -> str:
        """Attempt until the file is whole; gives up after ATTEMPTS in a row that brought nothing."""
        fruitless, known = 0, -1
        while True:
            try:
                return self._attempt(file, target)
            except InterruptedReadError as error:
                size = _size(_part(target))
                fruitless, known = (fruitless + 1 if size <= known else 1), size
                if fruitless == ATTEMPTS:
                    raise BuildError(
                        error.reason, f"{self._origin.label}: {file.path}: {error.message} ({ATTEMPTS} attempts)"
                    ) from error
                details = {"file": file.path, "attempt": fruitless, "error": error.message}
                logger.warning("Lost connection", extra=details)
                self._pause(min(2.0**fruitless, 30.0))

    def _attempt(self, file: SourceFile, target: Path) -> str:
        """Continue the part file up to the file's size, and make it the target; returns its SHA-256."""
        part = _part(target)
        digest = hashlib.sha256()
        with part.open("ab+") as out:
            if out.tell() > file.size:
                out.truncate(0)
            out.seek(0)
            while data := out.read(CHUNK):
                digest.update(data)
            have = out.seek(0, os.SEEK_END)
            counted = have
            self._tracker.add(have, file.path, found=True)
            try:
                if have < file.size:
                    with self._origin.open(file, have) as stream:
                        while counted < file.size and (data := stream.read(min(CHUNK, file.size - counted))):
                            if self._stop.is_set():
                                raise CancelledError("another file failed")
                            out.write(data)
                            out.flush()  # a kill leaves to the next run all that came
                            digest.update(data)
                            counted += len(data)
                            self._tracker.add(len(data), file.path)
                out.flush()
                os.fsync(out.fileno())
                self._require_whole(file, counted, digest.hexdigest(), part)
            except BaseException:
                self._tracker.add(-have, found=True)
                self._tracker.add(have - counted)
                raise
        part.replace(target)
        store.sync_folder(target.parent)
        return digest.hexdigest()

    def _require_whole(self, file: SourceFile, size: int, digest: str, part: Path) -> None:
        if size < file.size:
            raise InterruptedReadError("Truncated", f"ended after {size} of {file.size} bytes")
        if file.sha256 and file.sha256 != digest:
            part.unlink()
            raise InterruptedReadError("ChecksumMismatch", f"has SHA-256 {digest}, but {file.sha256} was promised")


def _part(target: Path) -> Path:
    return target.with_name(target.name + store.PART)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
