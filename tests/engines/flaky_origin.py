"""A claim as a source whose streams break."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from ax_engines.build.errors import InterruptedReadError
from ax_engines.build.origin_claim import ClaimOrigin
from ax_engines.build.origins import SourceFile
from ax_engines.build.places import Places
from tests.engines.model_files import claim_source


class FlakyOrigin:
    """A claim whose streams break after some bytes, a given number of times."""

    def __init__(self, origin: ClaimOrigin, breaks: int, after: int) -> None:
        self.label = origin.label
        self.commit: str | None = None
        self.starts: list[int] = []
        self._origin = origin
        self._breaks = breaks
        self._after = after
        self._lock = threading.Lock()

    def files(self) -> tuple[SourceFile, ...]:
        return self._origin.files()

    @contextmanager
    def open(self, file: SourceFile, start: int = 0, length: int | None = None) -> Iterator[BinaryIO]:
        with self._origin.open(file, start) as stream:
            if length is None and file.is_weights:  # a copy, not a sample
                with self._lock:
                    self.starts.append(start)
                    broken = self._breaks > 0
                    self._breaks -= broken
                if broken:
                    yield cast(BinaryIO, _Breaking(stream, self._after))  # only `read` is used
                    return
            yield stream


class _Breaking:
    def __init__(self, stream: BinaryIO, left: int) -> None:
        self._stream, self._left = stream, left

    def read(self, size: int = -1) -> bytes:
        if self._left <= 0:
            raise InterruptedReadError("Unreachable", "connection reset")
        data = self._stream.read(min(size, self._left))
        self._left -= len(data)
        return data


def flaky(places: Places, breaks: int, after: int = 5000) -> FlakyOrigin:
    """Return the model on the claim as a source that breaks so often, each time after so many bytes."""
    source = claim_source().pvc
    assert source is not None
    return FlakyOrigin(ClaimOrigin(source, places.source), breaks, after)
