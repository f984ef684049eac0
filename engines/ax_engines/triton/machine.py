"""What this container can run: its GPUs' compute capability and its TensorRT-LLM, asked without loading either."""

from __future__ import annotations

import re
import subprocess
from importlib import metadata

NVIDIA_SMI_SECONDS = 30


def tensorrt_llm_version() -> str | None:
    """Return the version of the installed TensorRT-LLM, None where there is none."""
    try:
        return metadata.version("tensorrt_llm")
    except metadata.PackageNotFoundError:
        return None


def compute_capabilities() -> tuple[int, ...] | None:
    """Return the SM of each GPU that this container sees (90 for 9.0), None where no driver tells."""
    command = ("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_capabilities(said)


def parse_capabilities(said: str) -> tuple[int, ...] | None:
    """Read `nvidia-smi --query-gpu=compute_cap`'s answer, one `major.minor` a line; None if it is another one."""
    found = [re.fullmatch(r"\s*(\d+)\.(\d)\s*", line) for line in said.strip().splitlines()]
    sms = tuple(int(one[1]) * 10 + int(one[2]) for one in found if one)
    return sms if sms and len(sms) == len(found) else None
