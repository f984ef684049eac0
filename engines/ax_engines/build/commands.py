"""Runs a phase's commands in the staging folder: quantizers, converters and compilers of the toolchain's image.

Their output is passed on line by line, read for progress, and its end kept for the error message. A command that
ended well is not run again by a Job that was killed afterwards. What a compiler measured about a GPU (the timing
cache) is read from and kept in the store, in one step, so that a kill leaves the old one.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import IO

from ax_engines.build import store
from ax_engines.build.calibration import check_calibration
from ax_engines.build.errors import BuildError
from ax_engines.build.places import Places
from ax_engines.build.progress import Tracker
from ax_engines.contract import (
    CHECKPOINT,
    COMPILED,
    FETCHED,
    TIMING_CACHES,
    ArtifactSpec,
    PhaseName,
    canonical,
    short_hash,
)
from ax_engines.tasks import TASK_ENV

logger = logging.getLogger(__name__)

TAIL_LINES = 60
LINE_BYTES = 4_000
STOP_SECONDS = 10.0
DONE = "commands.json"
_OUTPUT_FLAGS = ("--output_dir", "--export_path")
_CACHE_FLAG = "--output_timing_cache"
_CACHE_DRAFT = "timing.cache"
# tqdm, which all of these tools draw their bars with: ` 45%|████▌     | 18/40 [00:12<00:15, …]`.
_BAR = re.compile(r"(\d{1,3})%\|")
_CAUSES = (
    (re.compile(r"no space left on device", re.I), "StoreFull", "the store became full: enlarge its claim"),
    (
        re.compile(r"out of ?memory|OutOfMemory|cudaErrorMemoryAllocation", re.I),
        "OutOfMemory",
        "the GPUs' memory did not suffice: use more ranks (engine.parallelism) or lower engine.limits",
    ),
    (
        re.compile(r"no CUDA-capable device|NVIDIA driver on your system|CUDA driver version is insufficient", re.I),
        "NoGpu",
        "the container has no usable GPU: check the node's driver and device plugin",
    ),
)


def run_commands(phase: PhaseName, spec: ArtifactSpec, staging: Path, places: Places, tracker: Tracker) -> int:
    """Run the phase's commands in order and return how many ran; BuildError says what the failing one said."""
    commands = tuple(c for p in spec.phases if p.name == phase for c in p.commands)
    if not (staging / FETCHED).is_dir():
        raise BuildError("OutputMissing", f"{phase} found no fetched files: run the fetch phase before")
    if spec.calibration:
        check_calibration(spec.calibration, places.calibration)
    done = _read_done(staging)
    tracker.expect(len(commands))
    ran = 0
    for number, command in enumerate(commands):
        key = short_hash(command)
        if key not in done:
            _run(command, spec, staging, tracker, number)
            done.append(key)
            store.write_durably(staging / DONE, canonical(done))
            ran += 1
        tracker.reach(number + 1, command[0])
    return ran


def _read_done(staging: Path) -> list[str]:
    try:
        raw = json.loads((staging / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [str(key) for key in raw] if isinstance(raw, list) else []


def _run(command: tuple[str, ...], spec: ArtifactSpec, staging: Path, tracker: Tracker, number: int) -> None:
    """Run one command; what an earlier, killed run of it wrote is removed first."""
    outputs = [staging / value for flag, value in pairwise(command) if flag in _OUTPUT_FLAGS and _is_output(value)]
    for folder in outputs:
        store.remove(folder)
    argv, cache = _with_cache(command, staging)
    logger.info("Started command", extra={"command": " ".join(argv)})
    try:
        process = subprocess.Popen(
            argv,
            cwd=staging,
            env=_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its workers can be ended with it
        )
    except OSError as error:
        raise BuildError(
            "CommandMissing",
            f"{argv[0]} cannot be started ({error.strerror}): toolchain {spec.toolchain} does not have it; choose "
            "another engine.toolchain, or correct the chart's list",
        ) from error
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        assert process.stdout is not None  # noqa: S101  asked for above
        _follow(process.stdout, tail, tracker, number)
        status = process.wait()
    finally:
        _end(process)
    if status != 0:
        raise _failure(argv, status, tail)
    for folder in outputs:
        if not folder.is_dir() or not any(folder.iterdir()):
            raise BuildError("OutputMissing", f"{_name(argv)} ended well but wrote nothing to {folder.name}/")
    if cache and (staging / _CACHE_DRAFT).is_file():
        (staging / _CACHE_DRAFT).replace(cache)
        logger.info("Kept timing cache", extra={"file": cache.name})


def _is_output(value: str) -> bool:
    return value in (CHECKPOINT, COMPILED)


def _with_cache(command: tuple[str, ...], staging: Path) -> tuple[list[str], Path | None]:
    """Let the command write its timing cache into the staging folder; returns where it goes when all is well."""
    argv = list(command)
    for index, (flag, value) in enumerate(pairwise(command)):
        if flag == _CACHE_FLAG and Path(value).parent.name == TIMING_CACHES:
            kept = (staging / value).resolve()
            kept.parent.mkdir(exist_ok=True)
            argv[index + 1] = _CACHE_DRAFT
            return argv, kept
    return argv, None


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    """The commands work on what was fetched: no hub is asked, and output comes line by line."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return {k: v for k, v in env.items() if k != TASK_ENV} | offline | {"PYTHONUNBUFFERED": "1"}


def _follow(output: IO[bytes], tail: deque[str], tracker: Tracker, number: int) -> None:
    """Pass the output on; bars, which are redrawn with carriage returns, become progress instead of lines."""
    bars = _Bars()
    for line, redrawn in _lines(output):
        bar = _BAR.search(line)
        if bar:
            tracker.reach(number + bars.share(int(bar[1])), line.strip())
        if line.strip() and not (bar and redrawn):
            tail.append(line.strip())
            sys.stdout.write(line.rstrip() + "\n")
            sys.stdout.flush()
            if not bar:
                tracker.reach(0, line.strip())


def _lines(output: IO[bytes]) -> Iterator[tuple[str, bool]]:
    """Yield lines with whether a carriage return ended them; a line without an end is cut at LINE_BYTES."""
    rest = b""
    while data := os.read(output.fileno(), 65_536):
        *whole, rest = re.split(rb"(?<=[\r\n])", rest + data)
        if len(rest) > LINE_BYTES:
            whole, rest = [*whole, rest], b""
        for part in whole:
            yield part[:LINE_BYTES].decode("utf-8", "replace").rstrip("\r\n"), part.endswith(b"\r")
    if rest:
        yield rest.decode("utf-8", "replace"), False


class _Bars:
    """A command draws one bar after the other and does not say how many: each takes half of what is left."""

    def __init__(self) -> None:
        self._ahead = 1.0
        self._last = 0

    def share(self, percent: int) -> float:
        """Return the share of the command that is done, always below 1."""
        percent = min(percent, 100)
        if percent < self._last:  # the next bar
            self._ahead /= 2
        self._last = percent
        return (1 - self._ahead) + self._ahead / 2 * percent / 100


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command that still runs, with all it started: this program is being stopped, or reading failed."""
    if process.stdout:
        process.stdout.close()
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("Waited for command to stop", extra={"pid": process.pid, "signal": number.name})
        else:
            break
    with suppress(ProcessLookupError):  # nothing of its group is left
        os.killpg(process.pid, signal.SIGKILL)


def _name(argv: list[str]) -> str:
    """The program's name, or its script's."""
    script = next((a for a in argv[1:2] if a.endswith(".py")), argv[0])
    return Path(script).name


def _failure(argv: list[str], status: int, tail: deque[str]) -> BuildError:
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    said = " | ".join(tail)
    for pattern, reason, advice in _CAUSES:
        if pattern.search(said):
            return BuildError(reason, f"{_name(argv)} {how}: {advice}; it said: {_last(tail)}")
    if status == -signal.SIGKILL:
        advice = "most likely the container's memory did not suffice: raise it, or use more ranks"
        return BuildError("OutOfMemory", f"{_name(argv)} {how}: {advice}; it said: {_last(tail)}")
    return BuildError("CommandFailed", f"{_name(argv)} {how}; it said: {_last(tail)}")


def _last(tail: deque[str], limit: int = 900) -> str:
    """The end of what was said, from the first line that tells of an error if there is one."""
    lines = list(tail)
    first = next((i for i, line in enumerate(lines) if re.search(r"error|exception", line, re.I)), None)
    told = " | ".join(lines[first:] if first is not None else lines[-8:]) or "nothing"
    return told if len(told) <= limit else told[:200] + " … " + told[-(limit - 200) :]
