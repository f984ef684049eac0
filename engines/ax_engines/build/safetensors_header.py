"""Reads the header of a safetensors file within bounds, from any stream.

Layout (huggingface/safetensors): 8 bytes little-endian length N, N bytes of JSON, then the data; the JSON maps a
tensor's name to dtype, shape and [begin, end) in the data.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import BinaryIO

from ax_engines.build.errors import BuildError
from ax_engines.build.streams import take

MAX_HEADER_BYTES = 16 * 2**20
"""The format allows 100 MB; a shard of 5 GB has some 10 KB, and a hostile header takes many times its size."""
MAX_TENSORS = 200_000


@dataclass(frozen=True)
class SafetensorsHeader:
    """Tensor names and the size that the file must have."""

    tensors: tuple[str, ...]
    bytes_needed: int


def read_header(stream: BinaryIO, label: str) -> SafetensorsHeader:
    """Read the header from a stream at its start; BuildError BadMagic, Truncated or TooLarge."""
    start = _take(stream, 8, label)
    (length,) = struct.unpack("<Q", start)
    if length > MAX_HEADER_BYTES:
        raise BuildError(
            "BadMagic",
            f"{label} starts with {start!r}, which is a header of {length} bytes (at most {MAX_HEADER_BYTES}): "
            "it is no safetensors file",
        )
    text = _take(stream, length, label)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        if len(header) > MAX_TENSORS:
            raise BuildError("TooLarge", f"{label} claims {len(header)} tensors; at most {MAX_TENSORS} are read")
        spans = sorted(_span(entry) for entry in header.values())
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise BuildError("BadMagic", f"{label} has no readable safetensors header: {error!s:.200}") from error
    end = 0
    for begin, stop in spans:
        if begin != end:  # gaps and overlaps hide data; the format forbids both
            raise BuildError("BadMagic", f"{label} has tensors that leave a gap or overlap at byte {end}")
        end = stop
    return SafetensorsHeader(tuple(header), 8 + length + end)


def _span(entry: dict[str, list[int]]) -> tuple[int, int]:
    begin, end = entry["data_offsets"]
    if not (isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end):
        raise ValueError(f"data_offsets {begin!s:.40}, {end!s:.40}")
    return begin, end


def _take(stream: BinaryIO, size: int, label: str) -> bytes:
    data = take(stream, size)
    if len(data) < size:
        raise BuildError("Truncated", f"{label} ends within its header of {size} bytes: copy it again")
    return data
