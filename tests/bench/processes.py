"""Processes that are measured: started on a core, their CPU time and memory, ended again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.gateway.rig import until

PROXY_CORE, LOAD_CORE = "0", "1"


@dataclass
class Proxy:
    """A running proxy: where it listens, which processes carry its traffic, and which work aside."""

    name: str
    port: int
    pids: list[int]
    key: str = "-"
    model: str = "t/bench"
    aside: list[int] = field(default_factory=list)
    most_streams: int = 1000
    """What a core carries of it: with more its queue would be measured."""


def cpu(pids: list[int]) -> float:
    """Return CPU seconds of processes and their children so far."""
    return sum(_cpu(pid) for pid in _family(pids))


def _family(pids: list[int]) -> set[int]:
    """Return processes with all that they started."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, open_ones = set(), list(pids)
    while open_ones:
        pid = open_ones.pop()
        found.add(pid)
        open_ones += parents.get(pid, [])
    return found


def _cpu(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the process' own CPU clock, in nanoseconds
    except OSError:
        return 0.0


def megabytes(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} tells no memory")


def built(name: str, folder: Path) -> str:
    binary = folder / name
    source = str(Path(__file__).parent / "load" / f"{name}.c")
    subprocess.run(["cc", "-O2", "-o", str(binary), source], check=True)
    return str(binary)


@asynccontextmanager
async def process(*command: str, core: str, env: dict[str, str] | None = None) -> AsyncIterator[int]:
    """Run a program on one core; end it, and nothing else, afterwards."""
    whole = {**os.environ, **(env or {})}
    running = await asyncio.create_subprocess_exec(
        "taskset", "-c", core, *command, env=whole, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield running.pid
    finally:
        if running.returncode is None:
            running.terminate()
            try:
                await asyncio.wait_for(running.wait(), 20)
            except TimeoutError:
                running.kill()
                await running.wait()


async def answers(port: int, key: str = "-", seconds: float = 120) -> None:
    """Wait until a proxy answers a request with 200."""
    headers = {} if key == "-" else {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def good() -> bool:
            try:
                body = {"model": "t/bench", "messages": [{"role": "user", "content": "x"}]}
                async with session.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body) as response:
                    return response.status == 200
            except (aiohttp.ClientError, OSError):
                return False

        await until(good, f"port {port} answers", seconds)
