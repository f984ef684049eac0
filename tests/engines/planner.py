"""The planner as tests ask it: models of the catalogue and a user's own one, on GPUs of the table."""

from __future__ import annotations

from functools import cache
from typing import Any

from ax_engines import catalogue
from ax_engines.contract import Calibration, HuggingFaceSource, ResolvedSource, Source
from ax_engines.hardware import Toolchain
from ax_engines.hardware_table import load_gpus
from ax_engines.memory import weights_bytes
from ax_engines.plan_cli import DEFAULT_TOOLCHAINS, Setup
from ax_engines.recipe import Recipe, Refusal, Wishes, recipe

H100, A100, L40S, B200 = "NVIDIA-H100-80GB-HBM3", "NVIDIA-A100-SXM4-80GB", "NVIDIA-L40S", "NVIDIA-B200"
GPUS = load_gpus()
ENTRIES = catalogue.load()
TEXTS = Calibration(claim_name="texts")
COMMIT = "5a" * 20
NEXT = Toolchain("27.01", "image", ("tensorrt", "pytorch"), "1.4.0", gpu=True)


@cache
def setup(per_node: int = 8) -> Setup:
    """Return the catalogue, the table and the toolchains of today, with nodes of so many GPUs."""
    return Setup(ENTRIES, GPUS, DEFAULT_TOOLCHAINS, per_node)


def made(found: Recipe | Refusal) -> Recipe:
    """Return the recipe; fails with the refusal."""
    assert isinstance(found, Recipe), found
    return found


def refused(found: Recipe | Refusal) -> Refusal:
    """Return the refusal; fails with the recipe."""
    assert isinstance(found, Refusal), found
    return found


def plan(model: str, wishes: Wishes, *products: str, per_node: int = 8) -> Recipe | Refusal:
    """Plan a model of the catalogue on pools of these GPUs, H100s if none are named."""
    return setup(per_node).plan(model, products or (H100,), wishes)


def plan_config(wishes: Wishes, toolchains: tuple[Toolchain, ...] = DEFAULT_TOOLCHAINS, **changes: Any) -> Any:
    """Plan a user's own model on H100s: A.X 4.0 Light with a changed config, without a catalogue entry."""
    config = ENTRIES["A.X-4.0-Light"].assumed_config().model_copy(update=changes)
    resolved = ResolvedSource(
        revision=COMMIT, format="safetensors", files=9, bytes=weights_bytes(config), config=config
    )
    source = Source(hugging_face=HuggingFaceSource(repo="our/model"))
    return recipe(source, resolved, None, wishes, (setup().pool(H100),), toolchains, GPUS)


def reasons(found: Recipe | Refusal) -> dict[str, str]:
    """Return why each option was not taken."""
    return {r.option: r.reason for r in found.rejected}
