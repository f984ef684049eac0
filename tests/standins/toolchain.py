"""Stand-ins for TensorRT-LLM's and Model Optimizer's programs: no GPU, no library, no real weights.

They take exactly the flags, choices and rules that `tests/data/trtllm` has from the sources, read their input as
the real ones must, say lines like theirs, and write files of the real names and shapes: a checkpoint's config.json
and rank<N>.safetensors, an engine's config.json and rank<N>.engine, a quantized Hugging Face folder. Real are the
names and keys; weights and engines are a few bytes that say what they are.

AX_STANDIN asks for a fault: `oom`, `crash`, `full`, `nothing` (writes nothing), `hang` (after half), `torn` (dies
in the middle of writing). AX_STANDIN_VERSION is the TensorRT-LLM that is played, 1.2.1 unless said.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from tests.engines.trtllm_flags import BadCommandError, load, parse

BLOCKS = 8
FLAGS_TO_ALGO = {"int8": "W8A16", "int4": "W4A16", "int4_gptq": "W4A16_GPTQ"}


def main(tool: str, argv: list[str]) -> int:
    """Play one program; exits like argparse (2) on arguments that the real one would refuse."""
    try:
        args = parse(tool, argv)
    except BadCommandError as error:
        sys.stderr.write(f"{tool}: error: {error}\n")
        return 2
    print(f"[TensorRT-LLM] TensorRT LLM version: {version()} (stand-in for {tool})", flush=True)
    play = {
        "convert_checkpoint_qwen": convert,
        "convert_checkpoint_llama": convert,
        "quantize": quantize,
        "trtllm_build": build,
        "hf_ptq": ptq,
    }[tool]
    play(args)
    return 0


def version() -> str:
    """Return the version that is played."""
    return os.environ.get("AX_STANDIN_VERSION", "1.2.1")


def convert(args: Namespace) -> None:
    """Write a checkpoint as the converters do."""
    algo = FLAGS_TO_ALGO[args.weight_only_precision] if args.use_weight_only else None
    work("Converting", 4)
    _write_checkpoint(args, algo, None)


def quantize(args: Namespace) -> None:
    """Write a checkpoint as quantize.py does, after two bars: loading and calibrating."""
    _require_texts(args.calib_dataset)
    work("Loading checkpoint shards", 3)
    work("Calibrating", 6)
    algo = load("quantize")["quantAlgo"][args.qformat]
    _write_checkpoint(args, algo, args.kv_cache_dtype and args.kv_cache_dtype.upper())


def _write_checkpoint(args: Namespace, algo: str | None, kv: str | None) -> None:
    source, out = _model(args.model_dir), Path(args.output_dir)
    ranks = args.tp_size * args.pp_size
    config = {
        "architecture": source["architectures"][0],
        "dtype": args.dtype,
        **{k: source[k] for k in ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")},
        **{k: source[k] for k in ("num_key_value_heads", "vocab_size", "max_position_embeddings")},
        "position_embedding_type": "rope_gpt_neox",
        "logits_dtype": "float32",
        "mapping": {"world_size": ranks, "tp_size": args.tp_size, "pp_size": args.pp_size, "gpus_per_node": 8},
        "quantization": {"quant_algo": algo, "kv_cache_quant_algo": kv, "group_size": 128},
    }
    _require_known(config, "checkpoint")
    out.mkdir(parents=True, exist_ok=True)
    _write_ranks(out, ranks, "safetensors", _tensors("checkpoint"))
    (out / "config.json").write_text(json.dumps(config, indent=4))


def build(args: Namespace) -> None:
    """Write an engine as trtllm-build does: each rank's file, the config of rank 0, and the timing cache."""
    checkpoint, out = Path(args.checkpoint_dir), Path(args.output_dir)
    pretrained = json.loads((checkpoint / "config.json").read_text())
    ranks = pretrained["mapping"]["world_size"]
    for rank in range(ranks):
        if not (checkpoint / f"rank{rank}.safetensors").is_file():
            raise SystemExit(f"RuntimeError: checkpoint lacks rank{rank}.safetensors")
    cache = Path(args.input_timing_cache) if args.input_timing_cache else None
    known = cache.read_text() if cache and cache.is_file() else ""
    print(f"[TRT-LLM] [I] Read timing cache of {len(known)} bytes", flush=True)
    work("Building engine", 5)
    build_config = {
        "max_input_len": args.max_input_len,
        "max_seq_len": args.max_seq_len,
        "max_batch_size": args.max_batch_size,
        "max_beam_width": args.max_beam_width,
        "max_num_tokens": args.max_num_tokens,
        "kv_cache_type": str(args.kv_cache_type).upper(),
        "plugin_config": {"gemm_plugin": args.gemm_plugin, "remove_input_padding": True},
    }
    out.mkdir(parents=True, exist_ok=True)
    _write_ranks(out, ranks, "engine", b"stand-in for a TensorRT engine\n")
    config = {"version": version(), "pretrained_config": pretrained, "build_config": build_config}
    (out / "config.json").write_text(json.dumps(config, indent=4))
    Path(args.output_timing_cache).write_text(known + "measured once more\n")


def ptq(args: Namespace) -> None:
    """Write a quantized Hugging Face folder as hf_ptq.py does."""
    _require_texts(args.dataset)
    source, out = _model(args.pyt_ckpt_path), Path(args.export_path)
    work("Loading checkpoint shards", 3)
    work("Calibrating", 6)
    kv = None if args.kv_cache_qformat == "none" else args.kv_cache_qformat.upper()
    algo = load("hf_ptq")["quantAlgo"][args.qformat]
    fault("torn")
    out.mkdir(parents=True, exist_ok=True)
    quantization = {"quant_algo": algo, "kv_cache_quant_algo": kv, "exclude_modules": ["lm_head"]}
    producer = {"name": "modelopt", "version": "0.37.0"}
    (out / "hf_quant_config.json").write_text(json.dumps({"producer": producer, "quantization": quantization}))
    inner = {"quant_method": "modelopt", "quant_algo": algo, "ignore": ["lm_head"], "producer": producer}
    (out / "config.json").write_text(json.dumps(source | {"quantization_config": inner}))
    (out / "model.safetensors").write_bytes(_tensors("quantized"))
    (out / "tokenizer_config.json").write_text((Path(args.pyt_ckpt_path) / "tokenizer_config.json").read_text())


def work(what: str, steps: int) -> None:
    """Draw a bar as tqdm does, and meet the fault that is asked for halfway."""
    for step in range(steps + 1):
        if step == steps // 2:
            for kind in ("oom", "crash", "full", "hang", "nothing"):
                fault(kind)
        percent = 100 * step // steps
        filled = "█" * (percent // 20)
        sys.stderr.write(f"\r{what}: {percent:3d}%|{filled:<5}| {step}/{steps} [00:00<00:00, 9.00it/s]")
        sys.stderr.flush()
        time.sleep(float(os.environ.get("AX_STANDIN_STEP_SECONDS", "0")))
    sys.stderr.write("\n")


def fault(kind: str) -> None:
    """Fail as asked."""
    if os.environ.get("AX_STANDIN") != kind:
        return
    sys.stderr.write("\n")
    if kind == "oom":
        print("Traceback (most recent call last):", flush=True)
        raise SystemExit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
    if kind == "full":
        raise SystemExit("OSError: [Errno 28] No space left on device")
    if kind == "crash":
        print("[TRT] [E] Error Code 10: Could not find any implementation for node", flush=True)
        raise SystemExit(1)
    if kind == "hang":
        print("holding on", flush=True)
        time.sleep(600)
    if kind == "nothing":
        raise SystemExit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def _write_ranks(out: Path, ranks: int, ending: str, data: bytes) -> None:
    for rank in range(ranks):
        (out / f"rank{rank}.{ending}").write_bytes(data)
        fault("torn")


def _tensors(what: str) -> bytes:
    """Return a valid safetensors file whose one tensor is a note."""
    data = f"stand-in: {what}".encode()
    header = json.dumps({"note": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def _model(folder: str) -> dict[str, Any]:
    """Read the Hugging Face folder as a loader would: config, and every shard's length."""
    path = Path(folder)
    shards = list(path.glob("*.safetensors"))
    if not shards:
        raise SystemExit(f"OSError: no file named model.safetensors found in directory {folder}")
    config: dict[str, Any] = json.loads((path / "config.json").read_text())
    return config


def _require_texts(folder: str) -> None:
    if not any(Path(folder).rglob("*.jsonl")):
        raise SystemExit(f"FileNotFoundError: Couldn't find any data file at {folder}")


def _require_known(config: dict[str, Any], part: str) -> None:
    """Keys that the facts do not have would be a mistake of this stand-in."""
    unknown = set(config) - set(load("engine_config")[part])
    if unknown:
        raise SystemExit(f"the stand-in writes unknown keys {sorted(unknown)}")
