"""What machines can do: facts of GPUs, node pools made of them, and the toolchains that run on them.

Pure: the table of GPUs comes from `gpus.yaml` by way of `hardware_table`, pools from `pools`, toolchains from the
chart; all three reach the recipe as arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ax_engines.contract import Backend

CPU_POOL = "cpu"
GPU_RESOURCE = "nvidia.com/gpu"
PRODUCT_LABEL = "nvidia.com/gpu.product"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU; `nvlink` is how many of them reach each other over NVLink (1: PCIe only).

    `memory_mib` is the least that any driver was seen to report, so that a plan does not change with a driver.
    """

    product: str
    sm: int
    memory_mib: int
    bandwidth_gb_s: int
    nvlink: int = 1


@dataclass(frozen=True, slots=True)
class Pool:
    """Nodes that are alike for a model: same GPU product, slice and taints; the CPU pool has no GPU.

    `memory_mib` is one GPU's memory as its label says (for the CPU pool: the largest node's allocatable memory);
    0 and an `sm` of None mean that no label told. Free counts are what pods left over on nodes that take pods now.
    """

    name: str
    gpu_product: str | None
    gpus_per_node: int
    nodes: int
    free_gpus: int
    max_free_on_one_node: int
    sm: int | None
    memory_mib: int
    node_selector: tuple[tuple[str, str], ...] = ()
    taints: tuple[tuple[str, str, str], ...] = ()
    """Key, value and effect of the taints that pods for this pool have to tolerate."""
    mig: str | None = None
    resource: str | None = None
    """The extended resource that a pod requests, None for the CPU pool."""
    shared: bool = False
    """Whether several pods share one GPU's memory (time slicing or MPS)."""

    @property
    def is_cpu(self) -> bool:
        """Whether the pool is the one without GPUs."""
        return self.gpu_product is None


@dataclass(frozen=True, slots=True)
class Toolchain:
    """An image of the chart's list, and what is in it.

    `examples` is the folder of TensorRT-LLM's examples inside the image, `model_optimizer` the one with `hf_ptq.py`
    of NVIDIA's Model-Optimizer; None means that the image lacks it.
    """

    name: str
    image: str
    backends: tuple[Backend, ...]
    tensorrt_llm: str | None = None
    triton: str | None = None
    gpu: bool = False
    examples: str = "/app/examples"
    model_optimizer: str | None = None

    @property
    def builds_engines(self) -> bool:
        """Whether the image has the `trtllm-build` that recipes are written for: that of the 1.2 line."""
        return bool(self.tensorrt_llm and re.match(r"1\.2(\.|$)", self.tensorrt_llm))


@dataclass(frozen=True, slots=True)
class Device:
    """What a pool's GPU offers one rank, after label and table were joined."""

    sm: int
    memory_mib: int
    nvlink: int
    bandwidth_gb_s: int = 0
    """Of its memory; 0 where unknown."""


def gpu_of(product: str, gpus: Iterable[Gpu]) -> Gpu | None:
    """Return the table's entry for a product label, without the suffixes for slices and sharing."""
    bare = re.sub(r"(-MIG-.*|-SHARED)$", "", product)
    return next((gpu for gpu in gpus if gpu.product == bare), None)


def device_of(pool: Pool, gpus: Iterable[Gpu]) -> Device | None:
    """Return what one GPU of the pool offers, None when neither its labels nor the table tell.

    A known GPU's memory is the table's: labels differ by a few hundred MiB between drivers, and limits that follow
    them would name a new engine after a driver's update. An unknown one's label is rounded down to 512 MiB.
    """
    known = gpu_of(pool.gpu_product or "", gpus)
    sm = pool.sm or (known.sm if known else None)
    labelled = pool.memory_mib // 512 * 512
    memory = labelled if pool.mig or known is None else known.memory_mib
    if not sm or not memory:
        return None
    if known is None or pool.mig:
        return Device(sm, memory, 1)
    return Device(sm, memory, known.nvlink, known.bandwidth_gb_s)
