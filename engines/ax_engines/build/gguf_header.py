"""Reads the header of a GGUF file (versions 2 and 3, little endian) within bounds, from any stream.

A file is hostile: counts, lengths and nesting are checked before anything is allocated, and long arrays other than
the vocabulary are skipped, not kept. Layout and type numbers: the GGUF specification of ggml-org/ggml.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from ax_engines.build.errors import BuildError
from ax_engines.build.streams import take

MAGIC = b"GGUF"
MAX_HEADER_BYTES = 128 * 2**20
MAX_ENTRIES = 65_536
MAX_STRING_BYTES = 4 * 2**20
MAX_DIMENSIONS = 4
MAX_WORDS = 2_000_000
"""Bound of any array of texts; the largest vocabularies and merges have some 500,000."""
VOCABULARY = "tokenizer.ggml.tokens"

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

# (values, bytes) of a block, by tensor type. Source: ggml.h of ggml-org/llama.cpp, as gguf-py tabulates it.
BLOCKS: dict[int, tuple[int, int]] = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)},
    **{16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82)},
    **{23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2)},
    **{34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18)},
}


@dataclass(frozen=True)
class Tensor:
    """A tensor's entry: dimensions, type number, and offset from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def bytes(self) -> int:
        """Bytes of the data; 0 for a type that this table does not know."""
        values, size = BLOCKS.get(self.type, (1, 0))
        return math.prod(self.shape) // values * size


@dataclass(frozen=True)
class GgufHeader:
    """Metadata (arrays other than the vocabulary as "array of N"), tensors, and where the data starts."""

    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    data_start: int

    @property
    def bytes_needed(self) -> int:
        """The size that the file must have at least."""
        return self.data_start + max((t.offset + t.bytes for t in self.tensors), default=0)

    def has_tensor(self, name: str) -> bool:
        """Tell whether a tensor of that name is in the file."""
        return any(t.name == name for t in self.tensors)


def read_header(stream: BinaryIO, label: str) -> GgufHeader:
    """Read the header from a stream at its start; BuildError BadMagic, Truncated, TooLarge or UnknownFormat."""
    cursor = _Cursor(stream, label)
    if (magic := cursor.take(4)) != MAGIC:
        raise BuildError("BadMagic", f"{label} starts with {magic!r}, not with {MAGIC!r}: it is no GGUF file")
    version = cursor.number("I")
    if version not in (2, 3):
        raise BuildError("UnknownFormat", f"{label} is GGUF version {version}; versions 2 and 3 are read: convert it")
    tensor_count, entry_count = cursor.count("tensors"), cursor.count("metadata entries")
    metadata = {}
    for _ in range(entry_count):
        key = cursor.text()
        metadata[key] = _value(cursor, cursor.number("I"), keep=key == VOCABULARY)
    tensors = tuple(_tensor(cursor) for _ in range(tensor_count))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 65_536:
        raise BuildError("UnknownFormat", f"{label} has alignment {alignment!r}; 1 to 65536 is allowed")
    return GgufHeader(metadata, tensors, -(-cursor.position // alignment) * alignment)


def _value(cursor: _Cursor, kind: int, keep: bool) -> Any:
    if kind == _STRING:
        return cursor.text()
    if kind != _ARRAY:
        return cursor.number(cursor.scalar(kind))
    kind, length = cursor.number("I"), cursor.number("Q")
    if kind == _STRING:
        if length > MAX_WORDS:
            raise cursor.too_large(f"an array of {length} strings")
        if keep:
            return [cursor.text() for _ in range(length)]
        for _ in range(length):
            cursor.skip_text()
        return f"array of {length}"
    code = cursor.scalar(kind)
    cursor.skip(length * struct.calcsize(f"<{code}"))
    return f"array of {length}"


def _tensor(cursor: _Cursor) -> Tensor:
    name, rank = cursor.text(), cursor.number("I")
    if rank > MAX_DIMENSIONS:
        raise cursor.too_large(f"tensor {name[:80]!r} with {rank} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(rank))
    return Tensor(name, shape, cursor.number("I"), cursor.number("Q"))


class _Cursor:
    """Reads little-endian values and refuses to go past MAX_HEADER_BYTES."""

    def __init__(self, stream: BinaryIO, label: str) -> None:
        self._stream = stream
        self._label = label
        self.position = 0

    def take(self, size: int) -> bytes:
        if self.position + size > MAX_HEADER_BYTES:
            raise self.too_large(f"{self.position + size} bytes of metadata")
        data = take(self._stream, size)
        self.position += len(data)
        if len(data) < size:
            raise BuildError(
                "Truncated", f"{self._label} ends after {self.position} bytes, in its header: copy it again"
            )
        return data

    def skip(self, size: int) -> None:
        while size > 0:
            size -= len(self.take(min(size, 2**20)))

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def count(self, what: str) -> int:
        number = int(self.number("Q"))
        if number > MAX_ENTRIES:
            raise self.too_large(f"{number} {what}")
        return number

    def _length(self) -> int:
        length = int(self.number("Q"))
        if length > MAX_STRING_BYTES:
            raise self.too_large(f"a text of {length} bytes")
        return length

    def text(self) -> str:
        return self.take(self._length()).decode("utf-8", "replace")

    def skip_text(self) -> None:
        self.skip(self._length())

    def scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise BuildError("UnknownFormat", f"{self._label} has a metadata value of unknown type {kind}")
        return _SCALARS[kind]

    def too_large(self, what: str) -> BuildError:
        return BuildError("TooLarge", f"{self._label} claims {what}, more than a model's header holds: it is broken")
