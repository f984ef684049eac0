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


def compute_capability() -> int | None:
    """Return the SM of the first GPU that this container sees (90 for 9.0), None where no driver tells."""
    command = ("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_capability(said)


def parse_capability(said: str) -> int | None:
    """Read `nvidia-smi --query-gpu=compute_cap`'s answer: one `major.minor` a line."""
    found = re.match(r"\s*(\d+)\.(\d)\s*$", said.splitlines()[0] if said.strip() else "")
    return int(found[1]) * 10 + int(found[2]) if found else None
