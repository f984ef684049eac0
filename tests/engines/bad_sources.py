"""Sources that resolve must refuse: what writes each, the reason for it and words of the message."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

from tests.engines.model_files import write_folder, write_gguf, write_raw_safetensors


def _break_gguf(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        write_gguf(folder / "tiny.gguf")
        path = folder / "tiny.gguf"
        path.write_bytes(change(path.read_bytes()))

    return write


def _folder(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        write_folder(folder)
        change(folder)

    return write


def a_shard(folder: Path) -> Path:
    """Return one of a folder's two files of weights."""
    return folder / "model-00001-of-00002.safetensors"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _bad_config(text: str) -> Callable[[Path], None]:
    return _folder(lambda f: (f / "config.json").write_text(text))


def _config(**changes: object) -> Callable[[Path], object]:
    return lambda folder: write_folder(folder, config=changes)


BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "nothing there": (lambda f: None, "SourceMissing", "the claim's root is empty"),
    "empty folder": (lambda f: f.mkdir(), "SourceEmpty", "has no files"),
    "only a readme": (lambda f: (f.mkdir(), (f / "README.md").write_text("x")), "UnknownFormat", "README.md"),
    "empty weights": (_folder(lambda f: a_shard(f).write_bytes(b"")), "Truncated", "0 bytes"),
    "cut gguf data": (_break_gguf(lambda b: b[:-100]), "Truncated", "header needs"),
    "cut gguf header": (_break_gguf(lambda b: b[:200]), "Truncated", "in its header"),
    "cut safetensors data": (_folder(lambda f: _cut(a_shard(f))), "Truncated", "header needs"),
    "cut safetensors header": (_folder(lambda f: a_shard(f).write_bytes(b"\x40" + b"\0" * 9)), "Truncated", "64"),
    "missing shard": (_folder(lambda f: a_shard(f).unlink()), "Truncated", "lacks 1 shards"),
    "gguf that is none": (_break_gguf(lambda b: b"PK\x03\x04" + b[4:]), "BadMagic", "PK"),
    "safetensors that is none": (
        _folder(lambda f: a_shard(f).write_bytes(b"\x80\x02}q" * 9)),
        "BadMagic",
        "no safe",
    ),
    "safetensors with a list": (
        _folder(lambda f: write_raw_safetensors(a_shard(f), [], b"")),
        "BadMagic",
        "header",
    ),
    "overlapping tensors": (
        _folder(
            lambda f: write_raw_safetensors(
                a_shard(f), {"a": {"data_offsets": [0, 4]}, "b": {"data_offsets": [2, 8]}}, b"\0" * 8
            )
        ),
        "BadMagic",
        "overlap",
    ),
    "old gguf": (_break_gguf(lambda b: b[:4] + struct.pack("<I", 1) + b[8:]), "UnknownFormat", "version 1"),
    "gguf of a million tensors": (
        _break_gguf(lambda b: b[:8] + struct.pack("<Q", 10**12) + b[16:]),
        "TooLarge",
        "1000000000000 tensors",
    ),
    "gguf with a huge text": (
        _break_gguf(lambda b: b[:24] + struct.pack("<Q", 2**62) + b[32:]),
        "TooLarge",
        "a text of",
    ),
    "gguf of a strange family": (
        lambda f: write_gguf(f / "x.gguf", family="mamba"),
        "ArchitectureUnknown",
        "mamba",
    ),
    "gguf with a vocabulary only": (
        lambda f: write_gguf(f / "x.gguf", tensors=False),
        "ConfigInvalid",
        "no tensors",
    ),
    "two models": (
        lambda f: (write_gguf(f / "a.gguf"), write_gguf(f / "b.gguf")),
        "SourceAmbiguous",
        "a.gguf, b.gguf",
    ),
    "pickles only": (
        lambda f: (f.mkdir(), (f / "pytorch_model.bin").write_bytes(b"\x80")),
        "UnsafeFiles",
        "pytorch_model.bin",
    ),
    "link out of the folder": (
        _folder(lambda f: (f / "extra.safetensors").symlink_to("/etc/passwd")),
        "UnsafeFiles",
        "extra.safetensors is a link that leaves",
    ),
    "link to a neighbour": (
        _folder(lambda f: ((f.parent / "other.json").write_text("{}"), (f / "x.json").symlink_to("../other.json"))),
        "UnsafeFiles",
        "x.json",
    ),
    "dangling link": (_folder(lambda f: (f / "x.json").symlink_to("gone")), "SourceMissing", "x.json"),
    "pipe": (_folder(lambda f: os.mkfifo(f / "x.json")), "UnsafeFiles", "no ordinary file"),
    "folder out of the claim": (lambda f: f.symlink_to("/etc"), "UnsafeFiles", "leads out of the claim"),
    "no config": (_folder(lambda f: (f / "config.json").unlink()), "ConfigInvalid", "no config.json"),
    "config that is no JSON": (_bad_config("{"), "ConfigInvalid", "is not JSON"),
    "config that is a list": (_bad_config("[]"), "ConfigInvalid", "holds a list"),
    "config nested too deep": (_bad_config("[" * 100_000), "ConfigInvalid", "is not JSON"),
    "config of 3 MB": (_bad_config(json.dumps({"x": "y" * 3_000_000})), "TooLarge", "at most 2097152"),
    "config with text for a number": (_config(hidden_size="64"), "ConfigInvalid", "hidden_size is '64'"),
    "config with a huge number": (_config(vocab_size=10**12), "ConfigInvalid", "vocab_size is 1000000000000"),
    "config without layers": (_config(num_hidden_layers=None), "ConfigInvalid", "num_hidden_layers is None"),
    "unknown class": (_config(architectures=["EvilForCausalLM"]), "ArchitectureUnknown", "trustRemoteCode"),
    "no class": (_config(architectures=[]), "ArchitectureUnknown", "architectures: []"),
}
