"""The pytorch adaptor on the stand-in for TensorRT-LLM, for a Triton whose image has neither."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "tests" / "standins" / "packages"), str(ROOT)]

from ax_engines.triton.engines.pytorch import ENGINE  # noqa: E402

__all__ = ["ENGINE"]
