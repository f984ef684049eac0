"""What the tests of GPU pools put into the cluster: simulated nodes, a stand-in hub, a stand-in toolchain's image."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ax_engines.catalogue import load
from ax_engines.memory import weights_bytes
from ax_engines.tasks import TaskResult
from local import build, product
from local.cluster import Cluster
from local.kwok import COMPLETE_AFTER, MESSAGE, GpuNode, node_manifest
from local.layout import forget
from local.paths import ROOT, cache_dir
from tests.e2e.site import Site
from tests.engines.model_files import write_folder

Json = dict[str, Any]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_PORT = 8000
FAKE = "gpu-"
"""How the names of simulated nodes begin."""
STANDIN_IMAGE = "localhost/ax-standins:tests"


def _node(name: str, gpu: str, memory: int, major: int, minor: int) -> GpuNode:
    return {
        "name": name, "product": gpu, "memory": memory, "count": 8, "major": major, "minor": minor, "taint": True,
    }  # fmt: skip


NODES = (
    _node("gpu-h100", "NVIDIA-H100-80GB-HBM3", 81559, 9, 0),
    _node("gpu-a100", "NVIDIA-A100-SXM4-80GB", 81920, 8, 0),
    _node("gpu-l40s", "NVIDIA-L40S", 46068, 8, 9),
    _node("gpu-b200", "NVIDIA-B200", 183359, 10, 0),
)

REAL: GpuNode = {**_node("", "NVIDIA-L4", 23034, 8, 9), "count": 2}
"""What the real node pretends to have; its name is the cluster's."""


def toolchain(version: str) -> Json:
    """Return the chart's entry for TensorRT-LLM of a version, whose pods only simulated nodes run."""
    return {
        "name": "trtllm-1.2",
        "image": f"localhost/nobody:{version}",
        "backends": ["tensorrt", "pytorch", "transformers"],
        "tensorrtLlm": version,
        "gpu": True,
    }


def standins() -> Json:
    """Return the chart's entry for the stand-in toolchain, which real pods run."""
    return {
        "name": "standins",
        "image": STANDIN_IMAGE,
        "backends": ["tensorrt"],
        "tensorrtLlm": "1.2.1",
        "gpu": True,
        "examples": "/opt/standins/tests/standins/examples",
    }


def standin_image() -> Path:
    """Build the stand-in toolchain's image where its files changed; return its OCI layout."""
    sources = [ROOT / p for p in ("engines/ax_engines", "tests/standins", "tests/data/trtllm", "tests/engines")]
    base = build.wheels_image("triton", build.base_image())
    digest = hashlib.sha256(base.encode())
    for folder in sources:
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            digest.update(path.name.encode() + path.read_bytes())
    target = cache_dir() / "images" / f"ax-standins-tests-{digest.hexdigest()[:12]}"
    if not target.exists():
        with build.store():
            for old in sorted(target.parent.glob("ax-standins-tests-*"), key=lambda p: p.stat().st_mtime)[:-2]:
                forget(old, target.parent / "blobs")
        containerfile = ROOT / "tests" / "standins" / "Containerfile"
        build.layout(containerfile, STANDIN_IMAGE, base, sources, target, target.parent / "blobs")
    return target


def tiny_model(folder: Path) -> dict[str, Path]:
    """Write a tiny Qwen2's files, whose template says just what the messages say; return them by name."""
    write_folder(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE, "eos_token": "</s>"}))
    return {p.name: p for p in folder.iterdir()}


def pretend_gpus(cluster: Cluster, gpus: GpuNode | None) -> None:
    """Label the real node as if it had GPUs, with as much capacity; None takes both away again."""
    simulated = node_manifest(gpus or REAL)
    labels = {k: v if gpus else None for k, v in simulated["metadata"]["labels"].items() if k.startswith("nvidia.com/")}
    count = {"nvidia.com/gpu": str(gpus["count"]) if gpus else None}
    patch = ("patch", "node", cluster.node, "--type=merge")
    cluster.kubectl(*patch, "-p", json.dumps({"metadata": {"labels": labels}}))
    capacity = {"status": {"capacity": count, "allocatable": count}}
    cluster.kubectl(*patch, "--subresource=status", "-p", json.dumps(capacity))


# --- the hub ---

_HUB = """
import json, pathlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
REPOS = json.loads(pathlib.Path("/hub/repos.json").read_text())

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        parts = self.path.partition("?")[0].strip("/").split("/")
        api = parts[0] == "api"
        repo = REPOS.get("/".join(parts[2:4] if api else parts[:2]))
        if repo is None:
            body, status = b"", 404
        elif api:
            rows = [{"rfilename": n, "size": f["size"], "blobId": "0"} for n, f in repo["files"].items()]
            body, status = json.dumps({"id": repo["id"], "sha": repo["sha"], "siblings": rows}).encode(), 200
        else:
            body, status = bytes.fromhex(repo["files"]["/".join(parts[4:])]["hex"]), 200
        wanted = self.headers.get("Range")
        self.send_response(206 if wanted and status == 200 else status)
        if wanted and status == 200:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            whole, start = len(body), int(first)
            body = body[start : int(last) + 1 if last else whole]
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{whole}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""


def hub_url(namespace: str) -> str:
    """Return the endpoint of a namespace's hub."""
    return f"http://hub.{namespace}.svc.cluster.local:{HUB_PORT}"


def start_hub(cluster: Cluster, namespace: str) -> None:
    """Run a stand-in hub with the catalogue's A.X models: real shapes and sizes, hardly any bytes.

    Weights have the size that the shape comes to and no content, since nothing but simulated pods fetches them;
    only the one model that no pool compiles has a small whole file.
    """
    repos = {e.hub_id: _repo(e.name) for e in load().values() if e.name.startswith("A.X")}
    labels = {"app": "hub"}
    config = {"hub.py": _HUB, "repos.json": json.dumps(repos)}
    pod = product.python_pod(("python3", "/hub/hub.py"), "/hub", {"configMap": {"name": "hub"}}, HUB_PORT)
    objects: list[Json] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "data": config},
        {"apiVersion": "v1", "kind": "Service", "spec": {"selector": labels, "ports": [{"port": HUB_PORT}]}},
        {"apiVersion": "v1", "kind": "Pod", "spec": pod},
    ]
    for each in objects:
        each["metadata"] = {"name": "hub", "namespace": namespace, "labels": labels}
    items = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    cluster.kubectl("apply", "--server-side", "-f", "-", input=items)
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "--timeout=60s", "pod/hub")


def _repo(name: str) -> Json:
    entry = load()[name]
    assumed = entry.assumed_config()
    config = {
        "architectures": [assumed.architecture],
        **assumed.model_dump(exclude={"architecture", "dtype", "quantization", "vision", "rope_scaling"}),
        "torch_dtype": assumed.dtype,
        "rope_scaling": assumed.rope_scaling,
    }
    small = bool(entry.multimodal.value)
    if small:
        config |= {"architectures": ["AXVisionForCausalLM"], "vision_config": {"image_size": 336}}
    weights = safetensors() if small else b""
    files = {
        "config.json": json.dumps(config).encode(),
        "tokenizer_config.json": json.dumps({"chat_template": TEMPLATE, "eos_token": "</s>"}).encode(),
        "model.safetensors": weights,
    }
    if small:
        files["modeling_ax.py"] = b"# code of the repository\n"
    sizes = {n: len(data) for n, data in files.items()}
    sizes["model.safetensors"] = len(weights) or weights_bytes(assumed)
    told = {n: {"size": sizes[n], "hex": data.hex()} for n, data in files.items()}
    return {"id": entry.hub_id, "sha": COMMIT, "files": told}


TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def safetensors() -> bytes:
    """Return a small whole safetensors file."""
    header = json.dumps({"weight": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(8)


# --- simulated pods ---


def complete_builds(site: Site, done: TaskResult) -> None:
    """Let every build pod on a simulated node end well, with this as its last word."""
    for pod in site.pods("build"):
        notes = pod["metadata"].get("annotations") or {}
        if pod["spec"].get("nodeName", "").startswith(FAKE) and COMPLETE_AFTER not in notes:
            told = (f"{COMPLETE_AFTER}=1s", f"{MESSAGE}={done.to_json()}")
            site.kubectl("annotate", "pod", pod["metadata"]["name"], *told)
