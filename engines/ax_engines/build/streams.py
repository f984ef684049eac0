"""Reads a wanted number of bytes from streams that may answer with less at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

CHUNK = 2**20


def take(stream: BinaryIO, size: int) -> bytes:
    """Return `size` bytes, or fewer if the stream ends before; memory grows only with what really came."""
    data = stream.read(min(size, CHUNK))
    if len(data) == size:
        return data
    parts, missing = [data], size - len(data)
    while missing and (data := stream.read(min(missing, CHUNK))):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


class PartsReader:
    """Reads from an iterator of byte strings as from a file."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = b""

    def read(self, size: int = CHUNK) -> bytes:
        """Return at most `size` bytes, none at the end."""
        while not self._rest:
            part = next(self._parts, None)
            if part is None:
                return b""
            self._rest = part
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def skip(self, size: int) -> None:
        """Read and forget `size` bytes."""
        while size > 0 and (data := self.read(min(size, CHUNK))):
            size -= len(data)
