"""Checks that an artifact's files are whole and are what the spec says, before anything is published."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ax_engines.build import chat_facts, gguf_header
from ax_engines.build.errors import BuildError
from ax_engines.build.model_config import MAX_CONFIG_BYTES, parse_json
from ax_engines.build.origin_folder import FolderOrigin
from ax_engines.build.origins import select
from ax_engines.build.resolve import read_model
from ax_engines.contract import ArtifactSpec, ChatFacts, FileEntry, ModelConfig, Target

logger = logging.getLogger(__name__)

PARALLEL = 4
CHUNK = 2**20


@dataclass(frozen=True)
class Checked:
    """What the check of an artifact's files found out."""

    config: ModelConfig
    template: str | None
    chat: ChatFacts


def check_model(folder: Path, spec: ArtifactSpec) -> Checked:
    """Check a folder with a model's own files: magic, sizes, headers, shards, architecture; BuildError."""
    origin = FolderOrigin(folder)
    selection = select(origin.files(), folder.name, spec.trust_remote_code)
    config, _ = read_model(origin, selection, spec.trust_remote_code)
    if config.architecture != spec.architecture:
        raise BuildError(
            "ArchitectureMismatch",
            f"the files are of {config.architecture}, but {spec.architecture} was planned: point the source at "
            "the right model, or let it be resolved again",
        )
    if selection.format == "safetensors":
        return Checked(config, *chat_facts.of_folder(folder, config))
    with (folder / selection.files[0].path).open("rb") as stream:
        header = gguf_header.read_header(stream, selection.files[0].path)
    return Checked(config, *chat_facts.of_gguf(header, config))


def check_engine(folder: Path, target: Target) -> None:
    """Check a TensorRT engine folder: a config of the planned version, ranks and limits, and a file for each rank.

    Keys: `config.json` of TensorRT-LLM 1.2 (`version`, `pretrained_config.mapping`, `build_config`).
    """
    path = folder / "config.json"
    if not path.is_file():
        raise BuildError("OutputMissing", f"{folder.name}/config.json was not written by the compiler: see its log")
    raw = parse_json(path.read_bytes()[:MAX_CONFIG_BYTES], f"{folder.name}/config.json")
    mapping, build = _object(raw, "pretrained_config", "mapping"), _object(raw, "build_config")
    ranks = target.tensor * target.pipeline
    facts: tuple[tuple[str, Any, Any], ...] = (
        ("version", raw.get("version"), target.tensorrt_llm),
        ("tp_size", mapping.get("tp_size"), target.tensor),
        ("pp_size", mapping.get("pp_size", 1), target.pipeline),
        ("world_size", mapping.get("world_size"), ranks),
        ("max_batch_size", build.get("max_batch_size"), target.limits.max_batch_size),
        ("max_input_len", build.get("max_input_len"), target.limits.max_input_tokens),
        ("max_seq_len", build.get("max_seq_len"), target.limits.max_total_tokens),
    )
    wrong = [f"{name} is {actual}, planned {planned}" for name, actual, planned in facts if actual != planned]
    if wrong:
        raise BuildError(
            "EngineMismatch",
            f"the compiled engine is not the planned one: {'; '.join(wrong)}: use the toolchain that was planned",
        )
    for rank in range(ranks):
        file = folder / f"rank{rank}.engine"
        if not file.is_file() or file.stat().st_size == 0:
            raise BuildError("OutputMissing", f"{file.name} of {ranks} ranks was not written: see the compiler's log")


def _object(raw: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in keys:
        value = raw.get(key)
        raw = value if isinstance(value, dict) else {}
    return raw


def hash_files(folder: Path, paths: Iterable[str], count: Callable[[int], None]) -> tuple[FileEntry, ...]:
    """Return path, size and SHA-256 of each file, sorted by path; `count` gets bytes as they are read."""

    def entry(path: str) -> FileEntry:
        digest, size = hashlib.sha256(), 0
        with (folder / path).open("rb") as stream:
            while data := stream.read(CHUNK):
                digest.update(data)
                size += len(data)
                count(len(data))
        return FileEntry(path=path, size=size, sha256=digest.hexdigest())

    with ThreadPoolExecutor(PARALLEL) as pool:
        return tuple(pool.map(entry, sorted(paths)))
