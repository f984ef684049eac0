"""The commands of a build, program first, as TensorRT-LLM 1.2 and Model-Optimizer 0.37 to 0.43 take them.

They run in the artifact's staging folder and name everything relative to it, since they are part of an engine's
digest: the store's and the calibration claim's mounts are reached through `..`.
"""

from __future__ import annotations

from ax_engines.contract import (
    CALIBRATION_MOUNT,
    CHECKPOINT,
    COMPILED,
    FETCHED,
    TIMING_CACHES,
    Calibration,
    Limits,
    ModelConfig,
    slug,
)
from ax_engines.memory import Split
from ax_engines.recipe.backends import CONVERTERS
from ax_engines.recipe.formats import AWQ_GROUP, Format
from ax_engines.recipe.options import Option

Command = tuple[str, ...]

CALIBRATION_SAMPLES = 512
MAX_CONVERT_WORKERS = 8
GEMM_PLUGINS = {"fp8": "disable", "nvfp4": "nvfp4"}
"""Plugin for matrix products by format, where it is not `auto`: TensorRT's own FP8 kernels do without."""


def calibration_folder(calibration: Calibration) -> str:
    """Return the data set's folder, seen from the staging folder (three levels below the root)."""
    mount = f"../../..{CALIBRATION_MOUNT}"
    return mount if calibration.path in ("", ".") else f"{mount}/{calibration.path}"


def checkpoint_command(option: Option, config: ModelConfig, calibration: Calibration | None) -> Command:
    """Return the command that splits the fetched model over ranks, quantizing it if the format or KV cache asks."""
    examples = option.toolchain.examples.rstrip("/")
    split = option.fit.split
    common = (
        *("--model_dir", FETCHED, "--output_dir", CHECKPOINT, "--dtype", weight_type(config)),
        *("--tp_size", str(split.tensor), "--pp_size", str(split.pipeline)),
    )
    if option.calibrates and calibration is not None:
        return (
            *("python3", f"{examples}/quantization/quantize.py", *common),
            *("--qformat", str(option.format.tensorrt)),
            *(() if option.kv == "model" else ("--kv_cache_dtype", option.kv)),
            *(("--awq_block_size", str(AWQ_GROUP)) if option.format.group == AWQ_GROUP else ()),
            *("--calib_dataset", calibration_folder(calibration), "--calib_size", str(CALIBRATION_SAMPLES)),
        )
    weight_only = ("--use_weight_only", "--weight_only_precision", "int8")
    return (
        *("python3", f"{examples}/{CONVERTERS[config.architecture]}", *common),
        *("--workers", str(min(split.ranks, MAX_CONVERT_WORKERS))),
        *(weight_only if option.format.name == "int8-wo" else ()),
    )


def build_command(fmt: Format, sm: int, version: str, split: Split, limits: Limits, step: int, name: str) -> Command:
    """Return the `trtllm-build` command; ranks, types and format come from the checkpoint.

    The timing cache outlives the build and is kept per model, GPU and version, since it is of no use elsewhere.
    """
    cache = f"../../{TIMING_CACHES}/{slug(name)}-sm{sm}-{slug(version)}.cache"
    return (
        *("trtllm-build", "--checkpoint_dir", CHECKPOINT, "--output_dir", COMPILED),
        *("--max_batch_size", str(limits.max_batch_size)),
        *("--max_input_len", str(limits.max_input_tokens)),
        *("--max_seq_len", str(limits.max_total_tokens)),
        *("--max_num_tokens", str(step)),
        *("--max_beam_width", "1"),
        *("--kv_cache_type", "paged", "--remove_input_padding", "enable"),
        *("--context_fmha", "enable", "--use_paged_context_fmha", "enable"),
        *("--gemm_plugin", GEMM_PLUGINS.get(fmt.name, "auto")),
        *("--workers", str(split.ranks)),
        *("--input_timing_cache", cache, "--output_timing_cache", cache),
    )


def ptq_command(option: Option, calibration: Calibration, trust_remote_code: bool) -> Command:
    """Return the command that writes a quantized Hugging Face checkpoint for the PyTorch backend."""
    folder = (option.toolchain.model_optimizer or "").rstrip("/")
    return (
        *("python3", f"{folder}/hf_ptq.py", "--pyt_ckpt_path", FETCHED, "--export_path", CHECKPOINT),
        *("--qformat", str(option.format.pytorch)),
        *("--kv_cache_qformat", "fp8" if option.kv == "fp8" else "none"),
        *("--dataset", calibration_folder(calibration), "--calib_size", str(CALIBRATION_SAMPLES)),
        *(("--trust_remote_code",) if trust_remote_code else ()),
    )


def weight_type(config: ModelConfig) -> str:
    """Return the type of weights that are not quantized; 32-bit checkpoints are served in bfloat16."""
    return config.dtype if config.dtype in ("bfloat16", "float16") else "bfloat16"
