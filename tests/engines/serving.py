"""Starts real serving pods without a cluster: Triton with our model, and the OpenAI frontend, on loopback.

Triton and the small chat model are the wheels that the local images are made of, installed once per lock file.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ax_engines.contract import ChatFacts, Manifest, ModelConfig, ServingOptions
from local.wheels import installed

ROOT = Path(__file__).parents[2]
ENGINE = "smollm2-0123456789"
TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- for tool in tools %}
        {{- tool | tojson + '\n' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>' + call.function | tojson + '</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
SMOLLM2 = ModelConfig(
    architecture="LlamaForCausalLM",
    num_hidden_layers=30,
    hidden_size=576,
    intermediate_size=1536,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    vocab_size=49152,
    max_position_embeddings=8192,
)


def write_engine(store: Path, *, weights: bool = True, template: str = TEMPLATE, name: str = ENGINE) -> Path:
    """Write an engine folder as the build publishes it and return it."""
    folder = store / name
    folder.mkdir(parents=True)
    if weights:
        (folder / "model.gguf").symlink_to(next(installed("smollm2").rglob("*.gguf")))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    manifest = Manifest(
        engine=name,
        artifact="gguf",
        quantization="none",
        revision="test",
        architecture=SMOLLM2.architecture,
        files=(),
        chat=ChatFacts(
            template=True,
            bos_token="<|im_start|>",
            eos_token="<|im_end|>",
            context_length=SMOLLM2.max_position_embeddings,
            vocab_size=SMOLLM2.vocab_size,
        ),
        config=SMOLLM2,
    )
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return folder


def free_ports(count: int) -> list[int]:
    """Return loopback ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass
class Process:
    """A program of a pod, with its output in a file."""

    popen: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        """Return what it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self, seconds: float = 20) -> int:
        """End it with SIGTERM, then SIGKILL; return its exit status."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        return self.popen.returncode


@dataclass
class Pod:
    """A serving pod without a cluster."""

    options: ServingOptions
    run: Path
    store: Path
    triton_ports: list[int]
    frontend_ports: list[int]
    env: Mapping[str, str] = field(default_factory=dict)
    triton: Process | None = None
    frontend: Process | None = None

    @property
    def url(self) -> str:
        """The frontend's address."""
        return f"http://127.0.0.1:{self.frontend_ports[0]}"

    @property
    def metrics_url(self) -> str:
        """The frontend's metrics page, which includes Triton's."""
        return f"http://127.0.0.1:{self.frontend_ports[1]}/metrics"

    @property
    def triton_url(self) -> str:
        """Triton's HTTP address."""
        return f"http://127.0.0.1:{self.triton_ports[0]}"

    def environment(self) -> dict[str, str]:
        """The environment of both containers."""
        return {
            **os.environ,
            "AX_SERVING": self.options.to_json(),
            "AX_STORE": str(self.store),
            "AX_RUN": str(self.run),
            "AX_TRITON_PORTS": ",".join(map(str, self.triton_ports)),
            "AX_FRONTEND_PORTS": ",".join(map(str, self.frontend_ports)),
            **self.env,
        }

    def start_triton(self) -> Process:
        """Start the launcher with the locked packages; it becomes Triton."""
        paths = [str(ROOT / "engines"), str(installed("triton")), str(ROOT / "tests" / "engines")]
        command = [sys.executable, "-s", "-m", "ax_engines.triton"]
        self.triton = self._spawn(command, "triton", {"PYTHONPATH": os.pathsep.join(paths)}, isolated=True)
        return self.triton

    def start_frontend(self) -> Process:
        """Start the frontend."""
        command = [sys.executable, "-m", "ax_engines.openai"]
        self.frontend = self._spawn(command, "frontend", {}, isolated=False)
        return self.frontend

    def _spawn(self, command: list[str], name: str, extra: dict[str, str], *, isolated: bool) -> Process:
        log = self.run / f"{name}.log"
        environment = {**self.environment(), **extra}
        if isolated:
            # The embedded Python of Triton's stub takes its packages from the first python3 of PATH.
            programs = Path(sys.base_prefix) / "bin"
            command = [str(programs / "python3"), *command[1:]]
            environment["PATH"] = os.pathsep.join((str(programs), os.defpath))
        with log.open("wb") as out:
            popen = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        return Process(popen, log)

    def wait_until(self, url: str, process: Process, seconds: float = 60) -> None:
        """Poll until the address answers 200; raises with the log when the process ends or time is up."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if process.popen.poll() is not None:
                raise RuntimeError(f"it ended with {process.popen.returncode}:\n{process.text()}")
            if status(url) == 200:
                return
            time.sleep(0.05)
        raise TimeoutError(f"{url} did not answer 200 in {seconds} s:\n{process.text()}")

    def start(self) -> None:
        """Start both and wait until the frontend is ready."""
        frontend, triton = self.start_frontend(), self.start_triton()
        try:
            self.wait_until(f"{self.url}/health/ready", frontend)
        except TimeoutError as error:
            raise RuntimeError(f"Triton said:\n{triton.text()}") from error

    def stub(self) -> int:
        """Return the process id of Triton's Python stub, in which the engine runs."""
        if self.triton is None:
            raise RuntimeError("Triton was not started")
        pid = self.triton.popen.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def kill_triton(self) -> None:
        """End Triton and its stub at once, as a container that is killed ends."""
        pids = [self.stub(), self.triton.popen.pid] if self.triton else []
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End both, the frontend first as Kubernetes does with a native sidecar."""
        for process in (self.frontend, self.triton):
            if process:
                process.stop()


def status(url: str) -> int:
    """Return an address's HTTP status, 0 when nobody listens."""
    try:
        with closing(urllib.request.urlopen(url, timeout=5)) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


def page(url: str) -> str:
    """Return an address's text."""
    with closing(urllib.request.urlopen(url, timeout=10)) as response:
        return str(response.read().decode())


def until(true: Callable[[], Any], seconds: float = 30) -> None:
    """Wait until something is true; raises TimeoutError."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"it did not become true in {seconds:g} s")
        time.sleep(0.01)


@dataclass(frozen=True)
class Reply:
    """An answer of the frontend."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body's JSON."""
        return json.loads(self.body)


def post(url: str, body: object, headers: Mapping[str, str] | None = None, seconds: float = 60) -> Reply:
    """Post bytes, or anything else as JSON; a status of 400 and above is an answer too."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    try:
        with closing(urllib.request.urlopen(request, timeout=seconds)) as response:
            return Reply(response.status, dict(response.headers), response.read())
    except urllib.error.HTTPError as error:
        with closing(error):
            return Reply(error.code, dict(error.headers), error.read())


@contextmanager
def pod(folder: Path, env: Mapping[str, str] | None = None, **options: object) -> Iterator[Pod]:
    """Run a pod that is not started yet; everything it started is ended afterwards."""
    run, store = folder / "run", folder / "store"
    run.mkdir(parents=True)
    store.mkdir()
    settings: dict[str, object] = {
        "model": "demo/smollm2",
        "served_names": ("smollm2",),
        "engine": ENGINE,
        "backend": "llamacpp",
        "slots": 4,
        "queue": 16,
        "context_length": 1024,
    }
    ports = free_ports(5)
    one = Pod(ServingOptions.model_validate(settings | options), run, store, ports[:3], ports[3:], dict(env or {}))
    try:
        yield one
    finally:
        one.stop()
