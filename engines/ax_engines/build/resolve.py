"""Turns a source into the name of its exact bytes and the model's real shape, reading only headers."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

from ax_engines.build import gguf_header, safetensors_header
from ax_engines.build.errors import BuildError
from ax_engines.build.identity import identity
from ax_engines.build.model_config import MAX_CONFIG_BYTES, from_config_json, from_gguf, parse_json
from ax_engines.build.origins import Origin, Selection, SourceFile, select
from ax_engines.build.streams import take
from ax_engines.contract import CHAT_TEMPLATE, ModelConfig, ResolvedSource

logger = logging.getLogger(__name__)

_TEMPLATE_FILES = (CHAT_TEMPLATE, "chat_template.json")
_TOKENIZER_BYTES = 16 * 2**20
INDEX = "model.safetensors.index.json"


def resolve(origin: Origin, trust_remote_code: bool = False) -> ResolvedSource:
    """Return what the operator keeps about a source; BuildError with a reason of its own for each bad kind."""
    selection = select(origin.files(), origin.label, trust_remote_code)
    logger.info(
        "Listed source", extra={"source": origin.label, "files": len(selection.files), "bytes": selection.bytes}
    )
    config, template = read_model(origin, selection, trust_remote_code)
    return ResolvedSource(
        revision=origin.commit or identity(origin, selection.files),
        format=selection.format,
        files=len(selection.files),
        bytes=selection.bytes,
        config=config,
        chat_template=template,
    )


def read_model(origin: Origin, selection: Selection, trust_remote_code: bool = False) -> tuple[ModelConfig, bool]:
    """Read headers and configs of selected files; returns the shape, and whether there is a chat template."""
    if selection.format == "gguf":
        return _read_gguf(origin, selection)
    return _read_folder(origin, selection, trust_remote_code)


def _read_gguf(origin: Origin, selection: Selection) -> tuple[ModelConfig, bool]:
    headers = []
    for file in selection.files:
        with origin.open(file) as stream:
            header = gguf_header.read_header(stream, file.path)
        check_size(file, header.bytes_needed)
        headers.append(header)
    if len(headers) > 1:  # the parts of a split model: the first has the metadata, all have tensors
        tensors = tuple(t for h in headers for t in h.tensors)
        headers[0] = gguf_header.GgufHeader(headers[0].metadata, tensors, 0)
    return from_gguf(headers[0]), isinstance(headers[0].metadata.get("tokenizer.chat_template"), str)


def _read_folder(origin: Origin, selection: Selection, trust_remote_code: bool) -> tuple[ModelConfig, bool]:
    raw = parse_json(read_small(origin, selection, "config.json", MAX_CONFIG_BYTES), "config.json")
    quant = None
    if selection.named("hf_quant_config.json"):
        data = read_small(origin, selection, "hf_quant_config.json", MAX_CONFIG_BYTES)
        quant = parse_json(data, "hf_quant_config.json")
    config = from_config_json(raw, quant, trust_remote_code)
    _check_index(origin, selection)
    if origin.commit is None:  # a hub states sizes and checksums of its own
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda f: _check_shard(origin, f), selection.weights))
    template = any(selection.named(name) for name in _TEMPLATE_FILES)
    if not template and selection.named("tokenizer_config.json"):
        data = read_small(origin, selection, "tokenizer_config.json", _TOKENIZER_BYTES)
        template = bool(parse_json(data, "tokenizer_config.json").get("chat_template"))
    return config, template


def _check_shard(origin: Origin, file: SourceFile) -> None:
    with origin.open(file) as stream:
        check_size(file, safetensors_header.read_header(stream, file.path).bytes_needed)


def check_size(file: SourceFile, needed: int) -> None:
    """Refuse a file that is shorter than its header says; BuildError Truncated."""
    if file.size < needed:
        raise BuildError(
            "Truncated", f"{file.path} has {file.size} bytes, but its header needs {needed}: copy it again"
        )


def _check_index(origin: Origin, selection: Selection) -> None:
    """Every shard that the index names must be there."""
    if not selection.named(INDEX):
        return
    index = parse_json(read_small(origin, selection, INDEX, _TOKENIZER_BYTES), INDEX).get("weight_map")
    if not isinstance(index, dict):
        raise BuildError("ConfigInvalid", f"{INDEX} has no weight_map: copy it again")
    missing = sorted({str(name) for name in index.values()} - {f.path for f in selection.files})
    if missing:
        raise BuildError(
            "Truncated",
            f"{origin.label} lacks {len(missing)} shards that {INDEX} names, first {missing[0]!r:.100}: copy them",
        )


def read_small(origin: Origin, selection: Selection, path: str, limit: int) -> bytes:
    """Return a side file's bytes; BuildError TooLarge beyond `limit`."""
    file = selection.named(path)
    if file is None:
        raise BuildError("ConfigInvalid", f"{origin.label} has no {path}: add the model's")
    if file.size > limit:
        raise BuildError("TooLarge", f"{path} has {file.size} bytes; at most {limit} are read")
    with origin.open(file) as stream:
        return take(stream, file.size)
