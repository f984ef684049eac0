"""From a model, a machine and wishes to a recipe: which artifact, which GPUs, which commands. Pure.

Read `types` first (what goes in and out), then `selection` (the rules), then one file per backend.
"""

from __future__ import annotations

from ax_engines.hardware import Gpu, Pool, Toolchain
from ax_engines.recipe.selection import recipe
from ax_engines.recipe.types import KvDtype, Recipe, Refusal, RefusalReason, Rejected, Wishes

__all__ = [
    "Gpu",
    "KvDtype",
    "Pool",
    "Recipe",
    "Refusal",
    "RefusalReason",
    "Rejected",
    "Toolchain",
    "Wishes",
    "recipe",
]
