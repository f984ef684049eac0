"""What each quantization format takes, needs and runs on."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from ax_engines.contract import Quantization

AWQ_GROUP = 128
NVFP4_GROUP = 16
# SM numbers by family, for formats that do not just need a minimum.
_AMPERE_TO_HOPPER = frozenset({80, 86, 89, 90})
_ADA_AND_HOPPER = frozenset({89, 90})


@dataclass(frozen=True, slots=True)
class Format:
    """One way to hold a layer's matrices.

    `linear_bytes` is per value with its scales; `group` has to divide a matrix's inner size on every rank; `sms` are
    the GPUs with kernels, None meaning all from `min_sm` on; `tensorrt` and `pytorch` are the names that
    `quantize.py` and `hf_ptq.py` give it, None where the tool cannot make it; `precision` orders formats for
    `prefer: quality`, highest first. `fp8_kv` says whether calibration makes FP8 scales for the KV cache too.
    """

    name: Quantization
    precision: int
    linear_bytes: float
    calibrated: bool
    min_sm: int
    sms: frozenset[int] | None
    group: int
    tensorrt: str | None
    pytorch: str | None
    fp8_kv: bool = False

    def runs_on(self, sm: int) -> bool:
        """Whether there are kernels for this compute capability."""
        return sm >= self.min_sm and (self.sms is None or sm in self.sms)

    @property
    def where(self) -> str:
        """The compute capabilities that run it, for messages."""
        return "SM " + (", ".join(map(str, sorted(self.sms))) if self.sms else f"{self.min_sm} and newer")


# Hardware: support matrix of NVIDIA/TensorRT-LLM@09d4c79ba941a5c2c62c878c3572c0dcc8b85efa (Apache-2.0),
# docs/source/features/quantization.md; INT8 as in the support matrix of its 0.18 documentation.
# hf_ptq.py 0.37.0 has no weight-only INT8, and the PyTorch backend no SmoothQuant.
_ALL = (
    Format("none", 0, 2.0, False, 80, None, 1, "full_prec", None),
    Format("int8-wo", 1, 1.0, False, 80, _AMPERE_TO_HOPPER, 1, "int8_wo", None),
    Format("fp8", 2, 1.0, True, 89, None, 16, "fp8", "fp8", fp8_kv=True),
    Format("int8-sq", 3, 1.0, True, 80, _AMPERE_TO_HOPPER, 1, "int8_sq", None),
    Format("awq", 4, 0.5 + 2 / AWQ_GROUP, True, 80, _AMPERE_TO_HOPPER, AWQ_GROUP, "int4_awq", "int4_awq"),
    Format("w4a8-awq", 5, 0.5 + 2 / AWQ_GROUP, True, 89, _ADA_AND_HOPPER, AWQ_GROUP, "w4a8_awq", "w4a8_awq"),
    Format("nvfp4", 6, 0.5 + 1 / NVFP4_GROUP, True, 100, None, NVFP4_GROUP, "nvfp4", "nvfp4", fp8_kv=True),
)
FORMATS = MappingProxyType({f.name: f for f in _ALL})

# How a source's own config names formats that are served as they are, and what of ours they come to.
READY_MADE: MappingProxyType[str, Quantization] = MappingProxyType(
    {
        "fp8": "fp8",
        "w4a16_awq": "awq",
        "awq": "awq",
        "gptq": "awq",
        "w4a8_awq": "w4a8-awq",
        "nvfp4": "nvfp4",
    }
)
# Those of them that the Qwen converter reads from `quantization_config`; the others are for the PyTorch backend.
CONVERTED_AS_THEY_ARE = frozenset({"awq", "gptq"})
