"""For all tests: quick ones first, then those on a control plane, then those with pods; soak only when asked for."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the run so that a mistake shows early; leave out what AX_SOAK=1 asks for, without calling it skipped."""
    items.sort(key=lambda item: ("e2e" in item.keywords, "cluster" in item.keywords))
    if os.environ.get("AX_SOAK") == "1":
        return
    soak = [item for item in items if "soak" in item.keywords]
    if soak:
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if "soak" not in item.keywords]
