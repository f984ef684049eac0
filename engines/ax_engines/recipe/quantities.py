"""Kubernetes quantities, as far as requests need them."""

from __future__ import annotations

import re


def cpu_cores(quantity: str) -> float | None:
    """Return the cores of a quantity such as `250m` or `2`, None for what is not an amount of CPU."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(m?)", quantity)
    if match is None:
        return None
    return float(match[1]) / 1000 if match[2] else float(match[1])


def mebibytes(count: int) -> str:
    """Return a memory quantity of `count` MiB."""
    return f"{count}Mi"
