"""What a recipe is made from and what it says: wishes, recipe, refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ax_engines.contract import ArtifactSpec, Backend, Calibration, Quantization
from ax_engines.memory import MemoryBudget

KvDtype = Literal["auto", "fp8", "int8"]
RefusalReason = Literal["NoRecipeForGPU", "NoSuchPool", "ToolchainIncompatible", "InvalidSpec", "UnknownModel"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the author of a model asked for; None and `auto` leave the choice to the rules."""

    backend: Literal["auto"] | Backend = "auto"
    quantization: Literal["auto"] | Quantization = "auto"
    prefer: Literal["throughput", "quality"] = "throughput"
    calibration: Calibration | None = None
    toolchain: str | None = None
    tensor: int | None = None
    pipeline: int | None = None
    max_batch_size: int | None = None
    max_input_tokens: int | None = None
    max_total_tokens: int | None = None
    kv_dtype: KvDtype = "auto"
    free_memory_fraction: float | None = None
    gpu: str = "auto"
    trust_remote_code: bool = False
    cpu: str | None = None
    memory: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """An option that was looked at and not taken, and why, in one line."""

    option: str
    reason: str


@dataclass(frozen=True)
class Recipe:
    """How to make and serve one model: artifact, ranks, limits, arguments, requests, budget.

    `engine_args` are the backend's constructor arguments; `capacity_per_replica` is how many requests one replica
    carries at once before they wait; `build_gpus` may exceed `gpus`, since calibration loads unquantized weights.
    """

    backend: Backend
    quantization: Quantization
    toolchain: str
    pool: str
    gpu_product: str | None
    gpus: int
    tensor: int
    pipeline: int
    artifact: ArtifactSpec
    slots: int
    context_length: int
    threads: int
    engine_args: Mapping[str, Any]
    cpu_request: str
    memory_request: str
    build_cpu_request: str
    build_memory_request: str
    memory: MemoryBudget
    capacity_per_replica: int
    trust_remote_code: bool = False
    notes: tuple[str, ...] = ()
    rejected: tuple[Rejected, ...] = field(default=())

    @property
    def build_gpus(self) -> int:
        """GPUs that the build Job needs, all on one node; 0 when it only downloads."""
        return self.artifact.gpus

    @property
    def commands(self) -> tuple[tuple[str, ...], ...]:
        """Every command of the build in order, program first."""
        return tuple(command for phase in self.artifact.phases for command in phase.commands)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no recipe; `message` says what to change."""

    reason: RefusalReason
    message: str
    rejected: tuple[Rejected, ...] = ()


class RefusedError(Exception):
    """Carries a refusal from the rule that found it to `recipe`, which returns it."""

    def __init__(self, reason: RefusalReason, message: str, rejected: tuple[Rejected, ...] = ()) -> None:
        super().__init__(message)
        self.refusal = Refusal(reason, message, rejected)
