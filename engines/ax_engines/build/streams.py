"""Reads a wanted number of bytes from streams that may answer with less at a time."""

from __future__ import annotations

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
