"""Measures what serving costs per token, against Triton's own `generate_stream`: `make bench-serving`.

A paced engine computes nothing, so what is left is Triton, the Python stub with our model, and the frontend. The
yardstick is the simplest decoupled model, whose every token is a response. Each load is run several times, the two
in turns, because a shared machine is noisy; medians are told. Writes docs/bench/serving.json and serving.svg.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "engines"))
sys.path.insert(0, str(Path(__file__).parents[2]))

from local.wheels import installed
from tests.bench.serving_drawing import draw
from tests.bench.serving_gateway import envoy_before
from tests.engines.serving import Pod, free_ports, pod, status, write_engine

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "bench"
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
TOKEN = re.compile(rb" (\d+)@(\d+)")
WARM_UP = 5


@dataclass(frozen=True)
class Load:
    """Streams at once, tokens per second of each, tokens in all of each, and how often it is measured.

    The streams of a load are out of step with each other, or share the steps of one batch as in a real engine.
    """

    streams: int
    rate: float
    tokens: int
    rounds: int
    in_step: bool = False


LOADS = (
    Load(50, 100, 1000, 3),
    Load(500, 4, 40, 3),
    Load(50, 100, 500, 1, in_step=True),
    Load(10, 100, 500, 1),
    Load(1, 20, 200, 1),
)


@dataclass
class Heard:
    """What a client got, with the time of each piece."""

    began: int
    pieces: list[tuple[int, bytes]] = field(default_factory=list)


class Client(asyncio.Protocol):
    """Posts one request and keeps what comes: cheaper than an HTTP client, as it must not be what is measured."""

    def __init__(self, request: bytes, heard: Heard, ended: asyncio.Future[None]) -> None:
        self.request, self.heard, self.ended = request, heard, ended

    def connection_made(self, transport: Any) -> None:
        """Post."""
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Keep."""
        self.heard.pieces.append((time.monotonic_ns(), data))
        if data.endswith(b"\r\n0\r\n\r\n") or data == b"0\r\n\r\n":  # the last chunk
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        if not self.ended.done():
            self.ended.set_result(None)


@dataclass
class System:
    """Something that streams: where, how to ask it, and the processes that it consists of."""

    name: str
    port: int
    path: str
    body: Callable[[int], dict[str, Any]]
    processes: dict[str, int]


async def listen(system: System, load: Load) -> list[Heard]:
    """Run the load's streams, begun within one of their periods; return what each client heard."""
    loop = asyncio.get_running_loop()
    data = json.dumps(system.body(load.tokens)).encode()
    head = f"POST {system.path} HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data

    async def one(number: int) -> Heard:
        await asyncio.sleep(number / load.streams / load.rate)
        heard, ended = Heard(time.monotonic_ns()), loop.create_future()
        await loop.create_connection(lambda: Client(request, heard, ended), "127.0.0.1", system.port)
        await ended
        return heard

    return await asyncio.gather(*[one(number) for number in range(load.streams)])


def cpu_seconds(pid: int) -> float:
    """Return user plus system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid: int) -> int:
    """Return resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def tokens_of(heard: Heard) -> list[tuple[int, float]]:
    """Return number and latency (ms) of each token; a token cut between two pieces came with the later one."""
    found, rest = [], b""
    for at, piece in heard.pieces:
        data = rest + piece
        complete = data.rfind(b"\n\n") + 2
        rest = data[complete:] if complete > 1 else data
        if complete > 1:
            found += [(int(n), (at - int(made)) / 1e6) for n, made in TOKEN.findall(data[:complete])]
    return found


def measure(system: System, load: Load) -> dict[str, Any]:
    """Run a load once; raises AssertionError when a token was lost or came out of order."""
    asyncio.run(listen(system, Load(WARM_UP, 100, 20, 1)))
    before = {name: cpu_seconds(pid) for name, pid in system.processes.items()}
    began = time.monotonic()
    heard = asyncio.run(listen(system, load))
    seconds = time.monotonic() - began
    total = load.streams * load.tokens
    spent = {name: 1e6 * (cpu_seconds(pid) - before[name]) / total for name, pid in system.processes.items()}
    latencies, first = [], []
    for one in heard:
        tokens = tokens_of(one)
        assert [number for number, _ in tokens] == list(range(1, load.tokens + 1)), (system.name, tokens[-3:])
        latencies += [late for _, late in tokens]
        first.append((one.pieces[0][0] - one.began) / 1e6)
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "us_per_token": {name: round(us, 1) for name, us in spent.items()},
        "total_us_per_token": round(sum(spent.values()), 1),
        "latency_ms": {"p50": round(cuts[49], 2), "p99": round(cuts[98], 2)},
        "first_token_ms": {"p50": round(statistics.median(first), 2), "max": round(max(first), 2)},
        "seconds": round(seconds, 1),
        "memory_mb": {name: round(memory(pid) / 2**20) for name, pid in system.processes.items()},
    }


@contextmanager
def ours(folder: Path, load: Load) -> Iterator[System]:
    """Our pod."""
    environment = {"AX_DRAIN_GRACE": "0", "AX_ENGINE_ADAPTOR": "paced_engine"}
    slots = max(load.streams, WARM_UP)
    options: dict[str, Any] = {"slots": slots, "engine_args": {"tokens_per_second": load.rate, "in_step": load.in_step}}
    with pod(folder, environment, **options) as one:
        write_engine(one.store, weights=False)
        one.start()
        yield System("ours", one.frontend_ports[0], "/v1/completions", our_body, processes(one))


def processes(one: Pod) -> dict[str, int]:
    """Return the pod's processes by name."""
    assert one.triton
    assert one.frontend
    return {"triton": one.triton.popen.pid, "stub": one.stub(), "frontend": one.frontend.popen.pid}


@contextmanager
def gateway(folder: Path, load: Load) -> Iterator[System]:
    """Our pod behind the gateway: the whole way of a request that stays in the cluster."""
    with (
        ours(folder, load) as system,
        envoy_before(folder / "gateway", "demo/smollm2", system.port) as (port, processes),
    ):
        yield System("gateway", port, system.path, envoy_body, {**system.processes, **processes})


def envoy_body(tokens: int) -> dict[str, Any]:
    """Return the same by the name that the gateway knows."""
    return {**our_body(tokens), "model": "demo/smollm2"}


def our_body(tokens: int) -> dict[str, Any]:
    """Return a streaming completion."""
    return {"model": "smollm2", "prompt": "x", "max_tokens": tokens, "stream": True}


@contextmanager
def plain(folder: Path, load: Load) -> Iterator[System]:
    """Triton's own generate_stream."""
    folder.mkdir()
    ports = free_ports(3)
    paths = [str(ROOT / "engines"), str(installed("triton")), str(ROOT / "tests" / "engines")]
    command = [str(Path(sys.base_prefix) / "bin" / "python3"), "-s", str(ROOT / "tests/bench/plain_model.py")]
    arguments = [str(folder), ",".join(map(str, ports)), str(load.streams), str(load.rate), str(int(load.in_step))]
    with (folder / "log").open("wb") as log:
        triton = subprocess.Popen(
            [*command, *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=log,
            stderr=log,
        )
    try:
        end = time.monotonic() + 60
        while status(f"http://127.0.0.1:{ports[0]}/v2/health/ready") != 200:
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.1)
        stub = int(Path(f"/proc/{triton.pid}/task/{triton.pid}/children").read_text().split()[0])
        path = "/v2/models/plain/generate_stream"
        yield System("triton", ports[0], path, lambda n: {"COUNT": str(n)}, {"triton": triton.pid, "stub": stub})
    finally:
        triton.terminate()
        triton.wait(60)


def middle(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the run with the median cost."""
    return sorted(runs, key=lambda run: run["total_us_per_token"])[len(runs) // 2]


def main() -> None:
    """Measure every load, print and write the results."""
    results: list[dict[str, Any]] = []
    busy = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        for number, load in enumerate(LOADS):
            makers = (plain, ours, gateway) if load.rounds > 1 else (plain, ours)
            runs: dict[str, list[dict[str, Any]]] = {}
            for turn in range(load.rounds):
                for make in makers:
                    with make(Path(folder) / f"{make.__name__}-{number}-{turn}", load) as system:
                        runs.setdefault(system.name, []).append(measure(system, load))
            best = {name: middle(some) for name, some in runs.items()}
            yardstick = best["triton"]["total_us_per_token"]
            ratios = {name: round(one["total_us_per_token"] / yardstick, 2) for name, one in best.items()}
            results.append({"load": asdict(load), **best, "ratios": ratios, "runs": runs})
            step = ", in step" if load.in_step else ""
            print(f"{load.streams} streams, {load.rate:g} tokens/s each{step}: ratios {ratios}")
            for name, one in best.items():
                print(f"  {name:7} {one['total_us_per_token']:6.1f} us/token {one['us_per_token']} "
                      f"latency {one['latency_ms']} ms, first token {one['first_token_ms']} ms")  # fmt: skip
    OUT.mkdir(parents=True, exist_ok=True)
    told = {"cpus": os.cpu_count(), "load_average_before": busy, "results": results}
    (OUT / "serving.json").write_text(json.dumps(told, indent=1) + "\n")
    draw(results, OUT / "serving.svg")


if __name__ == "__main__":
    main()
