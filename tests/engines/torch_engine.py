"""The transformers adaptor with the packages of locks/torch.txt, for a Triton whose image has none of them."""

from __future__ import annotations

import os
import sys

sys.path.append(os.environ["AX_TORCH_SITE"])

from ax_engines.triton.engines.transformers import ENGINE

__all__ = ["ENGINE"]
