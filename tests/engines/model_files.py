"""Writes small but real model files: GGUF by gguf-py, safetensors by the format's rules, folders as hubs have them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ax_engines.build.origin_claim import ClaimOrigin
from ax_engines.build.places import Places
from ax_engines.build.resolve import resolve
from ax_engines.contract import ArtifactSpec, Phase, PvcSource, ResolvedSource, Source
from ax_engines.tasks import BuildTask, ResolveTask

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
TINY: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": True,
}


def write_gguf(path: Path, *, family: str = "llama", tensors: bool = True, template: str | None = TEMPLATE) -> None:
    """Write a GGUF of two blocks with a vocabulary of ten words."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(2)
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_file_type(1)
    writer.add_vocab_size(10)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "</s>", *(f"w{i}" for i in range(8))])
    writer.add_token_scores([0.0] * 10)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    if template is not None:
        writer.add_chat_template(template)
    if tensors:
        writer.add_tensor("token_embd.weight", np.zeros((10, 64), dtype=np.float16))
        writer.add_tensor("output_norm.weight", np.zeros(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_safetensors(path: Path, fill: int = 0, rows: int = 100, columns: int = 64) -> None:
    """Write one bfloat16 matrix."""
    size = rows * columns * 2
    header = {"w": {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [0, size]}}
    write_raw_safetensors(path, header, bytes([fill]) * size)


def write_raw_safetensors(path: Path, header: Any, data: bytes) -> None:
    """Write a safetensors file with any header."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_folder(folder: Path, *, shards: int = 2, config: dict[str, Any] | None = None) -> Path:
    """Write a model folder: config, index, shards, tokenizer files with a chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY | (config or {})))
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    for i, name in enumerate(names):
        write_safetensors(folder / name, fill=i)
    index = {"metadata": {}, "weight_map": {f"w{i}": name for i, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "tokenizer.json").write_text("{}")
    tokenizer = {"bos_token": None, "eos_token": {"content": "<|im_end|>"}, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "generation_config.json").write_text("{}")
    return folder


def claim_source(path: str = "model") -> Source:
    """Return a source on the claim that tests mount at <root>/source."""
    return Source(pvc=PvcSource(claim_name="models", path=path))


def resolved(places: Places, path: str = "model", trust_remote_code: bool = False) -> ResolvedSource:
    """Resolve a path on the claim."""
    source = claim_source(path)
    assert source.pvc is not None
    return resolve(ClaimOrigin(source.pvc, places.source), trust_remote_code)


def spec_of(found: ResolvedSource, source: Source | None = None, **changes: Any) -> ArtifactSpec:
    """Return the spec of an artifact that is the resolved files as they are."""
    values: dict[str, Any] = {
        "slug": "tiny",
        "source": source or claim_source(),
        "revision": found.revision,
        "artifact": found.format,
        "architecture": found.config.architecture,
        "bytes": found.bytes,
        "toolchain": "cpu",
        "phases": (Phase(name="fetch"), Phase(name="publish")),
    }
    return ArtifactSpec(**(values | changes))


def build_task(spec: ArtifactSpec) -> str:
    """Return AX_TASK for a build."""
    return BuildTask(engine=spec.name, spec=spec).to_json()


def resolve_task(source: Source, trust_remote_code: bool = False) -> str:
    """Return AX_TASK for a resolve Job."""
    return ResolveTask(source=source, trust_remote_code=trust_remote_code).to_json()


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its bytes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
