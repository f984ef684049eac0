"""Sweep removes exactly what is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ax_engines.build.__main__ import run
from ax_engines.build.places import Places
from ax_engines.tasks import SweepTask
from tests.engines.model_files import tree


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places.below(tmp_path)
    for name in ("a-0000000001", "b-0000000002", ".staging/a-0000000001", ".staging/b-0000000002"):
        (made.store / name).mkdir(parents=True)
        (made.store / name / "f").write_bytes(b"12345")
    return made


def sweep(places: Places, *names: str) -> tuple[bool, str, int]:
    result = run("sweep", SweepTask(remove=names).to_json(), places)
    return result.ok, result.reason, result.bytes


def test_named_artifacts_and_their_staging_go_and_others_stay(places: Places) -> None:
    assert sweep(places, "a-0000000001") == (True, "Swept", 10)
    assert tree(places.store) == {"b-0000000002/f": b"12345", ".staging/b-0000000002/f": b"12345"}


def test_what_is_gone_already_is_success(places: Places) -> None:
    sweep(places, "a-0000000001")
    assert sweep(places, "a-0000000001", "never-0000000009") == (True, "Swept", 0)


def test_what_a_killed_sweep_left_is_removed(places: Places) -> None:
    (places.store / "a-0000000001").rename(places.store / ".staging" / "a-0000000001.removed")
    assert sweep(places, "a-0000000001") == (True, "Swept", 10)
    assert not (places.store / ".staging" / "a-0000000001.removed").exists()


@pytest.mark.parametrize("name", ["..", ".", "", "/", "a/../b-0000000002", "../outside", ".staging", "A", "a\n", "-a"])
def test_odd_names_are_refused_before_anything_is_removed(places: Places, name: str) -> None:
    before = tree(places.store)
    assert sweep(places, "a-0000000001", name) == (False, "TaskInvalid", 0)
    assert tree(places.store) == before


def test_links_are_removed_and_not_followed(places: Places) -> None:
    outside = places.store.parent / "outside"
    outside.mkdir()
    (outside / "keep").write_bytes(b"x")
    (places.store / "c-0000000003").symlink_to(outside)
    (places.store / "a-0000000001" / "link").symlink_to(outside)
    assert sweep(places, "a-0000000001", "c-0000000003")[0]
    assert tree(outside) == {"keep": b"x"}
    assert not (places.store / "c-0000000003").is_symlink()
