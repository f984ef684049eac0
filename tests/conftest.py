"""For all tests: quick ones first, then those with pods beside those that wait for processes; soak only when asked for.

Run in parallel (`-n`), tests are spread by file; all tests with pods share one cluster, and those on a control plane
another, hence one process for each of these two.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

SLOW = ("gateway", "engines", "local")
"""Folders whose tests start processes and wait for them; beside them runs what needs a cluster."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the run so that a mistake shows early; leave out what AX_SOAK=1 asks for, without calling it skipped."""
    items.sort(key=_turn)
    if os.environ.get("AX_SOAK") == "1":
        return
    soak = [item for item in items if "soak" in item.keywords]
    if soak:
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if "soak" not in item.keywords]


def _turn(item: pytest.Item) -> int:
    if "e2e" in item.keywords:
        return 1
    if "cluster" in item.keywords:
        return 2
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    return 3 if folder in SLOW else 0


class ByCluster(LoadScopeScheduling):
    """Keeps the tests of a file together, and those that share a cluster."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        folder, name = Path(path).parts[-2:]
        if folder == "e2e" or name == "test_local_node.py":
            return "e2e"
        return "cluster" if folder == "cluster" or name == "test_local_plane.py" else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByCluster:
    """Return what spreads the tests over processes."""
    return ByCluster(config, log)
