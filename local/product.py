"""Puts the product onto a local cluster, as a user would onto his own: images, chart, a claim with a model.

Shared by the demo and the tests with pods, so that both install what `helm install` installs.
"""

import http.client
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from local import images
from local.binaries import client
from local.cluster import Cluster
from local.errors import LocalError
from local.paths import ROOT
from local.progress import step

NAMESPACE = "ax-system"
RELEASE = "ax"
MODEL_FILE = "SmolLM2-135M-Instruct.gguf"
USER = 65532


def load_images(cluster: Cluster, names: Sequence[str] = ()) -> None:
    """Build what changed of the product's images, and bring onto the node what it lacks."""
    archives = images.build_all(names)
    cluster.load_images(list(archives.values()))


def values() -> dict[str, Any]:
    """Return the chart's values for a local cluster: images of this machine, plain HTTP said aloud, both ways."""
    return {
        "image": {"registry": "localhost", "pullPolicy": "IfNotPresent"},
        "toolchains": [{"name": "cpu", "image": images.reference("ax-triton"), "backends": ["llamacpp"]}],
        "engineStore": {"size": "2Gi", "accessMode": "ReadWriteMany"},
        "gateway": {
            "envoy": {"image": images.reference("ax-envoy")},
            "tls": {"insecure": True},
            "clientKeys": "none",
            "bareNames": ["*"],
            "hosted": {"plainHttp": True},
        },
    }


def install(cluster: Cluster, extra: Mapping[str, Any] | None = None, *, patience: float = 180) -> None:
    """Install or upgrade the chart and wait until operator and gateway are ready; namespaces enforce `restricted`."""
    namespace(cluster, NAMESPACE)
    merged = _merged(values(), extra or {})
    path = cluster.folder / "values.json"
    path.write_text(json.dumps(merged, indent=1))
    cluster.helm(
        "upgrade", "--install", RELEASE, str(ROOT / "charts" / "ax-operator"), "--namespace", NAMESPACE,
        "--values", str(path), "--wait", "--timeout", f"{patience:.0f}s",
    )  # fmt: skip


def namespace(cluster: Cluster, name: str) -> None:
    """Make a namespace in which PodSecurity enforces `restricted`."""
    manifest = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    cluster.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(manifest))


def model_claim(cluster: Cluster, where: str, files: Mapping[str, Path], claim: str = "models") -> None:
    """Make a claim and copy files onto it through a pod, as one does on a cluster without shared folders."""
    cluster.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(_claim(where, claim)))
    pod = f"{claim}-loader"
    cluster.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(_loader(where, claim, pod)))
    cluster.kubectl("-n", where, "wait", "--for=condition=Ready", "--timeout=90s", f"pod/{pod}")
    for name, path in files.items():
        script = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, open(sys.argv[1], 'wb'), 1 << 20)"
        command = [
            str(client("kubectl")), "--kubeconfig", str(cluster.kubeconfig), "-n", where, "exec", "-i", pod, "--",
            "python3", "-c", script, f"/models/{name}",
        ]  # fmt: skip
        with path.open("rb") as source:
            done = subprocess.run(command, stdin=source, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LocalError(f"Copying {name} onto claim {claim} failed: {done.stderr.strip()[-500:]}")
    cluster.kubectl("-n", where, "delete", "pod", pod, "--wait=false", "--grace-period=0", "--force")


def _claim(where: str, claim: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": claim, "namespace": where},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }


def _loader(where: str, claim: str, pod: str) -> dict[str, Any]:
    wait = ("python3", "-c", "import signal; signal.pause()")
    spec = python_pod(wait, "/models", {"persistentVolumeClaim": {"claimName": claim}}, restartPolicy="Never")
    spec["securityContext"]["fsGroup"] = USER
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "namespace": where}, "spec": spec}


def python_pod(
    command: Sequence[str], at: str, volume: Mapping[str, Any], port: int | None = None, **more: Any
) -> dict[str, Any]:
    """Return the spec of a restricted pod that runs Python in our image, with one volume.

    It is ready when `port` answers, if there is one; `more` are fields of the pod.
    """
    container: dict[str, Any] = {
        "name": "python",
        "image": images.reference("ax-engines"),
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "files", "mountPath": at}],
    }
    if port is not None:
        container["readinessProbe"] = {"tcpSocket": {"port": port}, "periodSeconds": 1}
    return {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": USER, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "files", **volume}],
        **more,
    }


def model(cluster: Cluster, where: str, name: str) -> dict[str, Any]:
    """Return an AXModel; an empty dict if there is none."""
    text = cluster.kubectl("-n", where, "get", "axmodel", name, "-o", "json", "--ignore-not-found")
    found: dict[str, Any] = json.loads(text) if text.strip() else {}
    return found


def ready_replicas(cluster: Cluster, where: str, name: str) -> int:
    """Return how many replicas of an AXModel are ready."""
    return int((model(cluster, where, name).get("status") or {}).get("readyReplicas") or 0)


def condition(obj: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return a condition of an object; an empty dict if it has none of that type."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((dict(c) for c in conditions if c["type"] == kind), {})


def wait_ready(cluster: Cluster, where: str, name: str, *, patience: float = 180) -> dict[str, Any]:
    """Wait until an AXModel is Ready, showing what its condition says; raises LocalError with the last message."""
    until = time.monotonic() + patience
    with step(f"Waiting for AXModel {where}/{name}") as shown:
        while time.monotonic() < until:
            found = model(cluster, where, name)
            ready = condition(found, "Ready")
            if ready.get("status") == "True":
                return found
            shown.at(f"{ready.get('reason', 'New')}: {ready.get('message', '')}"[:100])
            time.sleep(0.3)
    raise LocalError(f"AXModel {name} is not Ready after {patience:.0f} s: {shown.detail}")


def until(what: str, probe: Callable[[], bool], *, patience: float = 60, pause: float = 0.2) -> None:
    """Wait until a probe says yes; raises LocalError naming what did not come."""
    limit = time.monotonic() + patience
    while not probe():
        if time.monotonic() > limit:
            raise LocalError(f"{what} did not come within {patience:.0f} s")
        time.sleep(pause)


def gateway_address(cluster: Cluster) -> tuple[str, int]:
    """Return the address at which the gateway's Service answers from this machine."""
    text = cluster.kubectl("-n", NAMESPACE, "get", "service", "-l", "app.kubernetes.io/component=gateway", "-o", "json")
    spec = json.loads(text)["items"][0]["spec"]
    return str(spec["clusterIP"]), int(spec["ports"][0]["port"])


def chat(
    address: tuple[str, int], model_name: str, question: str, *, patience: float = 120
) -> tuple[str, Iterator[str]]:
    """Ask a question; return who answers (`onprem`, `hosted`) and the answer's pieces as they stream in.

    Raises LocalError unless it is a 200.
    """
    body = {
        "model": model_name,
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "max_tokens": 60,
        "temperature": 0,
    }
    connection = http.client.HTTPConnection(*address, timeout=patience)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != http.client.OK:
        told = answer.read(2000).decode(errors="replace")
        connection.close()
        raise LocalError(f"the gateway answered {answer.status}: {told}")
    return answer.headers["x-ax-served-by"], _pieces(connection, answer)


def _pieces(connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> Iterator[str]:
    with closing(connection):
        for line in answer:
            data = line.removeprefix(b"data: ").strip()
            if not line.startswith(b"data: ") or data == b"[DONE]":
                continue
            for choice in json.loads(data).get("choices") or ():
                yield choice["delta"].get("content") or ""


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(low)
    for key, value in high.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _merged(out[key], value) if both else value
    return out
