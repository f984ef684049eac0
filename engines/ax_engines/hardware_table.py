"""Loads the table of GPUs that lies beside this module."""

from __future__ import annotations

from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from ax_engines.hardware import Gpu


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    product: str
    sm: int = Field(ge=50, le=200)
    memory_mib: int = Field(alias="memoryMib", gt=0)
    bandwidth: int = Field(gt=0)
    nvlink: int = Field(ge=1)
    seen: bool


def load_gpus() -> tuple[Gpu, ...]:
    """Return the table of `gpus.yaml`; raises pydantic.ValidationError naming the row that is wrong."""
    raw = yaml.safe_load(resources.files("ax_engines").joinpath("gpus.yaml").read_text(encoding="utf-8"))
    rows = TypeAdapter(list[_Row]).validate_python(raw["gpus"])
    return tuple(Gpu(r.product, r.sm, r.memory_mib, r.bandwidth, r.nvlink) for r in rows)
