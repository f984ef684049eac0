"""What is measured of proxies, and of our gateway alone."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.processes import LOAD_CORE, Proxy, cpu, megabytes
from tests.bench.proxies import KEY, gateway, litellm, nginx, ours, plain_envoy, sglang_router, vllm_router
from tests.gateway.cluster import endpoint_slice
from tests.gateway.replica import Replica
from tests.gateway.rig import Rig, until

ROUNDS, SECONDS = 3, 3
TOKENS, INTERVAL_US = 100, 40_000
Rounds = dict[str, list[dict[str, float]]]
"""What the client saw and the proxy cost, by measure, for each round."""


@dataclass(frozen=True)
class Measure:
    """One load: unary requests, or streams, over so many connections, and what is told of it."""

    name: str
    connections: int
    seconds: int = SECONDS
    stream: bool = True
    cost: str = "us_per_token"


MEASURES = (
    Measure("unary", 16, seconds=2, stream=False, cost="us_per_request"),
    Measure("streams_20", 20),
    Measure("streams_100", 100, seconds=5),  # long enough that every stream begins once more
    Measure("streams_500", 500),
)


class Load:
    """The client, on its own core."""

    def __init__(self, binary: str) -> None:
        self._binary = binary

    async def run(
        self, proxy: Proxy, connections: int, *, stream: bool, rate: float = 0, seconds: int = SECONDS
    ) -> Any:
        """Return what the client saw, with the proxy's CPU microseconds per request and token."""
        words = [proxy.port, connections, seconds, 1000, proxy.model, int(stream), rate, proxy.key]
        client = await asyncio.create_subprocess_exec(
            "taskset", "-c", LOAD_CORE, self._binary, *map(str, words), stdout=asyncio.subprocess.PIPE
        )
        await asyncio.sleep(1.0)  # the client's own warm-up, which it does not count either
        before, aside = cpu(proxy.pids), cpu(proxy.aside)
        printed, _ = await client.communicate()
        spent = (cpu(proxy.pids) - before) * 1e6
        seen = json.loads(printed)
        return seen | {
            "us_per_request": spent / max(1, seen["requests"]),
            "us_per_token": spent / max(1, seen["tokens"]),
            "aside_cores": (cpu(proxy.aside) - aside) / seconds,
        }


async def compare(upstream: int, load: Load, folder: Path) -> dict[str, Any]:
    """Return all rounds per proxy and measure, in turns, their medians, and the proxies that could not be run."""
    full = {"client_keys": "required", "accounts": "on", "access_log": "stdout"}
    wanted: dict[str, Callable[[], Any]] = {
        "nginx": lambda: nginx(upstream, folder),
        "envoy": lambda: plain_envoy(upstream, folder),
        "gateway, bare": lambda: ours("gateway, bare", upstream, folder, client_keys="none", accounts="off"),
        "gateway, counting": lambda: ours("gateway, counting", upstream, folder, client_keys="none", accounts="on"),
        "gateway, everything": lambda: ours("gateway, everything", upstream, folder, **full),
        "vllm-router": lambda: vllm_router(upstream, folder),
        "sglang-router": lambda: sglang_router(upstream, folder),
        "litellm": lambda: litellm(upstream, folder),
    }
    seen: dict[str, Rounds] = {}
    missing = []
    async with AsyncExitStack() as stack:
        proxies = [Proxy("direct", upstream, [])]
        for name, start in wanted.items():
            try:
                proxies.append(await stack.enter_async_context(start()))
            except (OSError, subprocess.CalledProcessError, AssertionError, StopIteration) as problem:
                missing.append(f"{name}: {problem}")
                print(f"left out {name}: {problem}", flush=True)
        for number in range(ROUNDS):
            for measure in MEASURES:
                for proxy in proxies:
                    mine = seen.setdefault(proxy.name, {})
                    if measure.stream and measure.connections > proxy.most_streams:
                        continue
                    one = await load.run(proxy, measure.connections, stream=measure.stream, seconds=measure.seconds)
                    mine.setdefault(measure.name, []).append(one)
                    print(
                        f"{number + 1}/{ROUNDS} {measure.name:12} {proxy.name:20} {one[measure.cost]:8.1f} µs",
                        flush=True,
                    )
    middle = {name: {measure: medians(each) for measure, each in mine.items()} for name, mine in seen.items()}
    return {"medians": middle, "left_out": missing, "rounds": seen}


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each number over the rounds."""
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


async def thousand_models(upstream: int, folder: Path) -> dict[str, Any]:
    """Measure memory, and how soon an endpoint change is live, with 1,000 models."""
    replicas = [await Replica(name).start() for name in ("first", "second")]
    async with gateway("thousand", upstream, folder, 1000, client_keys="none", patience=30) as rig:
        assert rig.envoy
        assert rig.agent
        delays = []
        for number in range(100):
            one = replicas[number % 2]
            begin = time.perf_counter()
            rig.api.put(endpoint_slice("t", "m500", one.port, name=f"m500-{upstream}"))
            async with asyncio.timeout(30):
                while not await _answered_by(rig, one.name):
                    pass
            delays.append(time.perf_counter() - begin)
            await asyncio.sleep(0.15)
        found = {
            "envoy_mb": megabytes(rig.envoy.pid),
            "agent_mb": megabytes(rig.agent.pid),
            "endpoint_change_ms": _percentiles(delays),
        }
    for one in replicas:
        await one.stop()
    return found


async def _answered_by(rig: Rig, name: str) -> bool:
    return bool((await rig.ask("t/m500"))[1]["choices"][0]["message"].get("content") == name)


async def held(upstream: int, folder: Path) -> dict[str, Any]:
    """Measure how soon held requests get their first byte after a replica is ready: five times 100 requests."""
    delays: list[float] = []
    async with gateway("held", upstream, folder, client_keys="none") as rig:
        for number in range(5):
            key = await rig.serve(f"held-{number}")
            waiting = [asyncio.create_task(_first_byte(rig, key)) for _ in range(100)]

            async def all_wait(key: str = key) -> bool:
                return bool((await rig.load())["models"][key]["held"] == 100)

            await until(all_wait, "100 requests wait")
            one = Replica()
            one.port = upstream
            ready = time.perf_counter()
            rig.replicas(key, one)
            delays += [moment - ready for moment in await asyncio.gather(*waiting)]
    return {"first_byte_after_ready_ms": _percentiles(delays)}


async def _first_byte(rig: Rig, key: str) -> float:
    """Return when the first byte of an answer came; without an HTTP client, which would cost more than the gateway."""
    body = json.dumps(rig.body(key, stream=True))
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    first = await reader.read(64)
    moment = time.perf_counter()
    writer.close()
    assert first.startswith(b"HTTP/1.1 200")
    return moment


async def saturation(upstream: int, slow_upstream: int, load: Load, folder: Path) -> dict[str, Any]:
    """Find the saturation of the full gateway, run at 70 % of it, and hold 5,000 streams."""
    async with gateway("full", upstream, folder, client_keys="required", accounts="on") as rig:
        assert rig.envoy
        proxy = Proxy("full", rig.port, [rig.envoy.pid], KEY)
        most = await load.run(proxy, 64, stream=False)
        rate = 0.7 * most["requests"] / most["seconds"]
        steady = await load.run(proxy, 256, stream=False, rate=rate, seconds=15)
        before = megabytes(rig.envoy.pid)
        replica = Replica()
        replica.port = slow_upstream
        await rig.serve("slow", replica)
        slow = Proxy("slow", rig.port, [rig.envoy.pid], KEY, "t/slow")
        client = asyncio.create_task(load.run(slow, 5000, stream=True, seconds=20))
        top = before
        while not client.done():
            await asyncio.sleep(0.5)
            top = max(top, megabytes(rig.envoy.pid))
        streams = client.result()
    return {
        "requests_per_second": most["requests"] / most["seconds"],
        "at_70_percent": {"rate": rate, "requests": steady["requests"], "errors": steady["errors"],
                          "answer_p99_us": steady["answer_p99_us"]},
        "streams_5000": {"envoy_mb_before": before, "envoy_mb": top, "errors": streams["errors"],
                         "tokens": streams["tokens"]},
    }  # fmt: skip


def _percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {"p50": 1000 * ordered[len(ordered) // 2], "p99": 1000 * ordered[int((len(ordered) - 1) * 0.99)]}
