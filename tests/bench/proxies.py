"""The proxies that are compared, each as a running program in front of one upstream."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ax_operator.api.names import CLIENT_KEY
from tests.bench.processes import PROXY_CORE, Proxy, answers, process
from tests.gateway.replica import Replica
from tests.gateway.rig import Rig, envoy_binary, free_port

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ax-operator" / "bench"
KEY = "sk-bench-" + "k" * 40
NETWORK = "type.googleapis.com/envoy.extensions.filters.network"
PACKAGES = {"litellm": "litellm[proxy]==1.106.2", "sglang-router": "sglang-router==0.3.2",
            "vllm-router": "vllm-router==0.1.17"}  # fmt: skip


@asynccontextmanager
async def plain_envoy(upstream: int, folder: Path) -> AsyncIterator[Proxy]:
    port = free_port()
    manager = {
        "@type": f"{NETWORK}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plain",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s"}}]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    }  # fmt: skip
    http = "envoy.filters.network.http_connection_manager"
    place = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}}}
    limits = {"max_connections": 100_000, "max_requests": 100_000, "max_pending_requests": 100_000}
    config = {"static_resources": {
        "listeners": [{"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                       "filter_chains": [{"filters": [{"name": http, "typed_config": manager}]}]}],
        "clusters": [{"name": "up", "type": "STATIC", "circuit_breakers": {"thresholds": [limits]},
                      "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [place]}]}}],
    }}  # fmt: skip
    path = folder / "plain.json"
    path.write_text(json.dumps(config))
    command = [str(envoy_binary()), "-c", str(path), "--concurrency", "1", "-l", "error", "--disable-hot-restart"]
    async with process(*command, core=PROXY_CORE) as pid:
        await answers(port)
        yield Proxy("envoy", port, [pid])


@asynccontextmanager
async def nginx(upstream: int, folder: Path) -> AsyncIterator[Proxy]:
    binary = shutil.which("nginx") or _debian("nginx", "usr/sbin/nginx")
    port, path = free_port(), folder / "nginx.conf"
    path.write_text(f"""
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log /dev/null;
events {{ worker_connections 20000; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  client_max_body_size 10m; client_body_buffer_size 64k; keepalive_requests 1000000;
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 1000; keepalive_requests 1000000; }}
  server {{ listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }}
}}""")
    async with process(binary, "-c", str(path), "-p", str(folder), core=PROXY_CORE) as pid:
        await answers(port)
        yield Proxy("nginx", port, [pid])


def _debian(package: str, inside: str) -> str:
    """Return a program out of a Debian package, unpacked into the cache and not installed."""
    folder = CACHE / package
    if not (folder / inside).exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True)
        archive = next(folder.glob("*.deb"))
        subprocess.run(["dpkg", "-x", str(archive), str(folder)], check=True)
    if not (folder / inside).exists():
        raise FileNotFoundError(f"{package} has no {inside}")
    return str(folder / inside)


def _python(name: str) -> Path:
    """Return the folder of programs of a Python package, installed into an environment of its own in the cache."""
    folder = CACHE / name
    if not (folder / "done").exists():
        print(f"installing {PACKAGES[name]} …", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["uv", "venv", "-q", "--python", sys.executable, str(folder)], check=True)
        python = str(folder / "bin" / "python")
        subprocess.run(["uv", "pip", "install", "-q", "--python", python, PACKAGES[name]], check=True)
        (folder / "done").touch()
    return folder / "bin"


@asynccontextmanager
async def litellm(upstream: int, folder: Path) -> AsyncIterator[Proxy]:
    programs, port, path = _python("litellm"), free_port(), folder / "litellm.yaml"
    parameters = {"model": "openai/bench", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "x"}
    path.write_text(json.dumps({"model_list": [{"model_name": "t/bench", "litellm_params": parameters}]}))
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR"}
    env["LITELLM_MASTER_KEY"] = KEY
    command = [str(programs / "litellm"), "--config", str(path), "--host", "127.0.0.1", "--port", str(port)]
    async with process(*command, core=PROXY_CORE, env=env) as pid:
        await answers(port, KEY)
        yield Proxy("litellm", port, [pid], KEY, most_streams=20)


@asynccontextmanager
async def sglang_router(upstream: int, _: Path) -> AsyncIterator[Proxy]:
    programs, port, metrics = _python("sglang-router"), free_port(), free_port()
    command = [
        str(programs / "python"),
        "-m",
        "sglang_router.launch_router",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command += ["--worker-urls", f"http://127.0.0.1:{upstream}", "--policy", "round_robin"]
    async with process(*command, "--prometheus-port", str(metrics), core=PROXY_CORE) as pid:
        await answers(port)
        yield Proxy("sglang-router", port, [pid])


@asynccontextmanager
async def vllm_router(upstream: int, _: Path) -> AsyncIterator[Proxy]:
    programs, port, metrics = _python("vllm-router"), free_port(), free_port()
    command = [str(programs / "vllm-router"), "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
    command += ["--worker-urls", f"http://127.0.0.1:{upstream}", "--prometheus-port", str(metrics)]
    async with process(*command, core=PROXY_CORE) as pid:
        await answers(port)
        yield Proxy("vllm-router", port, [pid])


def _pin(pid: int) -> None:
    """Move a running process to the proxies' core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {int(PROXY_CORE)})


@asynccontextmanager
async def gateway(name: str, upstream: int, folder: Path, models: int = 1, **settings: Any) -> AsyncIterator[Rig]:
    """Run our gateway with these models, of which `t/bench` is the first, all served by the upstream."""
    place = folder / name
    place.mkdir()
    rig = Rig(place, **settings)
    rig.concurrency = 1
    replica = Replica()
    replica.port = upstream
    try:
        if settings.get("client_keys") == "required":
            for number in range(100):
                rig.secret(f"client-{number}", {CLIENT_KEY: "true"}, key=KEY if not number else f"{KEY}-{number}")
            rig.session.headers["Authorization"] = f"Bearer {KEY}"
        for number in range(models):
            key = f"t/{'bench' if not number else f'm{number}'}"
            rig.replicas(key, replica)
            rig.model(key.partition("/")[2], servedNames=[f"bare-{number}"])
        await rig.start()
        await answers(rig.port, KEY if settings.get("client_keys") == "required" else "-")
        for running in (rig.envoy, rig.agent):
            assert running
            _pin(running.pid)
        yield rig
    finally:
        await rig.stop()


@asynccontextmanager
async def ours(name: str, upstream: int, folder: Path, **settings: Any) -> AsyncIterator[Proxy]:
    async with gateway(name, upstream, folder, **settings) as rig:
        assert rig.envoy
        assert rig.agent
        key = KEY if settings.get("client_keys") == "required" else "-"
        yield Proxy(name, rig.port, [rig.envoy.pid], key, aside=[rig.agent.pid])
