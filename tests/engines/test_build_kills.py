"""Builds that are killed again and again, as nodes that go kill them; AX_SOAK=1 kills twenty times as many."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ax_engines.build import store
from ax_engines.build.places import Places
from ax_engines.contract import ArtifactSpec
from tests.engines.model_files import build_task, claim_source, resolved, spec_of, tree, write_folder, write_safetensors
from tests.engines.test_build_commands import STANDINS, planned

SOAK = os.environ.get("AX_SOAK") == "1"
pytestmark = [pytest.mark.soak] if SOAK else []
BUILDS = 20 if SOAK else 1
KILLS = 2
"""Attempts for each phase of a build."""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A claim with a model, an empty store, and stand-ins for the compiler's programs."""
    made = Places.below(tmp_path)
    made.store.mkdir(parents=True)
    folder = write_folder(made.source / "model", shards=3)
    for shard in folder.glob("*.safetensors"):
        write_safetensors(shard, rows=40_000)
    monkeypatch.setenv("PATH", f"{STANDINS / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    return made


def runs_out(places: Places, spec: ArtifactSpec, phase: str, seconds: float | None) -> bool:
    """Run a phase as its container does; kill it, with all that it started, when the time is over."""
    log = places.store.parent / "log"
    with log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "ax_engines", phase],
            env=os.environ | {"AX_ROOT": str(log.parent), "AX_PROGRESS_PORT": "0", "AX_TASK": build_task(spec)},
            stdout=out,
            stderr=out,
        )
    try:
        assert child.wait(seconds) == 0, log.read_text()
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGSTOP)  # so that it starts nothing more
        programs = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        child.kill()
        child.wait()
        for program in programs:
            with suppress(ProcessLookupError):  # it ended by itself
                os.kill(int(program), signal.SIGKILL)
        return False
    return True


@pytest.mark.parametrize("compiled", [False, True], ids=["downloaded", "compiled"])
def test_killed_at_any_moment_and_run_again_it_ends_the_same(places: Places, compiled: bool) -> None:
    spec = planned(places) if compiled else spec_of(resolved(places), claim_source())
    chance, kills, whole = random.Random(7), 0, dict[str, float]()
    for phase in spec.phases:
        began = time.monotonic()
        assert runs_out(places, spec, phase.name, None)
        whole[phase.name] = time.monotonic() - began
    files = set(tree(places.final(spec.name)))
    for _ in range(BUILDS):
        shutil.rmtree(places.final(spec.name))
        for phase in spec.phases:
            for _ in range(KILLS):
                kills += not runs_out(places, spec, phase.name, chance.uniform(0, whole[phase.name]))
                half = store.read_manifest(places.final(spec.name))
                assert half is None or store.published(places, spec.name, spec)
            assert runs_out(places, spec, phase.name, None)
        assert set(tree(places.final(spec.name))) == files
        assert store.published(places, spec.name, spec)
        assert {p.name for p in places.store.iterdir()} - {".timing"} == {".staging", spec.name}
        assert not list((places.store / ".staging").iterdir())
    assert kills
