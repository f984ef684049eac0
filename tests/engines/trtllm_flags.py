"""Parsers made from the flags, choices and rules of TensorRT-LLM's tools, as kept in tests/data/trtllm.

They refuse what the tools refuse, and also what the tools only warn about or plan to drop.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

DATA = Path(__file__).parent.parent / "data" / "trtllm"
TYPES = {"int": int, "float": float, "str": str}
NOT_ON_BLACKWELL = (
    "gemm_swiglu_plugin",
    "fp8_rowwise_gemm_plugin",
    "low_latency_gemm_plugin",
    "low_latency_gemm_swiglu_plugin",
)


class BadCommandError(Exception):
    """A command line or a set of arguments that the tool would not take."""


@cache
def load(name: str) -> dict[str, Any]:
    """Return one file of facts."""
    facts: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return facts


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadCommandError(message)


@cache
def parser_of(tool: str) -> argparse.ArgumentParser:
    """Return the tool's command line as its facts describe it."""
    facts = load(tool)
    parser = _Parser(prog=tool, allow_abbrev=False, add_help=False)
    for name, flag in facts["flags"].items():
        names = [name, *flag.get("aliases", [])]
        if "switch" in flag:
            action = "store_true" if flag["switch"] is True else argparse.BooleanOptionalAction
            parser.add_argument(*names, action=action)
            continue
        options = {k: flag[k] for k in ("choices", "required", "nargs", "const", "default") if k in flag}
        cast: Any = TYPES[flag["type"]]
        if flag.get("anyCase"):
            cast = str.lower
        parser.add_argument(*names, type=cast, **options)
    return parser


def parse(tool: str, args: Sequence[str]) -> argparse.Namespace:
    """Return what the tool would make of its arguments; raises BadCommandError."""
    facts = load(tool)
    for name, later in facts.get("laterChoices", {}).items():
        used = [value for flag, value in pairwise(args) if flag == name]
        if any(value not in later for value in used):
            raise BadCommandError(f"{name} {used} is gone in {facts['laterVersion']}")
    found = parser_of(tool).parse_args(list(args))
    given = [arg for arg in args if arg.startswith("--")]
    if len(set(given)) < len(given):
        raise BadCommandError("a flag is given twice")
    avoided = [arg for arg in given if facts["flags"].get(arg, {}).get("avoid")]
    if avoided:
        raise BadCommandError(f"{avoided} is deprecated")
    return found


@cache
def check_command(command: tuple[str, ...], sm: int, context: int) -> argparse.Namespace:
    """Parse a recipe's command and check the rules between flags; `context` is the model's own limit."""
    program, *args = command
    if program == "trtllm-build":
        found = parse("trtllm_build", args)
        _check_build(found, sm, context)
        return found
    script, *args = args
    tools = {
        "qwen/convert_checkpoint.py": "convert_checkpoint_qwen",
        "llama/convert_checkpoint.py": "convert_checkpoint_llama",
        "quantization/quantize.py": "quantize",
        "hf_ptq.py": "hf_ptq",
    }
    tool = next((name for ending, name in tools.items() if script.endswith(ending)), None)
    if program != "python3" or tool is None:
        raise BadCommandError(f"{program} {script} is not a program of the images")
    found = parse(tool, args)
    if tool.startswith("convert"):
        _check_convert(found)
    elif tool == "quantize":
        _require(found.model_dir, "one of --model_dir and --nemo_ckpt_path is needed")
        _require(found.qformat != "full_prec" or found.kv_cache_dtype, "quantize.py without anything to quantize")
    return found


def _require(condition: object, message: str) -> None:
    if not condition:
        raise BadCommandError(message)


def _check_build(found: argparse.Namespace, sm: int, context: int) -> None:
    _require(found.checkpoint_dir or found.model_config, "neither --checkpoint_dir nor --model_config")
    _require(not (found.checkpoint_dir or "").endswith(".json"), "a config file has no weights")
    _require(not (found.gather_context_logits and found.max_draft_len), "context logits with draft tokens")
    _require(not (found.multiple_profiles == "enable" and found.opt_num_tokens), "profiles with --opt_num_tokens")
    _require(found.streamingllm != "enable", "streamingllm is refused by the build")
    _require(found.pp_reduce_scatter != "enable", "--pp_reduce_scatter is for Mixtral")
    _require(found.max_input_len <= found.max_seq_len, "--max_input_len exceeds --max_seq_len")
    _require(found.max_seq_len <= context, "--max_seq_len exceeds the model's positions")
    _require(found.max_batch_size <= found.max_num_tokens, "--max_batch_size exceeds --max_num_tokens")
    if sm >= 100:
        on = [name for name in NOT_ON_BLACKWELL if getattr(found, name) != "disable"]
        _require(not on and found.bert_context_fmha_fp32_acc == "disable", f"{on} raises on SM {sm}")


def _check_convert(found: argparse.Namespace) -> None:
    given = found.weight_only_precision != "int8"
    _require(found.use_weight_only or not given, "--weight_only_precision without --use_weight_only")
    _require(found.model_dir, "--model_dir is needed")
    _require(found.smoothquant is None or 0 < found.smoothquant < 1, "--smoothquant lies between 0 and 1")


def check_llm_args(backend: str, args: Mapping[str, Any]) -> None:
    """Check the arguments of an LLM constructor, as the class of that backend would; raises BadCommandError."""
    facts = load("llm_args")
    _check_object(args, {**facts["common"], **facts[backend]}, backend)
    for name in ("kv_cache_config", "scheduler_config", "cuda_graph_config"):
        if isinstance(args.get(name), Mapping):
            _check_object(args[name], facts[name], name)
    if backend == "tensorrt":
        kv_type = args.get("kv_cache_config", {}).get("dtype", "auto")
        _require(kv_type == "auto", "the TensorRT backend refuses a KV cache type other than auto")
        _require(args.get("guided_decoding_backend") in (None, "xgrammar"), "engines decode with xgrammar only")


def _check_object(given: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    for name, value in given.items():
        fact = known.get(name)
        _require(fact, f"{where} has no argument {name}")
        assert fact is not None
        _require(fact["seen"] == "both", f"{where}.{name} is not proved for 1.2.1")
        _require(not fact.get("avoid"), f"{where}.{name} is deprecated")
        _require("choices" not in fact or value in fact["choices"], f"{where}.{name} cannot be {value!r}")
        _require(_is_a(value, fact["type"]), f"{where}.{name} is a {fact['type']}, not {value!r}")


def _is_a(value: Any, kind: str) -> bool:
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if re.search(r"[A-Z]\w+Config|dict|object", kind):
        return isinstance(value, Mapping)
    return isinstance(value, str)
